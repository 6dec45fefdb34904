//! The backward pass of gates and experts. Choices are sorted once, then products take them expert by
//! expert, and each token's sum is taken in the order of its own choices.

use super::{Fields, Worker};
use crate::gate::Score;
use crate::training::elementwise::{add_scaled, dot, swiglu, swiglu_backward};
use crate::training::gate::{add_fractions, GateSlopes, Share};
use crate::training::losses::{CLOCK_LOSS_SCALE, TOTAL_BALANCE};

impl Worker<'_> {
    /// Sorts the choices by expert, of one expert by row, as the forward pass does.
    pub unsafe fn sort_experts(&self, f: &mut Fields) {
        let rows = f.size();
        let (ids, weights, top_k) = (f.at::<i32>(), f.at::<f32>(), f.size());
        let (experts, scale) = (f.size(), f.float());
        // [experts + 1], then [rows * top_k] each.
        let (starts, order, tokens) = (f.at_mut::<u32>(), f.at_mut::<u32>(), f.at_mut::<u32>());
        let (factors, places) = (f.at_mut::<f32>(), f.at_mut::<u32>());
        if !self.is_first() {
            return;
        }
        let pairs = rows * top_k;
        core::ptr::write_bytes(starts, 0, experts + 1);
        for pair in 0..pairs {
            let id = *ids.add(pair) as usize;
            assert!(id < experts, "an expert id is out of range");
            *starts.add(id + 1) += 1;
        }
        for e in 0..experts {
            *starts.add(e + 1) += *starts.add(e);
        }
        for pair in 0..pairs {
            // Each expert's start moves on to the next one's, and back below.
            let start = starts.add(*ids.add(pair) as usize);
            let at = *start as usize;
            *start += 1;
            *order.add(at) = pair as u32;
            *tokens.add(at) = (pair / top_k) as u32;
            *factors.add(at) = scale * *weights.add(pair);
            *places.add(pair) = at as u32;
        }
        for e in (0..experts).rev() {
            *starts.add(e + 1) = *starts.add(e);
        }
        *starts = 0;
    }

    /// From the gradients of the experts' activations, before the gate's weights, to those of gate and
    /// up, in place, and of the gate's weights; leaves the activations.
    pub unsafe fn expert_slopes(&self, f: &mut Fields) {
        let pairs = f.size();
        let (order, factors, scale) = (f.at::<u32>(), f.at::<f32>(), f.float());
        let (middle, gate, up) = (f.at_mut::<f32>(), f.at_mut::<f32>(), f.at_mut::<f32>());
        let (activations, width) = (f.at_mut::<f32>(), f.size());
        let weights_gradient = f.at_mut::<f32>();
        for i in self.tasks(pairs) {
            let [slopes, g, u, a] = [middle, gate, up, activations].map(|base| base.add(i * width));
            swiglu(g, u, a, width);
            let pair = *order.add(i) as usize;
            *weights_gradient.add(pair) = scale * dot(slopes, a, width);
            let factor = *factors.add(i);
            for c in 0..width {
                *slopes.add(c) *= factor;
            }
            swiglu_backward((g, u), slopes, (g, u), width);
        }
    }

    /// out[t] (+)= sum over its choices of their rows
    pub unsafe fn expert_gather(&self, f: &mut Fields) {
        let rows = f.size();
        let (top_k, places, from) = (f.size(), f.at::<u32>(), f.at::<f32>());
        let (width, out, accumulate) = (f.size(), f.at_mut::<f32>(), f.word() != 0);
        for row in self.tasks(rows) {
            let to = out.add(row * width);
            if !accumulate {
                core::ptr::write_bytes(to, 0, width);
            }
            for j in 0..top_k {
                let at = *places.add(row * top_k + j) as usize;
                add_scaled(1.0, from.add(at * width), to, width);
            }
        }
    }

    pub unsafe fn keeping_experts(&self, f: &mut Fields) {
        let rows = f.size();
        let kept = [f.at_mut::<f32>(), f.at_mut::<f32>()];
        let answers = f.word() != 0;
        self.experts_of(rows, f, Some(kept), answers);
    }

    pub unsafe fn gate_slopes(&self, f: &mut Fields) {
        let rows = f.size();
        let (logits, padded) = (f.at_mut::<f32>(), f.size());
        let slopes = GateSlopes {
            experts: f.size(),
            top_k: f.size(),
            score: Score::of(f.word()),
            normalise: f.word() != 0,
            scale: f.float(),
        };
        let (ids, gradient) = (f.at::<i32>(), f.at::<f32>());
        // 0 for none, 1 over sequences, 2 over all rows that count.
        let balance = f.word();
        let (row_weights, positions) = (f.at::<f32>(), f.at::<i32>());
        let (clock, totals, losses) = (f.at::<f32>(), f.at_mut::<f32>(), f.at_mut::<f32>());

        let experts = slopes.experts;
        let scores = self.scratch() as *mut f32;
        let fractions = scores.add(experts);
        let shape = |count| (experts, slopes.top_k, count);
        let add = |row: usize, count: usize| {
            add_fractions(ids.add(row * slopes.top_k), shape(count), fractions);
        };
        let run = |row: usize| {
            let share = (balance != 0 && *row_weights.add(row) != 0.0).then(|| Share {
                fractions,
                weight: *row_weights.add(row),
                factor: *row_weights.add(row) * *clock.add(CLOCK_LOSS_SCALE),
            });
            let (ids, gradient) = (
                ids.add(row * slopes.top_k),
                gradient.add(row * slopes.top_k),
            );
            let loss = slopes.row(logits.add(row * padded), scores, ids, gradient, share);
            if balance != 0 {
                *losses.add(row) = loss;
            }
        };
        match balance {
            1 => {
                let begins = |row: &usize| *positions.add(*row) == 0;
                let count = (0..rows).filter(begins).count();
                for sequence in self.tasks(count) {
                    let start = (0..rows).filter(begins).nth(sequence).unwrap_or(0);
                    let end = (start + 1..rows).find(begins).unwrap_or(rows);
                    core::ptr::write_bytes(fractions, 0, experts);
                    (start..end).for_each(|row| add(row, end - start));
                    (start..end).for_each(run);
                }
            }
            2 => {
                let counts = |row: &usize| *row_weights.add(*row) != 0.0;
                let count = (0..rows).filter(counts).count();
                core::ptr::write_bytes(fractions, 0, experts);
                (0..rows).filter(counts).for_each(|row| add(row, count));
                self.tasks(rows).for_each(run);
            }
            _ => self.tasks(rows).for_each(run),
        }
        if balance == 0 {
            return;
        }
        self.context.barrier(|| {});
        if self.is_first() {
            let sum: f64 = (0..rows).map(|row| *losses.add(row) as f64).sum();
            *totals.add(TOTAL_BALANCE) += sum as f32;
        }
    }
}
