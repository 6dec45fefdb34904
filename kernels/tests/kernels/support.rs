//! Random numbers, memory for the kernels, packed matrices, calls of the product kernel, and error bounds.

use sluice_kernels::activations::{prepare, Layout, Precision};
use sluice_kernels::linear::{self, Inputs, Weight};
use sluice_kernels::output::{Epilogue, Output};
use sluice_kernels::quant::GROUP;

use crate::kinds::{Kind, Scales};

/// Unit roundoff of float32.
pub const ROUNDOFF: f64 = 1.0 / (1 << 24) as f64;

pub const PRECISIONS: [Precision; 3] = [Precision::Q8, Precision::Q16, Precision::F32];

/// Xorshift (Marsaglia 2003), which is random enough for test data.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }
    pub fn below(&mut self, n: u32) -> u32 {
        ((self.bits() as u64 * n as u64) >> 32) as u32
    }
    /// Uniform in [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Zeroed memory aligned to eight bytes, with a guard behind it that must stay as it is.
pub struct Memory {
    words: Vec<u64>,
    bytes: usize,
}

const GUARD: u64 = 0x5afe_5afe_5afe_5afe;

impl Memory {
    pub fn new(bytes: usize) -> Self {
        let mut words = vec![0; bytes.div_ceil(8)];
        words.extend([GUARD; 8]);
        Self { words, bytes }
    }
    pub fn at(&mut self) -> *mut u8 {
        self.words.as_mut_ptr() as *mut u8
    }
    pub fn check_guard(&self) {
        assert_eq!(self.words[self.bytes.div_ceil(8)..], [GUARD; 8]);
    }
}

/// A packed matrix and what it means.
pub struct Matrix {
    pub kind: Kind,
    pub rows: usize,
    pub cols: usize,
    /// `[rows][cols]`, as `Kind::value` gives them.
    pub values: Vec<(f32, f32)>,
    packed: Memory,
}

impl Matrix {
    pub fn new(
        kind: Kind,
        (rows, cols): (usize, usize),
        mut block: impl FnMut() -> Vec<u8>,
    ) -> Self {
        let blocks: Vec<Vec<u8>> = (0..rows * cols / kind.values).map(|_| block()).collect();
        let values = blocks
            .iter()
            .flat_map(|block| (0..kind.values).map(|i| kind.value(block, i)))
            .collect();
        let groups = rows.div_ceil(GROUP);
        let mut packed = Memory::new(groups * linear::group_bytes(kind.id, cols));
        // SAFETY: the file's rows are complete and `packed` has room for their groups.
        unsafe { linear::pack(kind.id, blocks.concat().as_ptr(), rows, cols, packed.at()) };
        packed.check_guard();
        Self {
            kind,
            rows,
            cols,
            values,
            packed,
        }
    }

    pub fn random(kind: Kind, shape: (usize, usize), random: &mut Random, scales: Scales) -> Self {
        Self::new(kind, shape, || kind.random_block(random, scales))
    }

    pub fn weight(&mut self) -> Weight {
        Weight {
            kind: self.kind.id,
            rows: self.rows as u32,
            cols: self.cols as u32,
            data: self.packed.at(),
        }
    }

    pub fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// Row times `x` in float64, and how far a kernel may be from it: `quantised` is the largest error
    /// of each activation's quantisation, and each of the kernel's float operations rounds.
    pub fn product(&self, row: usize, x: &[f32], quantised: &[f64]) -> (f64, f64) {
        let (mut sum, mut norm, mut spread) = (0.0, 0.0, 0.0);
        for (k, &(product, min)) in self.values[row * self.cols..][..self.cols]
            .iter()
            .enumerate()
        {
            let (product, min) = (product as f64, min as f64);
            sum += (product + min) * x[k] as f64;
            norm += (product.abs() + min.abs()) * (x[k].abs() as f64 + quantised[k]);
            spread += (product + min).abs() * quantised[k];
        }
        // At most one float operation for each column, and the conversions of a run.
        (sum, spread + (self.cols + 8) as f64 * ROUNDOFF * norm)
    }
}

/// The largest error of quantising each of `x`: half a step of its block of 32, and the roundings of
/// the step and of the quotient.
pub fn quantisation_errors(x: &[f32], precision: Precision) -> Vec<f64> {
    let levels = match precision {
        Precision::Q8 => 127.0,
        Precision::Q16 => 127.0 * 256.0,
        Precision::F32 => return vec![0.0; x.len()],
    };
    x.chunks(32)
        .flat_map(|block| {
            let peak = block.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
            let step = peak / levels;
            vec![step * (0.5 + 4.0 * levels * ROUNDOFF); block.len()]
        })
        .collect()
}

/// Records of the rows of `x` in the forms that a type reads.
pub struct Records {
    memory: Memory,
    pub layout: Layout,
    pub precision: Precision,
}

impl Records {
    pub fn new(kind: u32, x: &[f32], cols: usize, precision: Precision) -> Self {
        let forms = linear::forms(kind, precision);
        let layout = Layout::new(cols, forms, precision);
        let rows = x.len() / cols;
        let mut memory = Memory::new(rows * layout.bytes);
        for (row, x) in x.chunks(cols).enumerate() {
            // SAFETY: `memory` has room for all records.
            unsafe {
                let base = memory.at().add(row * layout.bytes);
                prepare(x.as_ptr(), &layout, forms, precision, base);
            }
        }
        memory.check_guard();
        Self {
            memory,
            layout,
            precision,
        }
    }

    /// Rows `first..first + tokens`.
    pub fn inputs(&mut self, first: usize, tokens: usize, streams: usize) -> Inputs {
        Inputs {
            base: self.memory.at().wrapping_add(first * self.layout.bytes),
            layout: self.layout,
            stride: self.layout.bytes,
            tokens,
            records: core::ptr::null(),
            precision: self.precision,
            streams,
            quads: false,
        }
    }
}

/// What `multiply` does besides multiplying.
pub struct Finish<'a> {
    pub epilogue: Epilogue,
    pub bias: Option<&'a [f32]>,
    /// Factor on the product with its bias.
    pub scale: f32,
    /// Contents of the outputs beforehand, `[tokens][rows]`.
    pub before: &'a [f32],
}

/// Runs the kernel over consecutive ranges of groups that end at `ends`; returns `[tokens][rows]`.
pub fn multiply(matrix: &mut Matrix, inputs: &Inputs, finish: &Finish, ends: &[usize]) -> Vec<f32> {
    const PADDING: f32 = 1e30;
    let rows = matrix.rows;
    let stride = rows + 3;
    let mut out = vec![PADDING; inputs.tokens * stride];
    for (to, from) in out.chunks_mut(stride).zip(finish.before.chunks(rows)) {
        to[..rows].copy_from_slice(from);
    }
    let output = Output {
        out: out.as_mut_ptr(),
        stride,
        bias: finish.bias.map_or(core::ptr::null(), <[f32]>::as_ptr),
        epilogue: finish.epilogue,
        scale: finish.scale,
        ..Output::NONE
    };
    let mut scratch = Memory::new(linear::scratch_bytes(matrix.cols));
    let weight = matrix.weight();
    let mut from = 0;
    for &to in ends {
        // SAFETY: all memory is sized by the crate's own functions.
        unsafe { linear::multiply(&weight, inputs, &output, from, to, scratch.at()) };
        from = to;
    }
    scratch.check_guard();
    out.chunks(stride)
        .flat_map(|row| {
            assert!(row[rows..].iter().all(|&x| x == PADDING), "wrote past row");
            &row[..rows]
        })
        .copied()
        .collect()
}

/// `multiply` that stores over all groups at once.
pub fn product(matrix: &mut Matrix, inputs: &Inputs) -> Vec<f32> {
    let before = vec![0.0; inputs.tokens * matrix.rows];
    let groups = matrix.groups();
    let finish = Finish {
        epilogue: Epilogue::Store,
        bias: None,
        scale: 1.0,
        before: &before,
    };
    multiply(matrix, inputs, &finish, &[groups])
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
