//! Runs recorded plans. A plan is a list of 32-bit words; each op starts with two of them, its opcode
//! and its length in words.
//! The field order is written down in `src/backend/wasm/plan.ts`, its only writer.

mod attention;
mod latent;
mod linear;
mod moe;
mod training;

use crate::activations::{rms_norm, Layout, Precision, FLOAT, NARROW, WIDE};
use crate::linear::{group_to_float, scratch_bytes as panel_bytes, Weight};
use crate::quant::GROUP;
use crate::sync::{Context, Round, Tasks};

const EMBED: u32 = 1;
const RMS_NORM: u32 = 2;
const LINEAR: u32 = 3;
const ROTATE: u32 = 4;
const ATTENTION: u32 = 5;
const GATHER: u32 = 6;
const HEAD_LINEAR: u32 = 7;
const ROTATE_LATENT: u32 = 8;
const LATENT_ATTENTION: u32 = 9;
const GATE: u32 = 10;
const EXPERTS: u32 = 11;
const FAULT: u32 = 12;
const ADD: u32 = 13;

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
    unsafe fn precision(&mut self) -> Precision {
        match self.word() {
            0 => Precision::Q8,
            1 => Precision::Q16,
            _ => Precision::F32,
        }
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
            HEAD_LINEAR => worker.head_linear(&mut fields),
            ROTATE_LATENT => worker.rotate_latent(&mut fields),
            LATENT_ATTENTION => worker.latent_attention(&mut fields),
            GATE => worker.gate(&mut fields, false),
            EXPERTS => worker.experts(&mut fields),
            FAULT => worker.fault(&mut fields),
            ADD => worker.add(&mut fields),
            opcode => worker.train(opcode, &mut fields),
        }
        context.end_op();
        op = op.add(*op.add(1) as usize);
    }
}

/// Where a thread keeps what it needs for itself while it computes with matrices of some width.
struct Scratch {
    /// Unpacked weights.
    panel: *mut u8,
    /// One normalised row.
    normed: *mut f32,
    /// Records of up to PRIVATE_ROWS rows of activations.
    rows: *mut u8,
}

/// Rows whose activations every thread may prepare for itself instead of waiting for the others.
const PRIVATE_ROWS: usize = 2;

/// Bytes of scratch that a thread needs; see `scratch_bytes` of the crate.
pub fn scratch_bytes(cols: usize, pairs: usize, experts: usize, cached: usize) -> usize {
    let row = Layout::new(cols, NARROW | WIDE | FLOAT, Precision::Q16).bytes;
    panel_bytes(cols)
        + cols * 4
        + 64
        + PRIVATE_ROWS * row
        + crate::attention::scratch_floats(cached) * 4
        + crate::gate::scratch_floats(experts) * 4
        + crate::experts::scratch_bytes(pairs, experts)
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

    /// This thread's scratch, parted.
    fn parts(&self, cols: usize) -> Scratch {
        let panel = self.scratch();
        let normed = panel.wrapping_add(panel_bytes(cols));
        Scratch {
            panel,
            normed: normed as *mut f32,
            rows: normed.wrapping_add(cols * 4 + 64),
        }
    }

    /// Ends one thread on purpose: with a trap, or without a word. For tests of what follows.
    unsafe fn fault(&self, f: &mut Fields) {
        let thread = f.word();
        let silent = f.word() != 0;
        if thread != self.thread {
            return;
        }
        if silent {
            self.context.vanish();
        }
        panic!("a thread fails on purpose");
    }

    unsafe fn embed(&self, f: &mut Fields) {
        let rows = f.size();
        let weight = &*f.at::<Weight>();
        let ids = f.at::<i32>();
        let out = f.at_mut::<f32>();
        let scale = f.float();
        let cols = weight.cols as usize;
        let panel = self.scratch() as *mut f32;
        for row in self.tasks(rows) {
            let id = *ids.add(row) as usize;
            group_to_float(weight, id / GROUP, panel);
            for c in 0..cols {
                *out.add(row * cols + c) = *panel.add(c * GROUP + id % GROUP) * scale;
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

    unsafe fn add(&self, f: &mut Fields) {
        let rows = f.size();
        let x = f.at::<f32>();
        let width = f.size();
        let out = f.at_mut::<f32>();
        for row in self.tasks(rows) {
            for i in row * width..(row + 1) * width {
                *out.add(i) += *x.add(i);
            }
        }
    }
}
