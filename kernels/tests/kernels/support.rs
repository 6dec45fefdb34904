//! Random weights of every type with what they mean, memory for the kernels, and error bounds.

use sluice_kernels::activations::{prepare, Layout, Precision};
use sluice_kernels::linear::{self, Epilogue, Inputs, Output, Weight};
use sluice_kernels::quant::GROUP;

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

/// A type's block in the file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub id: u32,
    /// Values and bytes of a block.
    pub values: usize,
    pub bytes: usize,
    /// Where its half-precision scales are.
    pub halves: &'static [usize],
}

const fn kind(
    name: &'static str,
    id: u32,
    values: usize,
    bytes: usize,
    halves: &'static [usize],
) -> Kind {
    Kind {
        name,
        id,
        values,
        bytes,
        halves,
    }
}

pub const KINDS: [Kind; 16] = [
    kind("F32", 0, 1, 4, &[]),
    kind("F16", 1, 1, 2, &[0]),
    kind("BF16", 30, 1, 2, &[]),
    kind("Q4_0", 2, 32, 18, &[0]),
    kind("Q4_1", 3, 32, 20, &[0, 2]),
    kind("Q5_0", 6, 32, 22, &[0]),
    kind("Q5_1", 7, 32, 24, &[0, 2]),
    kind("Q8_0", 8, 32, 34, &[0]),
    kind("Q2_K", 10, 256, 84, &[80, 82]),
    kind("Q3_K", 11, 256, 110, &[108]),
    kind("Q4_K", 12, 256, 144, &[0, 2]),
    kind("Q5_K", 13, 256, 176, &[0, 2]),
    kind("Q6_K", 14, 256, 210, &[208]),
    kind("IQ4_NL", 20, 32, 18, &[0]),
    kind("IQ4_XS", 23, 256, 136, &[0]),
    kind("MXFP4", 39, 32, 17, &[]),
];

/// The types whose products are computed in integers.
pub fn integer_kinds() -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(|kind| kind.values > 1)
}

pub fn kind_named(name: &str) -> Kind {
    *KINDS.iter().find(|kind| kind.name == name).unwrap()
}

/// How large random scales are.
#[derive(Clone, Copy, PartialEq)]
pub enum Scales {
    /// Between 1/1024 and 1/16 in magnitude.
    Moderate,
    /// Every finite value, zero and subnormals too.
    Any,
}

impl Kind {
    pub fn random_block(&self, random: &mut Random, scales: Scales) -> Vec<u8> {
        let mut block: Vec<u8> = (0..self.bytes).map(|_| random.bits() as u8).collect();
        for &at in self.halves {
            let exponent = match scales {
                Scales::Moderate => 5 + random.below(6),
                Scales::Any => random.below(31),
            };
            let half = (random.bits() & 0x83ff) as u16 | (exponent as u16) << 10;
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        match self.name {
            "F32" => block.copy_from_slice(&random.float().to_le_bytes()),
            "BF16" => block.copy_from_slice(&random.float().to_le_bytes()[2..]),
            "MXFP4" if scales == Scales::Moderate => block[0] = 118 + random.below(6) as u8,
            // The exponent 255 stands for NaN.
            "MXFP4" => block[0] = random.below(255) as u8,
            _ => {}
        }
        block
    }

    /// Value `i` of a block, as a product of scale and level and a constant term to add.
    pub fn value(&self, block: &[u8], i: usize) -> (f32, f32) {
        let half = |at: usize| half(u16::from_le_bytes([block[at], block[at + 1]]));
        // Byte and shift of value i where bytes hold values i and i + 16 of 32.
        let nibble = |at: usize| block[at + i % 16] >> (i / 16 * 4) & 15;
        let fifth = |at: usize| (block[at + i / 8] >> (i % 8) & 1) << 4;
        let product = |scale: f32, level: i32| scale * level as f32;
        match self.name {
            "F32" => (f32::from_le_bytes(block.try_into().unwrap()), 0.0),
            "F16" => (half(0), 0.0),
            "BF16" => (f32::from_le_bytes([0, 0, block[0], block[1]]), 0.0),
            "Q4_0" => (product(half(0), nibble(2) as i32 - 8), 0.0),
            "Q4_1" => (product(half(0), nibble(4) as i32), half(2)),
            "Q5_0" => (product(half(0), (nibble(6) | fifth(2)) as i32 - 16), 0.0),
            "Q5_1" => (product(half(0), (nibble(8) | fifth(4)) as i32), half(2)),
            "Q8_0" => (product(half(0), block[2 + i] as i8 as i32), 0.0),
            "Q2_K" => {
                let q = block[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
                let scale = half(80) * (block[i / 16] & 15) as f32;
                (
                    product(scale, q as i32),
                    -(half(82) * (block[i / 16] >> 4) as f32),
                )
            }
            "Q3_K" => {
                let low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
                let high = block[i % 32] >> (i / 32) & 1;
                let s = i / 16;
                let packed = &block[96..108];
                let scale = (packed[s % 8] >> (s / 8 * 4) & 15)
                    | (packed[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
                let scale = half(108) * (scale as i32 - 32) as f32;
                (product(scale, (low | high << 2) as i32 - 4), 0.0)
            }
            "Q4_K" | "Q5_K" => {
                let s = i / 32;
                let packed = &block[4..16];
                let (scale, min) = match s {
                    0..4 => (packed[s] & 63, packed[s + 4] & 63),
                    _ => (
                        packed[s + 4] & 15 | packed[s - 4] >> 6 << 4,
                        packed[s + 4] >> 4 | packed[s] >> 6 << 4,
                    ),
                };
                let nibbles = self.bytes - 128;
                let mut q = block[nibbles + i / 64 * 32 + i % 32] >> (s % 2 * 4) & 15;
                if self.name == "Q5_K" {
                    q |= (block[16 + i % 32] >> s & 1) << 4;
                }
                let scale = half(0) * scale as f32;
                (product(scale, q as i32), -(half(2) * min as f32))
            }
            "Q6_K" => {
                let low = block[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
                let high = block[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
                let scale = half(208) * (block[192 + i / 16] as i8) as f32;
                (product(scale, (low | high << 4) as i32 - 32), 0.0)
            }
            "IQ4_NL" => (product(half(0), IQ4_LEVELS[nibble(2) as usize]), 0.0),
            "IQ4_XS" => {
                let s = i / 32;
                let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * s) & 3;
                let scale = (block[4 + s / 2] >> (s % 2 * 4) & 15) | (high as u8) << 4;
                let q = block[8 + s * 16 + i % 16] >> (i % 32 / 16 * 4) & 15;
                let scale = half(0) * (scale as i32 - 32) as f32;
                (product(scale, IQ4_LEVELS[q as usize]), 0.0)
            }
            "MXFP4" => {
                let scale = 2f64.powi(block[0] as i32 - 127);
                ((scale * E2M1[nibble(1) as usize]) as f32, 0.0)
            }
            name => unreachable!("{name} is not in the table"),
        }
    }
}

const IQ4_LEVELS: [i32; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
const E2M1: [f64; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// A finite half-precision float.
pub fn half(bits: u16) -> f32 {
    let mantissa = (bits & 0x3ff) as f64;
    let magnitude = match bits >> 10 & 31 {
        0 => mantissa * 2f64.powi(-24),
        exponent => (1.0 + mantissa / 1024.0) * 2f64.powi(exponent as i32 - 15),
    };
    (if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }) as f32
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
            tokens,
            precision: self.precision,
            streams,
        }
    }
}

/// What `multiply` does besides multiplying.
pub struct Finish<'a> {
    pub epilogue: Epilogue,
    pub bias: Option<&'a [f32]>,
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
        before: &before,
    };
    multiply(matrix, inputs, &finish, &[groups])
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
