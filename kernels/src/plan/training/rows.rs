//! Ops over rows and over numbers one by one.

use super::{Fields, Worker};
use crate::activations::rms_norm;
use crate::attention::rotate;
use crate::simd::F32x4;
use crate::sync::Round;
use crate::training::elementwise::{self, add_column_sums, add_scaled, CHUNK, SUM_COLS};
use crate::training::rows::{self, NormBackward};

/// Parts of the vocabulary that threads take one by one.
const VOCABULARY_PARTS: usize = 32;

impl Worker<'_> {
    /// Calls `body` with where each chunk of `n` numbers begins and how long it is.
    unsafe fn chunks(&self, n: usize, body: impl Fn(usize, usize)) {
        for task in self.tasks(n.div_ceil(CHUNK)) {
            body(task * CHUNK, CHUNK.min(n - task * CHUNK));
        }
    }

    pub unsafe fn copy(&self, f: &mut Fields) {
        let rows = f.size();
        let (from, to, width) = (f.at::<u32>(), f.at_mut::<u32>(), f.size());
        self.chunks(rows * width, |at, n| {
            core::ptr::copy_nonoverlapping(from.add(at), to.add(at), n);
        });
    }

    pub unsafe fn fill(&self, f: &mut Fields) {
        let rows = f.size();
        let (to, width, value) = (f.at_mut::<f32>(), f.size(), f.float());
        self.chunks(rows * width, |at, n| {
            core::slice::from_raw_parts_mut(to.add(at), n).fill(value);
        });
    }

    pub unsafe fn swiglu(&self, f: &mut Fields) {
        let rows = f.size();
        let (gate, up) = (f.at::<f32>(), f.at::<f32>());
        let (out, width) = (f.at_mut::<f32>(), f.size());
        self.chunks(rows * width, |at, n| {
            elementwise::swiglu(gate.add(at), up.add(at), out.add(at), n);
        });
    }

    pub unsafe fn swiglu_backward(&self, f: &mut Fields) {
        let rows = f.size();
        let (gate, up, gradient) = (f.at::<f32>(), f.at::<f32>(), f.at::<f32>());
        let (gate_out, up_out) = (f.at_mut::<f32>(), f.at_mut::<f32>());
        let width = f.size();
        self.chunks(rows * width, |at, n| {
            elementwise::swiglu_backward(
                (gate.add(at), up.add(at)),
                gradient.add(at),
                (gate_out.add(at), up_out.add(at)),
                n,
            );
        });
    }

    pub unsafe fn latent_tokens(&self, f: &mut Fields) {
        let rows = f.size();
        let (kv, latent, rope) = (f.at::<f32>(), f.size(), f.size());
        let (norm, eps) = (f.at::<f32>(), f.float());
        let (cos_sin, interleaved) = (f.at::<f32>(), f.word() != 0);
        let out = f.at_mut::<f32>();
        let width = latent + rope;
        for row in self.tasks(rows) {
            let (from, to) = (kv.add(row * width), out.add(row * width));
            rms_norm(from, norm, latent, eps, to);
            core::ptr::copy_nonoverlapping(from.add(latent), to.add(latent), rope);
            rotate(to.add(latent), cos_sin.add(row * rope), rope, interleaved);
        }
    }

    pub unsafe fn rotate_back(&self, f: &mut Fields) {
        let rows = f.size();
        let (x, heads, stride, start) = (f.at_mut::<f32>(), f.size(), f.size(), f.size());
        let (cos_sin, dim, interleaved) = (f.at::<f32>(), f.size(), f.word() != 0);
        for row in self.tasks(rows) {
            for head in 0..heads {
                let at = x.add((row * heads + head) * stride + start);
                rows::rotate_back(at, cos_sin.add(row * dim), dim, interleaved);
            }
        }
    }

    pub unsafe fn norm_backward(&self, f: &mut Fields) {
        let rows = f.size();
        let norm = NormBackward {
            x: f.at(),
            gradient: f.at(),
            out: f.at_mut(),
            stride: f.size(),
            width: f.size(),
            weight: f.at(),
            eps: f.float(),
            accumulate: f.word() != 0,
            factors: f.at_mut(),
        };
        let weight_gradient = f.at_mut::<f32>();
        for row in self.context.tasks(Round::Prepare, rows, self.thread) {
            norm.measure(row);
        }
        self.context.barrier(|| {});
        if !weight_gradient.is_null() {
            for task in self.tasks(norm.width.div_ceil(SUM_COLS)) {
                let first = task * SUM_COLS;
                let cols = SUM_COLS.min(norm.width - first);
                let term = |row: usize, col: usize, gradient: F32x4| {
                    let left = norm.width - col;
                    let x = elementwise::load(norm.x.add(row * norm.stride + col), left);
                    let inverse = F32x4::splat(*norm.factors.add(2 * row));
                    gradient.mul(x).mul(inverse)
                };
                let shape = (rows, norm.stride);
                add_column_sums(
                    norm.gradient,
                    shape,
                    (first, cols),
                    term,
                    1.0,
                    weight_gradient,
                );
            }
        }
        // What is read here may be what is written next.
        self.context.barrier(|| {});
        for row in self.context.tasks(Round::Last, rows, self.thread) {
            norm.apply(row);
        }
    }

    pub unsafe fn gather_backward(&self, f: &mut Fields) {
        let rows = f.size();
        let (indices, gradient, width) = (f.at::<i32>(), f.at::<f32>(), f.size());
        let (out, out_rows, accumulate) = (f.at_mut::<f32>(), f.size(), f.word() != 0);
        if !accumulate {
            for row in self.context.tasks(Round::Prepare, out_rows, self.thread) {
                core::ptr::write_bytes(out.add(row * width), 0, width);
            }
            self.context.barrier(|| {});
        }
        for row in self.tasks(rows) {
            let to = out.add(*indices.add(row) as usize * width);
            add_scaled(1.0, gradient.add(row * width), to, width);
        }
    }

    /// Each task takes the rows of its part of the vocabulary, in order.
    pub unsafe fn embed_backward(&self, f: &mut Fields) {
        let rows = f.size();
        let (ids, gradient, cols) = (f.at::<i32>(), f.at::<f32>(), f.size());
        let (vocabulary, scale, table) = (f.size(), f.float(), f.at_mut::<f32>());
        let each = vocabulary.div_ceil(VOCABULARY_PARTS);
        for part in self.tasks(VOCABULARY_PARTS) {
            let own = part * each..vocabulary.min((part + 1) * each);
            for row in 0..rows {
                let id = *ids.add(row) as usize;
                if own.contains(&id) {
                    add_scaled(scale, gradient.add(row * cols), table.add(id * cols), cols);
                }
            }
        }
    }

    pub unsafe fn column_sums(&self, f: &mut Fields) {
        let rows = f.size();
        let (x, stride, width) = (f.at::<f32>(), f.size(), f.size());
        let (scale, out) = (f.float(), f.at_mut::<f32>());
        for task in self.tasks(width.div_ceil(SUM_COLS)) {
            let first = task * SUM_COLS;
            let cols = SUM_COLS.min(width - first);
            let same = |_row: usize, _col: usize, value: F32x4| value;
            add_column_sums(x, (rows, stride), (first, cols), same, scale, out);
        }
    }
}
