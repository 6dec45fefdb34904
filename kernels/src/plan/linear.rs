//! Ops that multiply matrices with activations.

use super::{Fields, Scratch, Worker, PRIVATE_ROWS};
use crate::activations::{prepare, rms_norm, Layout, Precision};
use crate::linear::{multiply, Inputs, Weight};
use crate::output::{Epilogue, Output};
use crate::quant::GROUP;
use crate::sync::Round;

/// Up to this many values, every thread prepares the activations for itself instead of waiting.
const PRIVATE_VALUES: usize = 16384;

/// Rows of activations that a product is to read, before they are normalised and quantised.
#[derive(Clone, Copy)]
pub struct Source {
    pub x: *const f32,
    pub width: usize,
    /// Null for none.
    pub norm: *const f32,
    pub eps: f32,
    pub rows: usize,
    pub forms: u32,
    pub precision: Precision,
}

impl Worker<'_> {
    /// Prepares the rows in the forms that the weights read: into this thread's scratch where they are
    /// few, else into the memory at `shared`, together with the other threads.
    pub unsafe fn inputs(&self, source: &Source, shared: *mut u8, scratch: &Scratch) -> Inputs {
        let Source { width, rows, .. } = *source;
        let layout = Layout::new(width, source.forms, source.precision);
        let make = |row: usize, to: *mut u8| {
            let mut from = source.x.add(row * width);
            if !source.norm.is_null() {
                rms_norm(from, source.norm, width, source.eps, scratch.normed);
                from = scratch.normed;
            }
            prepare(from, &layout, source.forms, source.precision, to);
        };
        let private = rows * width <= PRIVATE_VALUES && rows <= PRIVATE_ROWS;
        let base = if private { scratch.rows } else { shared };
        if private {
            for row in 0..rows {
                make(row, base.add(row * layout.bytes));
            }
        } else {
            for row in self.context.tasks(Round::Prepare, rows, self.thread) {
                make(row, base.add(row * layout.bytes));
            }
            self.context.barrier(|| {});
        }
        Inputs {
            base,
            layout,
            stride: layout.bytes,
            tokens: rows,
            records: core::ptr::null(),
            precision: source.precision,
            streams: self.context.streams as usize,
            quads: self.context.quads,
        }
    }

    pub unsafe fn linear(&self, f: &mut Fields) {
        let rows = f.size();
        let x = f.at::<f32>();
        let width = f.size();
        let norm = f.at::<f32>();
        let eps = f.float();
        let precision = f.precision();
        let forms = f.word();
        let shared = f.at_mut::<u8>();
        // Outputs of a pair are computed together by one thread: gate, then up times its silu.
        let paired = f.word() != 0;
        let outputs = f.size();

        let scratch = self.parts(width);
        let source = Source {
            x,
            width,
            norm,
            eps,
            rows,
            forms,
            precision,
        };
        let inputs = self.inputs(&source, shared, &scratch);
        let mut list = [(core::ptr::null::<Weight>(), Output::NONE, 0usize); MAX_OUTPUTS];
        let mut groups_in_all = 0;
        for entry in list.iter_mut().take(outputs) {
            let weight = f.at::<Weight>();
            let output = Output {
                bias: f.at(),
                out: f.at_mut(),
                stride: f.size(),
                epilogue: Epilogue::of(f.word()),
                scale: f.float(),
                ..Output::NONE
            };
            let groups = ((*weight).rows as usize).div_ceil(GROUP);
            groups_in_all += groups;
            *entry = (weight, output, groups);
        }
        let list = &list[..outputs];
        let step = chunk(groups_in_all, self.context.threads as usize, rows);
        if paired {
            let groups = list[0].2;
            for task in self.tasks(groups.div_ceil(step)) {
                let (from, to) = (task * step, groups.min((task + 1) * step));
                for (weight, output, _) in list {
                    multiply(&**weight, &inputs, output, from, to, scratch.panel);
                }
            }
            return;
        }
        let count = list.iter().map(|l| l.2.div_ceil(step)).sum();
        for mut task in self.tasks(count) {
            for (weight, output, groups) in list {
                let chunks = groups.div_ceil(step);
                if task < chunks {
                    let (from, to) = (task * step, (*groups).min((task + 1) * step));
                    multiply(&**weight, &inputs, output, from, to, scratch.panel);
                    break;
                }
                task -= chunks;
            }
        }
    }

    pub unsafe fn head_linear(&self, f: &mut Fields) {
        let rows = f.size();
        let x = f.at::<f32>();
        let x_stride = f.size();
        let weight = &*f.at::<Weight>();
        let heads = f.size();
        let out = f.at_mut::<f32>();
        let precision = f.precision();
        let forms = f.word();
        let shared = f.at_mut::<u8>();

        let cols = weight.cols as usize;
        let layout = Layout::new(cols, forms, precision);
        let scratch = self.parts(cols);
        let private = rows <= PRIVATE_ROWS;
        let make = |row: usize, head: usize, to: *mut u8| {
            let from = x.add((row * heads + head) * x_stride);
            prepare(from, &layout, forms, precision, to);
        };
        if !private {
            for row in self.context.tasks(Round::Prepare, rows, self.thread) {
                for head in 0..heads {
                    make(row, head, shared.add((row * heads + head) * layout.bytes));
                }
            }
            self.context.barrier(|| {});
        }
        let output = Output {
            out,
            stride: weight.rows as usize,
            ..Output::NONE
        };
        let groups = weight.rows as usize / heads / GROUP;
        for head in self.tasks(heads) {
            let (base, stride) = if private {
                for row in 0..rows {
                    make(row, head, scratch.rows.add(row * layout.bytes));
                }
                (scratch.rows as *const u8, layout.bytes)
            } else {
                let base = shared.add(head * layout.bytes);
                (base as *const u8, heads * layout.bytes)
            };
            let inputs = Inputs {
                base,
                layout,
                stride,
                tokens: rows,
                records: core::ptr::null(),
                precision,
                streams: self.context.streams as usize,
                quads: self.context.quads,
            };
            let (from, to) = (head * groups, (head + 1) * groups);
            multiply(weight, &inputs, &output, from, to, scratch.panel);
        }
    }
}

const MAX_OUTPUTS: usize = 4;

/// Groups of rows per task: small enough to share evenly, large enough for the streams of decoding.
pub fn chunk(groups: usize, threads: usize, rows: usize) -> usize {
    if threads == 1 {
        return groups;
    }
    if rows == 1 {
        // A multiple of every stream count.
        (groups / (threads * 8)).next_multiple_of(4).max(4)
    } else {
        groups.div_ceil(threads * 8).max(1)
    }
}
