//! The backward pass of attention, over rows: with p = softmax(scale q k) and out = p v,
//! dv = p dout, ds = p (dout v - dout out), dq = scale ds k, dk = scale ds q. Scores may have two parts,
//! as those of latent attention have, whose values are the keys' first part.

use super::elementwise::{add_scaled, by_fours, dot, load, store};
use crate::math::exp_below_one;
use crate::simd::F32x4;

/// Vectors of heads.
#[derive(Clone, Copy)]
pub struct Heads {
    pub base: *mut f32,
    /// Numbers from a row to the next, and from a head to the next.
    pub row: usize,
    pub head: usize,
}

impl Heads {
    #[inline(always)]
    unsafe fn at(&self, row: usize, head: usize) -> *mut f32 {
        self.base.add(row * self.row + head * self.head)
    }
}

/// What adds to the scores.
#[derive(Clone, Copy)]
pub struct Part {
    pub dim: usize,
    pub q: Heads,
    pub k: Heads,
    pub q_gradient: Heads,
    pub k_gradient: Heads,
}

pub const MAX_PARTS: usize = 2;

#[derive(Clone, Copy)]
pub struct AttentionBackward<'a> {
    pub parts: &'a [Part],
    pub value_dim: usize,
    pub v: Heads,
    /// May be the first part's `k_gradient`.
    pub v_gradient: Heads,
    pub out: Heads,
    pub out_gradient: Heads,
    pub heads: usize,
    pub kv_heads: usize,
    pub scale: f32,
    /// 0 for all positions.
    pub window: usize,
    pub positions: *const i32,
    pub rows: usize,
}

impl AttentionBackward<'_> {
    /// Sequences times heads of keys.
    ///
    /// # Safety
    /// `positions` holds the rows.
    pub unsafe fn tasks(&self) -> usize {
        let begins = |row: &usize| *self.positions.add(*row) == 0;
        (0..self.rows).filter(begins).count() * self.kv_heads
    }

    /// All that depends on one head of keys and values of one sequence; replaces the gradients.
    ///
    /// # Safety
    /// The pointers cover the rows; `scratch` holds as many floats as the longest sequence has rows, and
    /// eight.
    pub unsafe fn run(&self, task: usize, scratch: *mut f32) {
        let (sequence, kv_head) = (task / self.kv_heads, task % self.kv_heads);
        let begins = |row: &usize| *self.positions.add(*row) == 0;
        let start = (0..self.rows).filter(begins).nth(sequence).unwrap_or(0);
        let end = (start + 1..self.rows).find(begins).unwrap_or(self.rows);
        for row in start..end {
            for part in self.parts {
                core::ptr::write_bytes(part.k_gradient.at(row, kv_head), 0, part.dim);
            }
            core::ptr::write_bytes(self.v_gradient.at(row, kv_head), 0, self.value_dim);
        }
        let group = self.heads / self.kv_heads;
        for row in start..end {
            for head in kv_head * group..(kv_head + 1) * group {
                self.query(start, row, head, kv_head, scratch);
            }
        }
    }

    unsafe fn query(
        &self,
        start: usize,
        row: usize,
        head: usize,
        kv_head: usize,
        weights: *mut f32,
    ) {
        let first = if self.window == 0 {
            start
        } else {
            start.max((row + 1).saturating_sub(self.window))
        };
        let count = row + 1 - first;
        let mut largest = f32::NEG_INFINITY;
        for i in 0..count {
            let mut score = 0.0;
            for part in self.parts {
                score += dot(
                    part.q.at(row, head),
                    part.k.at(first + i, kv_head),
                    part.dim,
                );
            }
            *weights.add(i) = score * self.scale;
            largest = largest.max(*weights.add(i));
        }
        let inverse = soften(weights, count, largest);
        let gradient = self.out_gradient.at(row, head);
        let mean = dot(self.out.at(row, head), gradient, self.value_dim);
        for part in self.parts {
            core::ptr::write_bytes(part.q_gradient.at(row, head), 0, part.dim);
        }
        for i in 0..count {
            let key = first + i;
            let weight = *weights.add(i) * inverse;
            let slope = dot(gradient, self.v.at(key, kv_head), self.value_dim);
            let score = self.scale * weight * (slope - mean);
            for part in self.parts {
                let (q, k) = (part.q.at(row, head), part.k.at(key, kv_head));
                add_scaled(score, k, part.q_gradient.at(row, head), part.dim);
                add_scaled(score, q, part.k_gradient.at(key, kv_head), part.dim);
            }
            let into = self.v_gradient.at(key, kv_head);
            add_scaled(weight, gradient, into, self.value_dim);
        }
    }
}

/// Scores to e^(score - largest), in place; returns 1 / their sum.
unsafe fn soften(scores: *mut f32, count: usize, largest: f32) -> f32 {
    let mut sum = F32x4::splat(0.0);
    by_fours(count, |i, left| {
        let value = exp_below_one(load(scores.add(i), left).sub(F32x4::splat(largest)));
        store(value, scores.add(i), left);
        sum = sum.add(load(scores.add(i), left));
    });
    1.0 / sum.sum()
}
