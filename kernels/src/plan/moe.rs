//! The two ops of a mixture-of-experts layer: the gate, and the experts that it chose.

use super::linear::{chunk, Source};
use super::{Fields, Worker, PRIVATE_ROWS};
use crate::activations::{prepare_blocks, rms_norm, Layout};
use crate::dot::float_block;
use crate::experts::{Expert, Groups};
use crate::gate::{Gate, Score};
use crate::linear::{float_group, multiply, Inputs, Weight};
use crate::output::{Epilogue, Output};
use crate::quant::{GROUP, SUB};
use crate::simd::F32x4;
use crate::sync::Round;
use crate::training::elementwise::swiglu;

/// Tokens that share a load of the gate's weights.
const TILE: usize = 4;
/// Rows from which on each thread routes whole tokens instead of sharing the gate's rows.
const WHOLE_TOKENS: usize = 8;

impl Worker<'_> {
    /// With `replay` the ids are those of experts that have been chosen before.
    pub unsafe fn gate(&self, f: &mut Fields, replay: bool) {
        let rows = f.size();
        let x = f.at::<f32>();
        let norm = f.at::<f32>();
        let eps = f.float();
        let normed = f.at_mut::<f32>();
        let weight = &*f.at::<Weight>();
        let bias = f.at::<f32>();
        let logits = f.at_mut::<f32>();
        let gate = Gate {
            experts: weight.rows as usize,
            correction: f.at(),
            score: Score::of(f.word()),
            groups: f.size(),
            groups_used: f.size(),
            top_two: f.word() != 0,
            top_k: f.size(),
            normalise: f.word() != 0,
            scale: f.float(),
        };
        let ids = f.at_mut::<i32>();
        let weights = f.at_mut::<f32>();

        let width = weight.cols as usize;
        let scratch = self.parts(width);
        let panel = scratch.panel as *mut f32;
        // Behind the records of rows, which a gate does not need.
        let choice = scratch.rows as *mut f32;
        let padded = gate.experts.next_multiple_of(4);
        let groups = gate.experts.div_ceil(GROUP);
        let output = Output {
            out: logits,
            stride: padded,
            bias,
            ..Output::NONE
        };
        let norm_row =
            |row: usize, to: *mut f32| rms_norm(x.add(row * width), norm, width, eps, to);
        let select = |row: usize| {
            let (ids, weights) = (ids.add(row * gate.top_k), weights.add(row * gate.top_k));
            if replay {
                gate.replay(logits.add(row * padded), ids, weights);
            } else {
                gate.choose(logits.add(row * padded), choice, ids, weights);
            }
        };
        if rows >= WHOLE_TOKENS {
            for task in self.tasks(rows.div_ceil(TILE)) {
                let first = task * TILE;
                let count = TILE.min(rows - first);
                for row in first..first + count {
                    norm_row(row, normed.add(row * width));
                }
                // The last tile repeats its last row.
                let row = |i: usize| normed.add((first + i.min(count - 1)) * width) as *const f32;
                for group in 0..groups {
                    let panel = float_group(weight, group, panel);
                    let mut y = [[F32x4::splat(0.0); 2]; TILE];
                    float_block::<TILE>(panel, width, core::array::from_fn(row), &mut y);
                    for (i, y) in y.into_iter().take(count).enumerate() {
                        output.put(first + i, group, gate.experts, y);
                    }
                }
                (first..first + count).for_each(select);
            }
            return;
        }
        for row in 0..rows {
            norm_row(row, scratch.normed);
            for group in self.row_tasks(row, groups) {
                let panel = float_group(weight, group, panel);
                let mut y = [[F32x4::splat(0.0); 2]; 1];
                float_block::<1>(panel, width, [scratch.normed], &mut y);
                output.put(row, group, gate.experts, y[0]);
            }
            if row % self.context.threads as usize == self.thread as usize {
                core::ptr::copy_nonoverlapping(scratch.normed, normed.add(row * width), width);
            }
        }
        self.context.barrier(|| {});
        self.tasks(rows).for_each(select);
    }

    /// This thread's share of the `groups` of a row; shares move on from row to row.
    fn row_tasks(&self, row: usize, groups: usize) -> impl Iterator<Item = usize> {
        let threads = self.context.threads as usize;
        let first = (self.thread as usize + row) % threads;
        (first..groups).step_by(threads)
    }

    pub unsafe fn experts(&self, f: &mut Fields) {
        let rows = f.size();
        self.experts_of(rows, f, None, true);
    }

    /// The experts of a step. `kept` gets what goes into their activations, in the order of the sorted
    /// choices; without `answers` that is all.
    pub unsafe fn experts_of(
        &self,
        rows: usize,
        f: &mut Fields,
        kept: Option<[*mut f32; 2]>,
        answers: bool,
    ) {
        let x = f.at::<f32>();
        let width = f.size();
        let intermediate = f.size();
        let table = f.at::<Expert>();
        let experts = f.size();
        let ids = f.at::<i32>();
        let weights = f.at::<f32>();
        let top_k = f.size();
        let activation = Epilogue::of(f.word());
        let scale = f.float();
        let out = f.at_mut::<f32>();
        let precision = f.precision();
        let forms = f.word();
        let shared = f.at_mut::<u8>();
        let mid_forms = f.word();
        let mid = f.at_mut::<u8>();
        let hidden = f.at_mut::<f32>();

        let scratch = self.parts(width.max(intermediate));
        let sort_at = scratch
            .rows
            .add(PRIVATE_ROWS * Layout::new(width, forms, precision).bytes);
        let groups = Groups::sort(table, experts, ids, weights, rows, top_k, sort_at);
        if groups.count == 0 {
            return;
        }
        let source = Source {
            x,
            width,
            norm: core::ptr::null(),
            eps: 0.0,
            rows,
            forms,
            precision,
        };
        let inputs = self.inputs(&source, shared, &scratch);

        // First round: gate and up for tiles of whole blocks of activations, which are quantised at
        // once for the second round.
        let mid_layout = Layout::new(intermediate, mid_forms, precision);
        let all = intermediate.div_ceil(GROUP);
        let blocks = SUB / GROUP;
        let step = chunk(groups.count * all, self.context.threads as usize, rows)
            .next_multiple_of(blocks)
            .min(all.next_multiple_of(blocks));
        let tiles = all.div_ceil(step);
        for task in self.tasks(groups.count * tiles) {
            let group = groups.get(task / tiles);
            let expert = &*table.add(group.expert);
            let (from, to) = (task % tiles * step, all.min((task % tiles + 1) * step));
            let inputs = Inputs {
                tokens: group.len,
                records: group.tokens,
                ..inputs
            };
            let gate = Output {
                out: kept
                    .map_or(hidden, |[gate, _]| gate)
                    .add(group.start * intermediate),
                stride: intermediate,
                bias: expert.biases[0],
                ..Output::NONE
            };
            let up = match kept {
                Some([_, up]) => Output {
                    out: up.add(group.start * intermediate),
                    bias: expert.biases[1],
                    ..gate
                },
                None => Output {
                    bias: expert.biases[1],
                    epilogue: activation,
                    ..gate
                },
            };
            multiply(&expert.gate, &inputs, &gate, from, to, scratch.panel);
            multiply(&expert.up, &inputs, &up, from, to, scratch.panel);
            if !answers {
                continue;
            }
            let cols = from * GROUP..intermediate.min(to * GROUP);
            for i in group.start..group.start + group.len {
                let record = mid.add(i * mid_layout.bytes);
                let row = hidden.add(i * intermediate);
                if let Some(kept) = kept {
                    let [gate, up] = kept.map(|base| base.add(i * intermediate + cols.start));
                    swiglu(gate, up, row.add(cols.start), cols.len());
                }
                prepare_blocks(row, &mid_layout, mid_forms, precision, record, cols.clone());
            }
        }
        if !answers {
            return;
        }
        self.context.barrier(|| {});

        // Second round: a tile of the output's columns takes all experts in ascending order, so that
        // sums are added in place, in an order that depends on the token alone.
        let all = width.div_ceil(GROUP);
        let step = chunk(all, self.context.threads as usize, rows);
        for task in self
            .context
            .tasks(Round::Last, all.div_ceil(step), self.thread)
        {
            let (from, to) = (task * step, all.min((task + 1) * step));
            for i in 0..groups.count {
                let group = groups.get(i);
                let expert = &*table.add(group.expert);
                let inputs = Inputs {
                    base: mid.add(group.start * mid_layout.bytes),
                    layout: mid_layout,
                    stride: mid_layout.bytes,
                    tokens: group.len,
                    records: core::ptr::null(),
                    ..inputs
                };
                let output = Output {
                    out,
                    stride: width,
                    bias: expert.biases[2],
                    epilogue: Epilogue::Accumulate,
                    scale,
                    rows: group.tokens,
                    factors: group.weights,
                };
                multiply(&expert.down, &inputs, &output, from, to, scratch.panel);
            }
        }
    }
}
