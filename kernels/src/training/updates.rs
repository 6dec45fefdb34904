//! Optimiser steps over a table of tensors, in chunks of whole groups of rows, so that what the forward
//! pass reads can be packed anew at once.

use super::elementwise::{by_fours, load, store};
use crate::linear::{group_bytes, pack};
use crate::quant::GROUP;
use crate::simd::F32x4;

/// A tensor that is trained: 48 bytes, written by JavaScript.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tensor {
    pub rows: u32,
    pub cols: u32,
    pub master: *mut f32,
    pub gradient: *mut f32,
    pub first: *mut f32,
    pub second: *mut f32,
    /// What products of the forward pass read; null for vectors, which are read where they are.
    pub packed: *mut u8,
    pub kind: u32,
    /// Factor on the clock's rate.
    pub rate: f32,
    pub decay: f32,
    /// Its first chunk among those of all tensors, and how many rows a chunk has.
    pub first_chunk: u32,
    pub chunk_rows: u32,
}

/// Tensors of an update.
#[derive(Clone, Copy)]
pub struct Table {
    pub tensors: *const Tensor,
    pub count: usize,
    /// Chunks of all tensors.
    pub chunks: usize,
}

/// A chunk of a tensor: the tensor, where its numbers begin, and how many they are.
pub struct Chunk {
    pub tensor: *const Tensor,
    pub row: usize,
    pub rows: usize,
}

impl Chunk {
    unsafe fn range(&self) -> (usize, usize) {
        let cols = (*self.tensor).cols as usize;
        (self.row * cols, self.rows * cols)
    }
}

impl Table {
    /// # Safety
    /// The table is whole, `chunk` is below `chunks`.
    pub unsafe fn chunk(&self, chunk: usize) -> Chunk {
        let (mut low, mut high) = (0, self.count);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if (*self.tensors.add(middle)).first_chunk as usize <= chunk {
                low = middle;
            } else {
                high = middle;
            }
        }
        let tensor = self.tensors.add(low);
        let each = (*tensor).chunk_rows as usize;
        let row = (chunk - (*tensor).first_chunk as usize) * each;
        let rows = each.min((*tensor).rows as usize - row);
        Chunk { tensor, row, rows }
    }

    /// The chunks of a chunk's tensor.
    unsafe fn chunks_of(&self, tensor: *const Tensor) -> core::ops::Range<usize> {
        let first = (*tensor).first_chunk as usize;
        let count = ((*tensor).rows as usize).div_ceil((*tensor).chunk_rows as usize);
        first..first + count
    }
}

/// The sum of squares of `n` numbers.
unsafe fn squares(x: *const f32, n: usize) -> f32 {
    let mut sum = F32x4::splat(0.0);
    by_fours(n, |i, left| {
        let value = load(x.add(i), left);
        sum = value.mul_add(value, sum);
    });
    sum.sum()
}

/// Sets a chunk's gradients to 0.
///
/// # Safety
/// As for all that takes a chunk: its tensor's pointers cover it.
pub unsafe fn zero(chunk: &Chunk) {
    let (at, n) = chunk.range();
    core::ptr::write_bytes((*chunk.tensor).gradient.add(at), 0, n);
}

/// Sum of squares of a chunk's gradients.
///
/// # Safety
/// As for `zero`.
pub unsafe fn gradient_squares(chunk: &Chunk) -> f32 {
    let (at, n) = chunk.range();
    squares((*chunk.tensor).gradient.add(at), n)
}

/// Places in the clock, see `src/backend/training.ts`.
const RATE: usize = 0;
const CORRECTION_1: usize = 1;
const CORRECTION_2: usize = 2;
const LOSS_SCALE: usize = 3;
const GOOD_STEPS: usize = 4;
const SKIPPED: usize = 5;
const UPDATES: usize = 6;
const NORM: usize = 7;
const FACTOR: usize = 8;
pub const APPLIES: usize = 9;

/// What `prepareUpdate` does to the clock besides reading gradients.
#[derive(Clone, Copy)]
pub struct Preparation {
    /// Infinite where gradients are not shortened.
    pub max_norm: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// Of the loss's factor; interval 0 where it stays.
    pub growth: f32,
    pub backoff: f32,
    pub interval: f32,
}

impl Preparation {
    /// # Safety
    /// `clock` is a clock.
    pub unsafe fn run(&self, squares: f64, clock: *mut f32) {
        let scale = *clock.add(LOSS_SCALE);
        let norm = (squares.sqrt() / scale as f64) as f32;
        let applies = norm.is_finite();
        *clock.add(NORM) = norm;
        *clock.add(APPLIES) = applies as u32 as f32;
        *clock.add(FACTOR) = if applies {
            (self.max_norm / (norm + 1e-6)).min(1.0) / scale
        } else {
            0.0
        };
        if applies {
            for (at, beta) in [(CORRECTION_1, self.beta1), (CORRECTION_2, self.beta2)] {
                let carried = *clock.add(at) as f64 * beta as f64 + (1.0 - beta as f64);
                *clock.add(at) = carried as f32;
            }
            *clock.add(UPDATES) += 1.0;
        } else {
            *clock.add(SKIPPED) += 1.0;
        }
        if self.interval == 0.0 {
            return;
        }
        if !applies {
            *clock.add(LOSS_SCALE) *= self.backoff;
            *clock.add(GOOD_STEPS) = 0.0;
            return;
        }
        *clock.add(GOOD_STEPS) += 1.0;
        if *clock.add(GOOD_STEPS) >= self.interval {
            *clock.add(LOSS_SCALE) *= self.growth;
            *clock.add(GOOD_STEPS) = 0.0;
        }
    }
}

/// How numbers change; see `UpdateRule`.
#[derive(Clone, Copy, PartialEq)]
pub enum Rule {
    Adamw { beta1: f32, beta2: f32, eps: f32 },
    Lamb { beta1: f32, beta2: f32, eps: f32 },
    Lars { momentum: f32, trust: f32, eps: f32 },
}

/// An update of a table's tensors.
#[derive(Clone, Copy)]
pub struct Update {
    pub rule: Rule,
    pub table: Table,
    pub clock: *const f32,
    /// `[chunks, 2]`: squares of a chunk's numbers, and of its step or gradient.
    pub norms: *mut f32,
}

impl Update {
    /// Whether steps depend on a tensor's norms.
    pub fn measures(&self) -> bool {
        !matches!(self.rule, Rule::Adamw { .. })
    }

    /// Moves the moments of a chunk on, and measures it where the rule asks for that.
    ///
    /// # Safety
    /// As for `zero`; each chunk once.
    pub unsafe fn measure(&self, at: usize) {
        let chunk = self.table.chunk(at);
        let tensor = *chunk.tensor;
        let (from, n) = chunk.range();
        let p = tensor.master.add(from);
        let second = if let Rule::Lars { .. } = self.rule {
            gradient_squares(&chunk)
        } else {
            self.move_moments(&tensor, from, n);
            let mut sum = F32x4::splat(0.0);
            self.each_step(&tensor, from, n, |_, left, step| {
                // What lies behind the last number is 0 / eps, which is 0 as well.
                let step = if left < 4 { only(step, left) } else { step };
                sum = step.mul_add(step, sum);
            });
            sum.sum()
        };
        *self.norms.add(2 * at) = squares(p, n);
        *self.norms.add(2 * at + 1) = second;
    }

    /// Changes a chunk's numbers, and packs them.
    ///
    /// # Safety
    /// As for `measure`, which has been called for all chunks where `measures`.
    pub unsafe fn apply(&self, at: usize) {
        let chunk = self.table.chunk(at);
        let tensor = *chunk.tensor;
        let (from, n) = chunk.range();
        let p = tensor.master.add(from);
        let rate = tensor.rate * *self.clock.add(RATE);
        let ratio = self.ratio(&chunk);
        match self.rule {
            Rule::Adamw { .. } | Rule::Lamb { .. } => {
                if !self.measures() {
                    self.move_moments(&tensor, from, n);
                }
                let factor = F32x4::splat(-rate * ratio);
                self.each_step(&tensor, from, n, |i, left, step| {
                    store(step.mul_add(factor, load(p.add(i), left)), p.add(i), left);
                });
            }
            Rule::Lars { momentum, .. } => {
                let factor = F32x4::splat(*self.clock.add(FACTOR) * ratio);
                let decay = F32x4::splat(tensor.decay * ratio);
                let (g, m) = (tensor.gradient.add(from), tensor.first.add(from));
                by_fours(n, |i, left| {
                    let value = load(p.add(i), left);
                    let step = load(g.add(i), left).mul(factor).add(value.mul(decay));
                    let carried = load(m.add(i), left).mul_add(F32x4::splat(momentum), step);
                    store(carried, m.add(i), left);
                    store(carried.mul_add(F32x4::splat(-rate), value), p.add(i), left);
                });
            }
        }
        repack(&chunk);
    }

    unsafe fn move_moments(&self, tensor: &Tensor, from: usize, n: usize) {
        let (Rule::Adamw { beta1, beta2, .. } | Rule::Lamb { beta1, beta2, .. }) = self.rule else {
            return;
        };
        let factor = F32x4::splat(*self.clock.add(FACTOR));
        let (g, m, v) = (
            tensor.gradient.add(from),
            tensor.first.add(from),
            tensor.second.add(from),
        );
        let [b1, c1, b2, c2] = [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(F32x4::splat);
        by_fours(n, |i, left| {
            let gradient = load(g.add(i), left).mul(factor);
            let mean = load(m.add(i), left).mul(b1).add(gradient.mul(c1));
            let square = load(v.add(i), left)
                .mul(b2)
                .add(gradient.mul(gradient).mul(c2));
            store(mean, m.add(i), left);
            store(square, v.add(i), left);
        });
    }

    /// Calls `body` with the steps of an adaptive rule, before trust and rate.
    unsafe fn each_step(
        &self,
        tensor: &Tensor,
        from: usize,
        n: usize,
        mut body: impl FnMut(usize, usize, F32x4),
    ) {
        let (Rule::Adamw { eps, .. } | Rule::Lamb { eps, .. }) = self.rule else {
            return;
        };
        let correct1 = F32x4::splat(1.0 / *self.clock.add(CORRECTION_1));
        let correct2 = F32x4::splat(1.0 / *self.clock.add(CORRECTION_2));
        let (eps, decay) = (F32x4::splat(eps), F32x4::splat(tensor.decay));
        let (p, m, v) = (
            tensor.master.add(from),
            tensor.first.add(from),
            tensor.second.add(from),
        );
        by_fours(n, |i, left| {
            let deviation = load(v.add(i), left).mul(correct2).sqrt().add(eps);
            let step = load(m.add(i), left).mul(correct1).div(deviation);
            body(i, left, load(p.add(i), left).mul_add(decay, step));
        });
    }

    /// The tensor's trust ratio.
    unsafe fn ratio(&self, chunk: &Chunk) -> f32 {
        let tensor = &*chunk.tensor;
        if !self.measures() || tensor.decay == 0.0 {
            return 1.0;
        }
        let (mut size, mut other) = (0.0f64, 0.0f64);
        for at in self.table.chunks_of(chunk.tensor) {
            size += *self.norms.add(2 * at) as f64;
            other += *self.norms.add(2 * at + 1) as f64;
        }
        let (size, other) = (size.sqrt(), other.sqrt());
        let (above, below) = match self.rule {
            Rule::Lars { trust, eps, .. } => {
                let gradient = other * *self.clock.add(FACTOR) as f64;
                let below = gradient + tensor.decay as f64 * size + eps as f64;
                (
                    trust as f64 * size,
                    if gradient == 0.0 { 0.0 } else { below },
                )
            }
            _ => (size, other),
        };
        if above > 0.0 && below > 0.0 {
            (above / below) as f32
        } else {
            1.0
        }
    }
}

/// The first `count` lanes; the others are 0.
fn only(value: F32x4, count: usize) -> F32x4 {
    let mut lanes = value.lanes();
    lanes[count..].fill(0.0);
    // SAFETY: the array holds four numbers.
    unsafe { F32x4::load(lanes.as_ptr()) }
}

/// Brings what products read up to date with a chunk's masters.
///
/// # Safety
/// As for `zero`; the chunk begins with a group of rows.
pub unsafe fn repack(chunk: &Chunk) {
    let tensor = &*chunk.tensor;
    if tensor.packed.is_null() {
        return;
    }
    let (from, _) = chunk.range();
    let cols = tensor.cols as usize;
    let to = tensor
        .packed
        .add(chunk.row / GROUP * group_bytes(tensor.kind, cols));
    pack(
        tensor.kind,
        tensor.master.add(from) as *const u8,
        chunk.rows,
        cols,
        to,
    );
}
