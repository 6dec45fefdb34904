//! Ops at the end of a step.

use super::{Fields, Worker};
use crate::sync::Round;
use crate::training::updates::{gradient_squares, zero, Preparation, Rule, Table, Update, APPLIES};

impl Fields {
    unsafe fn table(&mut self) -> Table {
        Table {
            tensors: self.at(),
            count: self.size(),
            chunks: self.size(),
        }
    }
}

impl Worker<'_> {
    pub unsafe fn zero(&self, f: &mut Fields) {
        let _rows = f.size();
        let table = f.table();
        for chunk in self.tasks(table.chunks) {
            zero(&table.chunk(chunk));
        }
    }

    pub unsafe fn prepare_update(&self, f: &mut Fields) {
        let _rows = f.size();
        let table = f.table();
        let (squares, clock) = (f.at_mut::<f32>(), f.at_mut::<f32>());
        let preparation = Preparation {
            max_norm: f.float(),
            beta1: f.float(),
            beta2: f.float(),
            growth: f.float(),
            backoff: f.float(),
            interval: f.float(),
        };
        for chunk in self.tasks(table.chunks) {
            *squares.add(chunk) = gradient_squares(&table.chunk(chunk));
        }
        self.context.barrier(|| {});
        if self.is_first() {
            let sum = (0..table.chunks)
                .map(|chunk| *squares.add(chunk) as f64)
                .sum();
            preparation.run(sum, clock);
        }
    }

    pub unsafe fn update(&self, f: &mut Fields) {
        let _rows = f.size();
        let table = f.table();
        let kind = f.word();
        let (a, b, eps) = (f.float(), f.float(), f.float());
        let rule = match kind {
            0 => Rule::Adamw {
                beta1: a,
                beta2: b,
                eps,
            },
            1 => Rule::Lamb {
                beta1: a,
                beta2: b,
                eps,
            },
            _ => Rule::Lars {
                momentum: a,
                trust: b,
                eps,
            },
        };
        let update = Update {
            rule,
            table,
            clock: f.at(),
            norms: f.at_mut(),
        };
        if *update.clock.add(APPLIES) == 0.0 {
            return;
        }
        if update.measures() {
            for chunk in self
                .context
                .tasks(Round::Prepare, table.chunks, self.thread)
            {
                update.measure(chunk);
            }
            self.context.barrier(|| {});
        }
        for chunk in self.tasks(table.chunks) {
            update.apply(chunk);
        }
    }

    pub unsafe fn count_experts(&self, f: &mut Fields) {
        let rows = f.size();
        let (ids, top_k) = (f.at::<i32>(), f.size());
        let (counted, counts, experts) = (f.at::<f32>(), f.at_mut::<f32>(), f.size());
        if !self.is_first() {
            return;
        }
        for row in (0..rows).filter(|row| *counted.add(*row) != 0.0) {
            for j in 0..top_k {
                let id = *ids.add(row * top_k + j) as usize;
                assert!(id < experts, "an expert id is out of range");
                *counts.add(id) += 1.0;
            }
        }
    }

    pub unsafe fn update_bias(&self, f: &mut Fields) {
        let _rows = f.size();
        let (bias, experts) = (f.at_mut::<f32>(), f.size());
        let (counts, rate) = (f.at::<f32>(), f.at::<f32>());
        if !self.is_first() {
            return;
        }
        let sum: f32 = (0..experts).map(|e| *counts.add(e)).sum();
        let mean = sum / experts as f32;
        for e in 0..experts {
            let difference = mean - *counts.add(e);
            if difference != 0.0 {
                *bias.add(e) += *rate * difference.signum();
            }
        }
    }
}
