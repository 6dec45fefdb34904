//! The backward pass of attention, over rows: with p = softmax(scale q k) and out = p v,
//! dv = p dout, ds = p (dout v - dout out), dq = scale ds k, dk = scale ds q. Scores may have two parts,
//! as those of latent attention have, whose values are the keys' first part.

use super::elementwise::{by_fours, dot, load, store};
use super::pack::{
    pack_columns, pack_panels, pack_rows, pack_transposed_panels, Product, SCRATCH_FLOATS,
};
use super::tile::ROWS;
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

/// Queries of a block at most, and as vectors of all heads that read the same keys.
const BLOCK_QUERIES: usize = 16;
const BLOCK_VECTORS: usize = 48;

fn queries_of_block(group: usize) -> usize {
    (BLOCK_VECTORS / group).clamp(1, BLOCK_QUERIES)
}

/// Numbers from a query's scores to those of the next, where there are so many keys.
fn score_stride(keys: usize) -> usize {
    keys.next_multiple_of(4)
}

/// Floats of scratch where `group` heads read the same keys, and no sequence has more than `rows`.
pub fn scratch_floats(group: usize, rows: usize) -> usize {
    SCRATCH_FLOATS + 2 * queries_of_block(group) * group * score_stride(rows)
}

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
    /// The pointers cover the rows; `scratch` holds `scratch_floats`.
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
        let step = queries_of_block(self.heads / self.kv_heads);
        for first in (start..end).step_by(step) {
            let queries = (first, step.min(end - first));
            self.block(start, queries, kv_head, scratch);
        }
    }

    /// The first key that a row sees.
    fn first_key(&self, start: usize, row: usize) -> usize {
        match self.window {
            0 => start,
            window => start.max((row + 1).saturating_sub(window)),
        }
    }

    /// All that depends on some queries that follow each other.
    unsafe fn block(
        &self,
        start: usize,
        (first, queries): (usize, usize),
        kv_head: usize,
        scratch: *mut f32,
    ) {
        let group = self.heads / self.kv_heads;
        let vectors = queries * group;
        let low = self.first_key(start, first);
        let keys = first + queries - low;
        let stride = score_stride(keys);
        let weights = scratch.add(SCRATCH_FLOATS);
        let slopes = weights.add(vectors * stride);
        let query = |vectors: &Heads, i: usize| {
            vectors.at(first + i / group, kv_head * group + i % group) as *const f32
        };
        let key = |vectors: &Heads, i: usize| vectors.at(low + i, kv_head) as *const f32;
        // [vectors, keys] = left right^T
        let against_keys = |left: &Heads, right: &Heads, depth: usize, to: *mut f32, more: bool| {
            let product = Product {
                rows: vectors,
                cols: keys,
                depth,
                scale: 1.0,
                add: more,
            };
            product.run(
                |(r, count), (k, depth), to| {
                    pack_rows::<ROWS>(|i| query(left, r + i).add(k), count, depth, to)
                },
                |(c, cols), (k, depth), to| {
                    pack_transposed_panels(|i| key(right, c + i).add(k), depth, cols, to)
                },
                |i| to.add(i * stride),
                scratch,
            );
        };
        for (i, part) in self.parts.iter().enumerate() {
            against_keys(&part.q, &part.k, part.dim, weights, i > 0);
        }
        against_keys(&self.out_gradient, &self.v, self.value_dim, slopes, false);
        for i in 0..vectors {
            let row = first + i / group;
            let seen = (self.first_key(start, row) - low, row + 1 - low);
            let of_row = [weights.add(i * stride), slopes.add(i * stride)];
            let (out, gradient) = (query(&self.out, i), query(&self.out_gradient, i));
            self.slopes(of_row, seen, keys, dot(out, gradient, self.value_dim));
        }
        // [keys, dim] += scores^T left
        let to_keys = |scores: *mut f32, left: &Heads, out: &Heads, dim: usize| {
            let product = Product {
                rows: keys,
                cols: dim,
                depth: vectors,
                scale: 1.0,
                add: true,
            };
            product.run(
                |(r, count), (k, depth), to| {
                    let column = |d: usize| (scores.add((k + d) * stride + r) as *const f32, 1.0);
                    pack_columns(column, count, depth, to)
                },
                |(c, cols), (k, depth), to| {
                    pack_panels(|d| query(left, k + d).add(c), depth, cols, to)
                },
                |i| key(out, i) as *mut f32,
                scratch,
            );
        };
        for part in self.parts {
            let product = Product {
                rows: vectors,
                cols: part.dim,
                depth: keys,
                scale: 1.0,
                add: false,
            };
            product.run(
                |(r, count), (k, depth), to| {
                    let row = |i: usize| slopes.add((r + i) * stride + k) as *const f32;
                    pack_rows::<ROWS>(row, count, depth, to)
                },
                |(c, cols), (k, depth), to| {
                    pack_panels(|d| key(&part.k, k + d).add(c), depth, cols, to)
                },
                |i| query(&part.q_gradient, i) as *mut f32,
                scratch,
            );
            to_keys(slopes, &part.q, &part.k_gradient, part.dim);
        }
        to_keys(
            weights,
            &self.out_gradient,
            &self.v_gradient,
            self.value_dim,
        );
    }

    /// From a query's products with the keys and with the values to its weights and the slopes of its
    /// scores, both 0 for keys that it doesn't see.
    unsafe fn slopes(
        &self,
        [weights, slopes]: [*mut f32; 2],
        (from, to): (usize, usize),
        keys: usize,
        mean: f32,
    ) {
        for scores in [weights, slopes] {
            core::ptr::write_bytes(scores, 0, from);
            core::ptr::write_bytes(scores.add(to), 0, keys - to);
        }
        let (weights, slopes, count) = (weights.add(from), slopes.add(from), to - from);
        let scale = F32x4::splat(self.scale);
        let mut largest = f32::NEG_INFINITY;
        by_fours(count, |i, left| {
            store(load(weights.add(i), left).mul(scale), weights.add(i), left);
        });
        for i in 0..count {
            largest = largest.max(*weights.add(i));
        }
        let inverse = F32x4::splat(soften(weights, count, largest));
        let mean = F32x4::splat(mean);
        by_fours(count, |i, left| {
            let weight = load(weights.add(i), left).mul(inverse);
            let slope = load(slopes.add(i), left).sub(mean).mul(weight).mul(scale);
            store(weight, weights.add(i), left);
            store(slope, slopes.add(i), left);
        });
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
