//! A decoder layer as a plan, on one and several threads, against direct calls of what its ops stand
//! for.

use sluice_kernels::activations::{prepare, rms_norm, Layout, Precision};
use sluice_kernels::attention::{scratch_floats, Attention, Batch, KvLayer, Rotation, Split, PAGE};
use sluice_kernels::cells::Cells;
use sluice_kernels::linear::{self, Inputs, Weight};
use sluice_kernels::output::{Epilogue, Output};
use sluice_kernels::quant::GROUP;
use sluice_kernels::scratch_bytes;

use crate::kinds::{kind_named, Scales};
use crate::low::{at, opcode, words, Low, Pool};
use crate::support::{bits, Matrix, Memory, Random, PRECISIONS};

const WIDTH: usize = 256;
const HIDDEN: usize = 96;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const VOCABULARY: usize = 20;
const EPS: f32 = 1e-5;
const ROPE: usize = 8;
const TABLE: [i32; 2] = [1, 0];
const EMBEDDING_SCALE: f32 = 1.5;
const VALUE_SCALE: f32 = 0.75;
/// Shorter than the longest step.
const WINDOW: usize = 11;

/// The layer's matrices.
struct Model {
    embedding: Matrix,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    output: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Model {
    fn new() -> Self {
        let mut random = Random::new(20);
        let mut matrix = |name, rows, cols| {
            Matrix::random(
                kind_named(name),
                (rows, cols),
                &mut random,
                Scales::Moderate,
            )
        };
        Self {
            embedding: matrix("Q6_K", VOCABULARY, WIDTH),
            q: matrix("Q4_K", HEADS * DIM, WIDTH),
            k: matrix("Q8_0", KV_HEADS * DIM, WIDTH),
            v: matrix("Q6_K", KV_HEADS * DIM, WIDTH),
            output: matrix("IQ4_NL", WIDTH, HEADS * DIM),
            gate: matrix("Q5_K", HIDDEN, WIDTH),
            up: matrix("Q2_K", HIDDEN, WIDTH),
            down: matrix("Q5_0", WIDTH, HIDDEN),
        }
    }
}

/// A linear op.
struct Linear {
    x: *mut f32,
    width: usize,
    norm: *mut f32,
    /// Whether the outputs are a gate and what it gates.
    paired: bool,
    /// Indices of weights, and where their results go.
    outputs: Vec<(usize, Output)>,
}

/// One forward pass: its inputs and its buffers.
struct Step {
    rows: usize,
    precision: Precision,
    weights: [*const Weight; 8],
    ids: *mut i32,
    norms: *mut f32,
    bias: *mut f32,
    sinks: *mut f32,
    cos_sin: *mut f32,
    positions: *mut i32,
    sequences: *mut i32,
    table: *mut i32,
    pages: *mut f32,
    x: *mut f32,
    q: *mut f32,
    k: *mut f32,
    v: *mut f32,
    attended: *mut f32,
    hidden: *mut f32,
    records: *mut u8,
    last: *mut i32,
    gathered: *mut f32,
    /// What all of this points into.
    _low: Low,
}

impl Step {
    fn new(model: &mut Model, rows: usize, precision: Precision) -> Self {
        let mut random = Random::new(21);
        let mut low = Low::new();
        let matrices = [
            &mut model.embedding,
            &mut model.q,
            &mut model.k,
            &mut model.v,
            &mut model.output,
            &mut model.gate,
            &mut model.up,
            &mut model.down,
        ];
        let weights = matrices.map(|matrix| low.place(&[matrix.weight()]) as *const Weight);
        let ids: Vec<i32> = (0..rows)
            .map(|_| random.below(VOCABULARY as u32) as i32)
            .collect();
        let positions: Vec<i32> = (0..rows as i32).collect();
        let page_floats = KV_HEADS * PAGE * 2 * DIM;
        let mut floats = |n: usize| low.place(&random.floats(n));
        let (norms, bias, cos_sin) = (floats(WIDTH), floats(HEADS * DIM), floats(rows * ROPE));
        let sinks = floats(HEADS);
        let mut empty = |n: usize| low.place(&vec![f32::NAN; n]);
        Self {
            rows,
            precision,
            weights,
            norms,
            bias,
            sinks,
            cos_sin,
            pages: empty(TABLE.len() * page_floats),
            x: empty(rows * WIDTH),
            q: empty(rows * HEADS * DIM),
            k: empty(rows * KV_HEADS * DIM),
            v: empty(rows * KV_HEADS * DIM),
            attended: empty(rows * HEADS * DIM),
            hidden: empty(rows * HIDDEN),
            gathered: empty(2 * WIDTH),
            // At most five bytes for each value, in all forms, and 32 for each block.
            records: empty(rows * WIDTH * 2) as *mut u8,
            ids: low.place(&ids),
            positions: low.place(&positions),
            sequences: low.place(&vec![0; rows]),
            table: low.place(&TABLE),
            last: low.place(&[rows as i32 - 1, 0]),
            _low: low,
        }
    }

    fn layer(&self) -> KvLayer {
        KvLayer {
            base: self.pages as *mut u8,
            cells: Cells::F32,
            heads: KV_HEADS,
            key_dim: DIM,
            value_dim: DIM,
        }
    }

    fn batch(&self) -> Batch {
        Batch {
            positions: self.positions,
            sequences: self.sequences,
            tables: self.table,
            table_width: TABLE.len(),
        }
    }

    /// The linear ops in order.
    fn linears(&self) -> [Linear; 4] {
        let none = core::ptr::null_mut();
        let output = |out, stride, epilogue| Output {
            out,
            stride,
            epilogue,
            ..Output::NONE
        };
        let mut q = output(self.q, HEADS * DIM, Epilogue::Store);
        q.bias = self.bias;
        let k = output(self.k, KV_HEADS * DIM, Epilogue::Store);
        let mut v = output(self.v, KV_HEADS * DIM, Epilogue::Store);
        v.scale = VALUE_SCALE;
        let add = output(self.x, WIDTH, Epilogue::Accumulate);
        let gate = output(self.hidden, HIDDEN, Epilogue::Store);
        let up = output(self.hidden, HIDDEN, Epilogue::Gate);
        let linear = |(x, width), norm, outputs: Vec<_>, paired| Linear {
            x,
            width,
            norm,
            paired,
            outputs,
        };
        let (x, attended, hidden) = (
            (self.x, WIDTH),
            (self.attended, HEADS * DIM),
            (self.hidden, HIDDEN),
        );
        [
            linear(x, self.norms, vec![(1, q), (2, k), (3, v)], false),
            linear(attended, none, vec![(4, add)], false),
            linear(x, self.norms, vec![(5, gate), (6, up)], true),
            linear(hidden, none, vec![(7, add)], false),
        ]
    }

    fn forms(&self, outputs: &[(usize, Output)]) -> u32 {
        outputs.iter().fold(0, |forms, (weight, _)| {
            // SAFETY: placed by `new`.
            forms | linear::forms(unsafe { (*self.weights[*weight]).kind }, self.precision)
        })
    }

    /// The plan's words and the number of its ops, in the order that `src/backend/wasm/recorder.ts`
    /// writes.
    fn plan(&self) -> (Vec<u32>, u32) {
        let rows = self.rows as u32;
        let kv_layer = [at(self.pages), 0, KV_HEADS as u32, DIM as u32, DIM as u32];
        let batch = [
            at(self.positions),
            at(self.sequences),
            at(self.table),
            TABLE.len() as u32,
        ];
        let mut embed = vec![rows, at(self.weights[0]), at(self.ids), at(self.x)];
        embed.push(EMBEDDING_SCALE.to_bits());
        let mut ops = vec![(opcode::EMBED, embed)];
        for linear in self.linears() {
            let mut fields = vec![
                rows,
                at(linear.x),
                linear.width as u32,
                at(linear.norm),
                EPS.to_bits(),
                self.precision as u32,
                self.forms(&linear.outputs),
                at(self.records),
                linear.paired as u32,
                linear.outputs.len() as u32,
            ];
            for (weight, output) in linear.outputs {
                fields.extend([
                    at(self.weights[weight]),
                    at(output.bias),
                    at(output.out),
                    output.stride as u32,
                    output.epilogue as u32,
                    output.scale.to_bits(),
                ]);
            }
            ops.push((opcode::LINEAR, fields));
        }
        let mut rotate = vec![rows, at(self.q), at(self.k), at(self.v), HEADS as u32];
        rotate.extend([at(self.cos_sin), ROPE as u32, 1]);
        rotate.extend([at(self.norms), at(self.norms), EPS.to_bits()]);
        rotate.extend(kv_layer.into_iter().chain(batch));
        let mut attention = vec![rows, at(self.q), at(self.attended), HEADS as u32];
        attention.extend([0.25f32.to_bits(), WINDOW as u32, at(self.sinks)]);
        attention.extend(kv_layer.into_iter().chain(batch));
        ops.splice(
            2..2,
            [(opcode::ROTATE, rotate), (opcode::ATTENTION, attention)],
        );
        let (width, gathered) = (WIDTH as u32, at(self.gathered));
        let gather = vec![2, at(self.x), width, at(self.last), gathered];
        ops.push((opcode::GATHER, gather));
        let norm = vec![2, gathered, width, at(self.norms), EPS.to_bits(), gathered];
        ops.push((opcode::RMS_NORM, norm));
        words(ops)
    }

    unsafe fn run_linear(&self, index: usize) {
        let Linear {
            x,
            width,
            norm,
            outputs,
            ..
        } = &self.linears()[index];
        let forms = self.forms(outputs);
        let layout = Layout::new(*width, forms, self.precision);
        let mut records = Memory::new(self.rows * layout.bytes);
        for row in 0..self.rows {
            let mut values = core::slice::from_raw_parts(x.add(row * width), *width).to_vec();
            if !norm.is_null() {
                let at = values.as_mut_ptr();
                rms_norm(at, *norm, *width, EPS, at);
            }
            let to = records.at().add(row * layout.bytes);
            prepare(values.as_ptr(), &layout, forms, self.precision, to);
        }
        let inputs = Inputs {
            base: records.at(),
            layout,
            stride: layout.bytes,
            tokens: self.rows,
            records: core::ptr::null(),
            precision: self.precision,
            streams: 1,
            quads: false,
        };
        let mut scratch = Memory::new(linear::scratch_bytes(*width));
        for (weight, output) in outputs {
            let weight = &*self.weights[*weight];
            let groups = (weight.rows as usize).div_ceil(GROUP);
            linear::multiply(weight, &inputs, output, 0, groups, scratch.at());
        }
    }

    /// What the plan stands for, by direct calls.
    unsafe fn run_directly(&self) -> Vec<f32> {
        let mut panel = vec![0f32; WIDTH * GROUP];
        for row in 0..self.rows {
            let id = *self.ids.add(row) as usize;
            linear::group_to_float(&*self.weights[0], id / GROUP, panel.as_mut_ptr());
            for c in 0..WIDTH {
                *self.x.add(row * WIDTH + c) = panel[c * GROUP + id % GROUP] * EMBEDDING_SCALE;
            }
        }
        self.run_linear(0);
        let rotation = Rotation {
            cos_sin: self.cos_sin,
            dim: ROPE,
            interleaved: true,
            q_norm: self.norms,
            k_norm: self.norms,
            eps: EPS,
        };
        for row in 0..self.rows {
            for head in 0..HEADS {
                rotation.query(self.q.add((row * HEADS + head) * DIM), DIM, row);
            }
            for head in 0..KV_HEADS {
                let at = (row * KV_HEADS + head) * DIM;
                let (k, v) = (self.k.add(at), self.v.add(at));
                rotation.key_value(k, v, head, row, &self.layer(), &self.batch());
            }
        }
        let attention = Attention {
            q: self.q,
            out: self.attended,
            heads: HEADS,
            rows: self.rows,
            scale: 0.25,
            window: WINDOW,
            sinks: self.sinks,
            layer: self.layer(),
            batch: self.batch(),
        };
        let split = Split { rows: 1, heads: 1 };
        let mut scores = [0f32; scratch_floats(DIM)];
        for task in 0..attention.tasks(split) {
            attention.run(split, task, scores.as_mut_ptr());
        }
        for index in 1..4 {
            self.run_linear(index);
        }
        for (i, row) in [self.rows - 1, 0].into_iter().enumerate() {
            let (from, to) = (self.x.add(row * WIDTH), self.gathered.add(i * WIDTH));
            rms_norm(from, self.norms, WIDTH, EPS, to);
        }
        self.result()
    }

    fn result(&self) -> Vec<f32> {
        // SAFETY: placed by `new`; no plan is running.
        unsafe { core::slice::from_raw_parts(self.gathered, 2 * WIDTH) }.to_vec()
    }
}

/// Runs a plan for each of `wanted` on `threads` threads, and compares bits.
fn check_threads(model: &mut Model, (threads, streams): (u32, u32), wanted: &[Wanted]) {
    let pool = Pool::new(threads, streams, scratch_bytes(WIDTH, 0, 0, DIM));
    for (rows, precision, want) in wanted {
        let step = Step::new(model, *rows, *precision);
        pool.run(&step.plan());
        assert_eq!(
            bits(&step.result()),
            bits(want),
            "{threads} threads, {streams} streams, {rows} rows, {precision:?}"
        );
    }
}

/// Rows of a step, its precision and its result.
type Wanted = (usize, Precision, Vec<f32>);

#[test]
fn a_plan_computes_what_its_ops_say_on_any_number_of_threads() {
    let mut model = Model::new();
    let mut wanted = Vec::new();
    for rows in [1, 2, 3, 20] {
        for precision in PRECISIONS {
            // SAFETY: a step's buffers are sized for its rows.
            let result = unsafe { Step::new(&mut model, rows, precision).run_directly() };
            assert!(result.iter().all(|x| x.is_finite()));
            wanted.push((rows, precision, result));
        }
    }
    for setting in [(1, 1), (1, 4), (2, 4), (3, 1)] {
        check_threads(&mut model, setting, &wanted);
    }
}
