//! Ops of losses.

use super::{Fields, Worker};
use crate::training::losses::{entropy, log_prob, log_prob_backward, Policy, Tokens};

impl Fields {
    unsafe fn tokens(&mut self, rows: usize) -> Tokens {
        Tokens {
            rows,
            log_probs: self.at(),
            weights: self.at(),
            gradient: self.at_mut(),
            clock: self.at(),
            totals: self.at_mut(),
        }
    }
}

impl Worker<'_> {
    pub unsafe fn token_log_probs(&self, f: &mut Fields) {
        let rows = f.size();
        let (logits, width) = (f.at::<f32>(), f.size());
        let (targets, temperature) = (f.at::<i32>(), f.float());
        let (out, entropies) = (f.at_mut::<f32>(), f.at_mut::<f32>());
        for row in self.tasks(rows) {
            let from = logits.add(row * width);
            let target = *targets.add(row) as usize;
            assert!(target < width, "a target is out of range");
            *out.add(row) = log_prob(from, width, target, temperature);
            if !entropies.is_null() {
                *entropies.add(row) = entropy(from, width, temperature);
            }
        }
    }

    pub unsafe fn token_backward(&self, f: &mut Fields) {
        let rows = f.size();
        let (logits, width) = (f.at::<f32>(), f.size());
        let (targets, temperature) = (f.at::<i32>(), f.float());
        let (gradient, out) = (f.at::<f32>(), f.at_mut::<f32>());
        for row in self.tasks(rows) {
            let (from, to) = (logits.add(row * width), out.add(row * width));
            let target = *targets.add(row) as usize;
            assert!(target < width, "a target is out of range");
            log_prob_backward(from, width, (target, temperature), *gradient.add(row), to);
        }
    }

    pub unsafe fn likelihood(&self, f: &mut Fields) {
        let rows = f.size();
        let tokens = f.tokens(rows);
        if self.is_first() {
            tokens.likelihood();
        }
    }

    pub unsafe fn policy(&self, f: &mut Fields) {
        let rows = f.size();
        let tokens = f.tokens(rows);
        let policy = Policy {
            old: f.at(),
            advantages: f.at(),
            reference: f.at(),
            low: f.float(),
            high: f.float(),
            kl: f.float(),
        };
        if self.is_first() {
            policy.run(&tokens);
        }
    }
}
