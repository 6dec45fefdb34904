//! Runs recorded plans. A plan is a list of 32-bit words; each op starts with two of them, its opcode
//! and its length in words.
//! The field order is written down in `src/backend/wasm/plan.ts`, its only writer.

use crate::activations::{prepare, rms_norm, Layout, Precision};
use crate::attention::{Attention, Batch, KvLayer, Rotation};
use crate::linear::{self, Epilogue, Inputs, Output, Weight};
use crate::quant::GROUP;
use crate::sync::{Context, Round, Tasks};

const EMBED: u32 = 1;
const RMS_NORM: u32 = 2;
const LINEAR: u32 = 3;
const ROTATE: u32 = 4;
const ATTENTION: u32 = 5;
const GATHER: u32 = 6;

/// Up to this many values, every thread prepares the activations for itself instead of waiting.
const PRIVATE_VALUES: usize = 16384;

/// Reads an op's fields in order.
struct Fields(*const u32);

impl Fields {
    unsafe fn word(&mut self) -> u32 {
        let word = *self.0;
        self.0 = self.0.add(1);
        word
    }
    unsafe fn size(&mut self) -> usize {
        self.word() as usize
    }
    unsafe fn float(&mut self) -> f32 {
        f32::from_bits(self.word())
    }
    unsafe fn at<T>(&mut self) -> *const T {
        self.word() as usize as *const T
    }
    unsafe fn at_mut<T>(&mut self) -> *mut T {
        self.word() as usize as *mut T
    }
}

/// Runs a plan as thread `thread`; returns when all threads are through.
///
/// # Safety
/// `plan` points to `ops` well-formed ops whose addresses lie in this memory.
pub unsafe fn run(context: &Context, plan: *const u32, ops: u32, thread: u32) {
    let mut op = plan;
    for _ in 0..ops {
        let worker = Worker { context, thread };
        let mut fields = Fields(op.add(2));
        match *op {
            EMBED => worker.embed(&mut fields),
            RMS_NORM => worker.rms_norm(&mut fields),
            LINEAR => worker.linear(&mut fields),
            ROTATE => worker.rotate(&mut fields),
            ATTENTION => worker.attention(&mut fields),
            GATHER => worker.gather(&mut fields),
            opcode => panic!("unknown opcode {opcode}"),
        }
        context.end_op();
        op = op.add(*op.add(1) as usize);
    }
}

struct Worker<'a> {
    context: &'a Context,
    thread: u32,
}

impl Worker<'_> {
    fn tasks(&self, count: usize) -> Tasks<'_> {
        self.context.tasks(Round::Main, count, self.thread)
    }

    fn scratch(&self) -> *mut u8 {
        self.context.scratch_of(self.thread)
    }

    unsafe fn embed(&self, f: &mut Fields) {
        let rows = f.size();
        let weight = &*f.at::<Weight>();
        let ids = f.at::<i32>();
        let out = f.at_mut::<f32>();
        let cols = weight.cols as usize;
        let panel = self.scratch() as *mut f32;
        for row in self.tasks(rows) {
            let id = *ids.add(row) as usize;
            linear::group_to_float(weight, id / GROUP, panel);
            for c in 0..cols {
                *out.add(row * cols + c) = *panel.add(c * GROUP + id % GROUP);
            }
        }
    }

    unsafe fn rms_norm(&self, f: &mut Fields) {
        let rows = f.size();
        let x = f.at::<f32>();
        let width = f.size();
        let weight = f.at::<f32>();
        let eps = f.float();
        let out = f.at_mut::<f32>();
        for row in self.tasks(rows) {
            rms_norm(x.add(row * width), weight, width, eps, out.add(row * width));
        }
    }

    unsafe fn gather(&self, f: &mut Fields) {
        let rows = f.size();
        let x = f.at::<f32>();
        let width = f.size();
        let indices = f.at::<i32>();
        let out = f.at_mut::<f32>();
        for row in self.tasks(rows) {
            let from = *indices.add(row) as usize;
            core::ptr::copy_nonoverlapping(x.add(from * width), out.add(row * width), width);
        }
    }

    unsafe fn linear(&self, f: &mut Fields) {
        let rows = f.size();
        let x = f.at::<f32>();
        let width = f.size();
        let norm = f.at::<f32>();
        let eps = f.float();
        let precision = match f.word() {
            0 => Precision::Q8,
            1 => Precision::Q16,
            _ => Precision::F32,
        };
        let forms = f.word();
        let shared = f.at_mut::<u8>();
        // Outputs of a pair are computed together by one thread: gate, then up times its silu.
        let paired = f.word() != 0;
        let outputs = f.size();

        let layout = Layout::new(width, forms, precision);
        let panel_bytes = linear::scratch_bytes(width);
        let panel = self.scratch();
        let normed = panel.add(panel_bytes) as *mut f32;
        let make = |row: usize, to: *mut u8| {
            let mut from = x.add(row * width);
            if !norm.is_null() {
                rms_norm(from, norm, width, eps, normed);
                from = normed;
            }
            prepare(from, &layout, forms, precision, to);
        };
        let private = rows * width <= PRIVATE_VALUES && rows <= 2;
        let base = if private {
            panel.add(panel_bytes + width * 4 + 64)
        } else {
            shared
        };
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
        let inputs = Inputs {
            base,
            layout,
            tokens: rows,
            precision,
            streams: self.context.streams as usize,
        };

        let mut list = [(core::ptr::null::<Weight>(), Output::NONE, 0usize); MAX_OUTPUTS];
        let mut groups_in_all = 0;
        for entry in list.iter_mut().take(outputs) {
            let weight = f.at::<Weight>();
            let output = Output {
                bias: f.at(),
                out: f.at_mut(),
                stride: f.size(),
                epilogue: match f.word() {
                    0 => Epilogue::Store,
                    1 => Epilogue::Accumulate,
                    _ => Epilogue::Gate,
                },
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
                    linear::multiply(&**weight, &inputs, output, from, to, panel);
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
                    linear::multiply(&**weight, &inputs, output, from, to, panel);
                    break;
                }
                task -= chunks;
            }
        }
    }

    unsafe fn batch(&self, f: &mut Fields) -> Batch {
        Batch {
            positions: f.at(),
            sequences: f.at(),
            tables: f.at(),
            table_width: f.size(),
        }
    }

    unsafe fn layer(&self, f: &mut Fields) -> KvLayer {
        KvLayer {
            base: f.at_mut(),
            heads: f.size(),
            key_dim: f.size(),
            value_dim: f.size(),
        }
    }

    unsafe fn rotate(&self, f: &mut Fields) {
        let rows = f.size();
        let q = f.at_mut::<f32>();
        let k = f.at_mut::<f32>();
        let v = f.at::<f32>();
        let heads = f.size();
        let rotation = Rotation {
            cos_sin: f.at(),
            dim: f.size(),
            interleaved: f.word() != 0,
            q_norm: f.at(),
            k_norm: f.at(),
            eps: f.float(),
        };
        let layer = self.layer(f);
        let batch = self.batch(f);
        let per_row = heads + layer.heads;
        // A few heads a task: one head is too little work to be worth a turn at the cursor.
        let step = (rows * per_row)
            .div_ceil(4 * self.context.threads as usize)
            .max(4);
        for task in self.tasks((rows * per_row).div_ceil(step)) {
            for item in task * step..(rows * per_row).min((task + 1) * step) {
                let (row, head) = (item / per_row, item % per_row);
                if head < heads {
                    let at = q.add((row * heads + head) * layer.key_dim);
                    rotation.query(at, layer.key_dim, row);
                } else {
                    let head = head - heads;
                    let key = k.add((row * layer.heads + head) * layer.key_dim);
                    let value = v.add((row * layer.heads + head) * layer.value_dim);
                    rotation.key_value(key, value, head, row, &layer, &batch);
                }
            }
        }
    }

    unsafe fn attention(&self, f: &mut Fields) {
        let attention = Attention {
            rows: f.size(),
            q: f.at(),
            out: f.at_mut(),
            heads: f.size(),
            scale: f.float(),
            layer: self.layer(f),
            batch: self.batch(f),
        };
        let split = attention.split(self.context.threads as usize);
        for task in self.tasks(attention.tasks(split)) {
            attention.run(split, task, self.scratch() as *mut f32);
        }
    }
}

const MAX_OUTPUTS: usize = 4;

/// Groups of rows per task: small enough to share evenly, large enough for the streams of decoding.
fn chunk(groups: usize, threads: usize, rows: usize) -> usize {
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
