//! Log-probabilities of tokens and losses made of them.

use super::elementwise::{by_fours, load, store};
use crate::math::{exp, exp_below_one};
use crate::simd::F32x4;

/// Places in the buffers of `src/backend/training.ts`: `TOTALS` and, of `CLOCK`, the loss's factor.
pub const TOTAL_LOSS: usize = 0;
pub const TOTAL_TOKENS: usize = 1;
pub const TOTAL_KL: usize = 2;
pub const TOTAL_CLIPPED: usize = 3;
pub const TOTAL_RATIO: usize = 4;
pub const TOTAL_BALANCE: usize = 5;
pub const CLOCK_LOSS_SCALE: usize = 3;

/// log of the sum of e^(x / temperature), and the largest of x.
unsafe fn log_sum_exp(x: *const f32, n: usize, temperature: f32) -> (f32, f32) {
    let mut largest = F32x4::splat(f32::NEG_INFINITY);
    let mut i = 0;
    while i + 4 <= n {
        largest = largest.larger(F32x4::load(x.add(i)));
        i += 4;
    }
    let mut largest = largest.max_lane();
    while i < n {
        largest = largest.max(*x.add(i));
        i += 1;
    }
    let inverse = F32x4::splat(1.0 / temperature);
    let peak = F32x4::splat(largest);
    let mut sum = F32x4::splat(0.0);
    let mut i = 0;
    while i + 4 <= n {
        sum = sum.add(exp_below_one(F32x4::load(x.add(i)).sub(peak).mul(inverse)));
        i += 4;
    }
    let mut sum = sum.sum();
    while i < n {
        sum += exp_below_one(F32x4::splat(*x.add(i)).sub(peak).mul(inverse)).lanes()[0];
        i += 1;
    }
    (largest / temperature + sum.ln(), largest)
}

/// The log-probability of `target`.
///
/// # Safety
/// `logits` holds `n` numbers.
pub unsafe fn log_prob(logits: *const f32, n: usize, target: usize, temperature: f32) -> f32 {
    *logits.add(target) / temperature - log_sum_exp(logits, n, temperature).0
}

/// The entropy of the distribution.
///
/// # Safety
/// As for `log_prob`.
pub unsafe fn entropy(logits: *const f32, n: usize, temperature: f32) -> f32 {
    let (all, _) = log_sum_exp(logits, n, temperature);
    let mut sum = 0.0f32;
    for i in 0..n {
        let value = *logits.add(i) / temperature - all;
        if value > -80.0 {
            sum += value * exp(F32x4::splat(value)).lanes()[0];
        }
    }
    -sum
}

/// out = gradient / temperature * (1 at the target - probability); `out` may be `logits`.
///
/// # Safety
/// As for `log_prob`.
pub unsafe fn log_prob_backward(
    logits: *const f32,
    n: usize,
    (target, temperature): (usize, f32),
    gradient: f32,
    out: *mut f32,
) {
    let (all, _) = log_sum_exp(logits, n, temperature);
    let factor = gradient / temperature;
    let inverse = F32x4::splat(1.0 / temperature);
    by_fours(n, |i, left| {
        let value = load(logits.add(i), left)
            .mul(inverse)
            .sub(F32x4::splat(all));
        let probability = exp(value);
        store(probability.mul(F32x4::splat(-factor)), out.add(i), left);
    });
    *out.add(target) += factor;
}

/// What losses read and write, one entry a token.
#[derive(Clone, Copy)]
pub struct Tokens {
    pub rows: usize,
    pub log_probs: *const f32,
    pub weights: *const f32,
    pub gradient: *mut f32,
    pub clock: *const f32,
    pub totals: *mut f32,
}

impl Tokens {
    unsafe fn add(&self, at: usize, sum: f64) {
        *self.totals.add(at) += sum as f32;
    }

    /// loss = -sum weights * log_probs
    ///
    /// # Safety
    /// The pointers cover the rows.
    pub unsafe fn likelihood(&self) {
        let scale = *self.clock.add(CLOCK_LOSS_SCALE);
        let (mut loss, mut tokens) = (0.0, 0.0);
        for t in 0..self.rows {
            let weight = *self.weights.add(t);
            *self.gradient.add(t) = -weight * scale;
            if weight != 0.0 {
                loss -= weight as f64 * *self.log_probs.add(t) as f64;
                tokens += 1.0;
            }
        }
        self.add(TOTAL_LOSS, loss);
        self.add(TOTAL_TOKENS, tokens);
    }
}

/// The clipped policy objective; see `PolicyLossParams`.
#[derive(Clone, Copy)]
pub struct Policy {
    pub old: *const f32,
    pub advantages: *const f32,
    /// Null where there is no k3.
    pub reference: *const f32,
    pub low: f32,
    pub high: f32,
    pub kl: f32,
}

impl Policy {
    /// # Safety
    /// The pointers cover the rows of `tokens`.
    pub unsafe fn run(&self, tokens: &Tokens) {
        let scale = *tokens.clock.add(CLOCK_LOSS_SCALE) as f64;
        let (low, high) = (1.0 - self.low as f64, 1.0 + self.high as f64);
        let mut sums = [0.0; 5];
        for t in 0..tokens.rows {
            let weight = *tokens.weights.add(t) as f64;
            *tokens.gradient.add(t) = 0.0;
            if weight == 0.0 {
                continue;
            }
            let log_prob = *tokens.log_probs.add(t) as f64;
            let advantage = *self.advantages.add(t) as f64;
            let ratio = (log_prob - *self.old.add(t) as f64).exp();
            let clipped = (advantage < 0.0 && ratio < low) || (advantage > 0.0 && ratio > high);
            let objective = (ratio * advantage).min(ratio.clamp(low, high) * advantage);
            let difference = if self.reference.is_null() {
                0.0
            } else {
                *self.reference.add(t) as f64 - log_prob
            };
            let kl = difference.exp() - difference - 1.0;
            let beta = self.kl as f64;
            let pull = if clipped { 0.0 } else { -ratio * advantage };
            let slope = pull + beta * (1.0 - difference.exp());
            *tokens.gradient.add(t) = (weight * slope * scale) as f32;
            sums[TOTAL_LOSS] += weight * (beta * kl - objective);
            sums[TOTAL_TOKENS] += 1.0;
            sums[TOTAL_KL] += kl;
            sums[TOTAL_CLIPPED] += clipped as u32 as f64;
            sums[TOTAL_RATIO] += ratio;
        }
        for (at, sum) in sums.into_iter().enumerate() {
            tokens.add(at, sum);
        }
    }
}
