//! The router of a mixture-of-experts layer: from logits to chosen experts and their weights, one token
//! at a time, in float32 (DeepSeek-V3 technical report, section 2.1.2; DeepSeek-V2, sections 2.2.1 and 2.2.2).

use crate::math::exp;
use crate::simd::F32x4;

/// What scores are made of logits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Score {
    Softmax,
    Sigmoid,
    /// The choice goes by the logits, the weights are the softmax of the chosen ones.
    SoftmaxOfChosen,
}

impl Score {
    /// By its number in plans.
    pub fn of(word: u32) -> Self {
        match word {
            0 => Score::Softmax,
            1 => Score::Sigmoid,
            _ => Score::SoftmaxOfChosen,
        }
    }
}

/// How experts are chosen and weighted; see `GateParams` of the backend seam.
#[derive(Clone, Copy)]
pub struct Gate {
    pub experts: usize,
    pub top_k: usize,
    pub score: Score,
    /// Added to scores for the choice only; null for none.
    pub correction: *const f32,
    /// Equal groups, of which `groups_used` may be chosen from; 1 where there is no limit.
    pub groups: usize,
    pub groups_used: usize,
    /// A group is ranked by its two best choice scores together, else by the best.
    pub top_two: bool,
    pub normalise: bool,
    pub scale: f32,
}

/// Floats of scratch that `choose` needs, for logits and choice scores.
pub fn scratch_floats(experts: usize) -> usize {
    2 * experts.next_multiple_of(4)
}

impl Gate {
    /// Turns a token's logits into scores in place, and chooses. `scores` is padded to a multiple of 4.
    ///
    /// # Safety
    /// `scores` and `choice` have room for the experts, rounded up to fours; `ids` and `weights` for
    /// top_k.
    pub unsafe fn choose(
        &self,
        scores: *mut f32,
        choice: *mut f32,
        ids: *mut i32,
        weights: *mut f32,
    ) {
        let n = self.experts;
        self.score(scores);
        for e in 0..n {
            let bias = if self.correction.is_null() {
                0.0
            } else {
                *self.correction.add(e)
            };
            let value = *scores.add(e) + bias;
            // What is not a number comes last, as what may not be chosen does.
            *choice.add(e) = if value.is_nan() {
                f32::NEG_INFINITY
            } else {
                value
            };
        }
        if self.groups_used < self.groups {
            self.mask_groups(choice);
        }
        for k in 0..self.top_k {
            let best = best_of(choice, n);
            *ids.add(k) = best as i32;
            *choice.add(best) = f32::NAN;
        }
        self.weigh(scores, ids, weights);
    }

    /// As `choose`, for experts that have been chosen before.
    ///
    /// # Safety
    /// As for `choose`; the ids are below `experts`.
    pub unsafe fn replay(&self, scores: *mut f32, ids: *const i32, weights: *mut f32) {
        self.score(scores);
        self.weigh(scores, ids, weights);
    }

    unsafe fn score(&self, scores: *mut f32) {
        match self.score {
            Score::Softmax => softmax(scores, self.experts),
            Score::Sigmoid => sigmoid(scores, self.experts),
            Score::SoftmaxOfChosen => {}
        }
    }

    /// The weights of the chosen experts.
    unsafe fn weigh(&self, scores: *const f32, ids: *const i32, weights: *mut f32) {
        for k in 0..self.top_k {
            *weights.add(k) = *scores.add(*ids.add(k) as usize);
        }
        if self.score == Score::SoftmaxOfChosen {
            softmax_scalar(weights, self.top_k);
        }
        if self.normalise {
            let sum: f32 = (0..self.top_k).map(|k| *weights.add(k)).sum();
            for k in 0..self.top_k {
                *weights.add(k) /= sum + 1e-20;
            }
        }
        for k in 0..self.top_k {
            *weights.add(k) *= self.scale;
        }
    }

    /// Leaves the choice scores of the best groups and makes the others negative infinity.
    unsafe fn mask_groups(&self, choice: *mut f32) {
        let size = self.experts / self.groups;
        let rank = |group: usize| {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for e in 0..size {
                let score = *choice.add(group * size + e);
                if score > first {
                    (first, second) = (score, first);
                } else if score > second {
                    second = score;
                }
            }
            if self.top_two && size > 1 {
                first + second
            } else {
                first
            }
        };
        let mut kept = [0u64; MAX_GROUPS / 64];
        for _ in 0..self.groups_used {
            let mut best = usize::MAX;
            let mut best_rank = 0.0;
            for group in 0..self.groups {
                let taken = kept[group / 64] >> (group % 64) & 1 != 0;
                if !taken && (best == usize::MAX || rank(group) > best_rank) {
                    best = group;
                    best_rank = rank(group);
                }
            }
            kept[best / 64] |= 1 << (best % 64);
        }
        for group in 0..self.groups {
            if kept[group / 64] >> (group % 64) & 1 == 0 {
                for e in 0..size {
                    *choice.add(group * size + e) = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Groups that a gate may have.
pub const MAX_GROUPS: usize = 256;

/// The first of the largest; those taken already are NaN.
unsafe fn best_of(values: *const f32, n: usize) -> usize {
    let mut best = 0;
    for i in 1..n {
        if *values.add(i) > *values.add(best) || (*values.add(best)).is_nan() {
            best = i;
        }
    }
    best
}

unsafe fn softmax(x: *mut f32, n: usize) {
    let mut peak = f32::NEG_INFINITY;
    for i in 0..n {
        peak = peak.max(*x.add(i));
    }
    let mut sum = 0.0;
    let mut i = 0;
    while i < n {
        exp(F32x4::load(x.add(i)).sub(F32x4::splat(peak))).store(x.add(i));
        for j in i..n.min(i + 4) {
            sum += *x.add(j);
        }
        i += 4;
    }
    for i in 0..n {
        *x.add(i) /= sum;
    }
}

unsafe fn softmax_scalar(x: *mut f32, n: usize) {
    let peak = *x;
    let mut sum = 0.0;
    for i in 0..n {
        *x.add(i) = exp(F32x4::splat(*x.add(i) - peak)).lanes()[0];
        sum += *x.add(i);
    }
    for i in 0..n {
        *x.add(i) /= sum;
    }
}

unsafe fn sigmoid(x: *mut f32, n: usize) {
    let one = F32x4::splat(1.0);
    let mut i = 0;
    while i < n {
        let e = exp(F32x4::load(x.add(i)).neg());
        one.div(one.add(e)).store(x.add(i));
        i += 4;
    }
}
