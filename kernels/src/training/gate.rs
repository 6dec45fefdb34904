//! The backward pass of a gate: from gradients of the chosen experts' weights, and the balance loss, to
//! those of the logits (DeepSeek-V3 technical report, section 2.1.2).

use crate::gate::Score;

/// What the slopes of a row need besides its numbers.
#[derive(Clone, Copy)]
pub struct GateSlopes {
    pub experts: usize,
    pub top_k: usize,
    pub score: Score,
    pub normalise: bool,
    pub scale: f32,
}

/// A row's part in the balance loss.
#[derive(Clone, Copy)]
pub struct Share {
    /// f of each expert.
    pub fractions: *const f32,
    pub weight: f32,
    /// The weight times the loss's factor.
    pub factor: f32,
}

impl GateSlopes {
    /// Turns a row's logits into their gradients, in place; returns what the row adds to the balance loss.
    ///
    /// # Safety
    /// `logits` and `scores` hold `experts` numbers, `ids` and `gradient` top_k.
    pub unsafe fn row(
        &self,
        logits: *mut f32,
        scores: *mut f32,
        ids: *const i32,
        gradient: *const f32,
        share: Option<Share>,
    ) -> f32 {
        let n = self.experts;
        self.scores(logits, scores, ids);
        for e in 0..n {
            *logits.add(e) = 0.0;
        }
        let slopes = logits;
        let (mut total, mut mean) = (1.0, 0.0);
        if self.normalise {
            total = 1e-20;
            for j in 0..self.top_k {
                total += *scores.add(*ids.add(j) as usize);
            }
            for j in 0..self.top_k {
                mean += *gradient.add(j) * *scores.add(*ids.add(j) as usize);
            }
            mean /= total;
        }
        for j in 0..self.top_k {
            *slopes.add(*ids.add(j) as usize) += self.scale * (*gradient.add(j) - mean) / total;
        }
        let loss = share.map_or(0.0, |share| self.balance(scores, slopes, share));
        if self.score == Score::Sigmoid {
            for e in 0..n {
                let s = *scores.add(e);
                *slopes.add(e) *= s * (1.0 - s);
            }
            return loss;
        }
        let mut mean = 0.0;
        for e in 0..n {
            mean += *scores.add(e) * *slopes.add(e);
        }
        for e in 0..n {
            *slopes.add(e) = *scores.add(e) * (*slopes.add(e) - mean);
        }
        loss
    }

    unsafe fn scores(&self, logits: *const f32, scores: *mut f32, ids: *const i32) {
        let n = self.experts;
        if self.score == Score::Sigmoid {
            for e in 0..n {
                *scores.add(e) = 1.0 / (1.0 + (-*logits.add(e)).exp());
            }
            return;
        }
        for e in 0..n {
            *scores.add(e) = f32::NEG_INFINITY;
        }
        if self.score == Score::Softmax {
            core::ptr::copy_nonoverlapping(logits, scores, n);
        } else {
            for j in 0..self.top_k {
                let e = *ids.add(j) as usize;
                *scores.add(e) = *logits.add(e);
            }
        }
        let mut largest = f32::NEG_INFINITY;
        for e in 0..n {
            largest = largest.max(*scores.add(e));
        }
        let mut total = 0.0;
        for e in 0..n {
            *scores.add(e) = (*scores.add(e) - largest).exp();
            total += *scores.add(e);
        }
        for e in 0..n {
            *scores.add(e) /= total;
        }
    }

    /// Adds the slopes of `weight * sum_e fractions[e] * scores[e] / total`; returns its value.
    unsafe fn balance(&self, scores: *const f32, slopes: *mut f32, share: Share) -> f32 {
        let (mut total, mut mean) = (0.0, 0.0);
        for e in 0..self.experts {
            total += *scores.add(e);
            mean += *share.fractions.add(e) * *scores.add(e);
        }
        mean /= total;
        for e in 0..self.experts {
            *slopes.add(e) += share.factor * (*share.fractions.add(e) - mean) / total;
        }
        share.weight * mean
    }
}

/// Adds to `fractions` what a row's choices are of `rows` rows: experts / (top_k rows) each.
///
/// # Safety
/// `ids` holds top_k numbers below `experts`, `fractions` `experts`.
pub unsafe fn add_fractions(
    ids: *const i32,
    (experts, top_k, rows): (usize, usize, usize),
    fractions: *mut f32,
) {
    let each = experts as f32 / (top_k * rows) as f32;
    for j in 0..top_k {
        *fractions.add(*ids.add(j) as usize) += each;
    }
}
