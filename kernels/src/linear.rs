//! Matrix times activations: which kernel runs for a weight type, and over which rows.

use crate::activations::{Layout, Precision, Row, FLOAT, NARROW, WIDE};
use crate::dot::{float_block, narrow_blocks, wide_block, Sums};
use crate::output::Output;
use crate::panel::{self, NarrowPanel, WidePanel};
use crate::quant::{float8, Format, Narrow, Wide, GROUP, SUB};
use crate::simd::{F32x4, I32x4};
use crate::tile::{multiply_tile, TileRows, TILE};
use crate::with_format;
use core::slice::from_raw_parts as slice;

/// A matrix in shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    pub kind: u32,
    pub rows: u32,
    pub cols: u32,
    pub data: *const u8,
}

const F32: u32 = 0;
const F16: u32 = 1;
const BF16: u32 = 30;
const F8: u32 = float8::TYPE;

fn float_bytes(kind: u32) -> Option<usize> {
    match kind {
        F32 => Some(4),
        F16 | BF16 => Some(2),
        _ => None,
    }
}

/// Values per block and bytes per block of eight rows; None for types without a kernel.
pub fn geometry(kind: u32) -> Option<(usize, usize)> {
    if let Some(bytes) = float_bytes(kind) {
        return Some((1, bytes * GROUP));
    }
    if kind == F8 {
        return Some((SUB, float8::BYTES));
    }
    with_format!(kind,
        narrow F => Some((F::BLOCK, F::BYTES)),
        wide F => Some((F::BLOCK, F::BYTES)),
        else => None)
}

/// Bytes of a group of eight rows.
pub fn group_bytes(kind: u32, cols: usize) -> usize {
    let (block, bytes) = geometry(kind).expect("a type with a kernel");
    cols / block * bytes
}

/// Forms of activations that a weight of this type reads.
pub fn forms(kind: u32, precision: Precision) -> u32 {
    if precision == Precision::F32 || float_bytes(kind).is_some() || kind == F8 {
        return FLOAT;
    }
    with_format!(kind, narrow _F => NARROW, wide _F => WIDE, else => FLOAT)
}

/// Bytes of scratch that a thread needs for matrices of this width.
pub fn scratch_bytes(cols: usize) -> usize {
    // The widest panel is the float one.
    cols.div_ceil(256) * 256 * GROUP * 4
}

/// Packs `rows` rows (a multiple of eight, or the matrix's last ones) from the file's layout.
///
/// # Safety
/// `src` holds the rows, `dst` room for their groups.
pub unsafe fn pack(kind: u32, src: *const u8, rows: usize, cols: usize, dst: *mut u8) {
    match float_bytes(kind) {
        Some(4) => return transpose_groups(src as *const u32, rows, cols, dst as *mut u32),
        Some(_) => return transpose_groups(src as *const u16, rows, cols, dst as *mut u16),
        None => {}
    }
    if kind == F8 {
        float8::pack(src, rows, cols, dst);
        return;
    }
    with_format!(kind,
        narrow F => pack_blocks::<F>(src, rows, cols, dst),
        wide F => pack_blocks::<F>(src, rows, cols, dst),
        else => unreachable!("checked by geometry"))
}

/// Writes groups of eight rows as `[cols][8]`; the last group is filled up with zeros.
unsafe fn transpose_groups<T: Copy + Default>(
    src: *const T,
    rows: usize,
    cols: usize,
    dst: *mut T,
) {
    for group in 0..rows.div_ceil(GROUP) {
        let out = dst.add(group * cols * GROUP);
        let from = src.add(group * GROUP * cols);
        if (group + 1) * GROUP <= rows {
            for c in 0..cols {
                for r in 0..GROUP {
                    *out.add(c * GROUP + r) = from.add(r * cols + c).read_unaligned();
                }
            }
            continue;
        }
        for c in 0..cols {
            for r in 0..GROUP {
                *out.add(c * GROUP + r) = if group * GROUP + r < rows {
                    from.add(r * cols + c).read_unaligned()
                } else {
                    T::default()
                };
            }
        }
    }
}

/// Whether no value has all bits of the exponent set. Without a branch, so that it becomes vectors.
fn exponents_below<T: Copy + core::ops::BitAnd<Output = T> + PartialEq>(
    values: &[T],
    exponent: T,
) -> bool {
    let full = values
        .iter()
        .map(|&value| (value & exponent == exponent) as u32)
        .fold(0, |any, is| any | is);
    full == 0
}

unsafe fn pack_blocks<F: Format>(src: *const u8, rows: usize, cols: usize, dst: *mut u8) {
    let blocks = cols / F::BLOCK;
    let zeros = [0u8; 256];
    for group in 0..rows.div_ceil(GROUP) {
        for block in 0..blocks {
            let pointers: [*const u8; GROUP] = core::array::from_fn(|r| {
                let row = group * GROUP + r;
                if row < rows {
                    src.add((row * blocks + block) * F::FILE_BYTES)
                } else {
                    zeros.as_ptr()
                }
            });
            F::pack(&pointers, dst.add((group * blocks + block) * F::BYTES));
        }
    }
}

/// Activation rows of a step.
#[derive(Clone, Copy)]
pub struct Inputs {
    pub base: *const u8,
    pub layout: Layout,
    /// Bytes from one row's record to the next.
    pub stride: usize,
    pub tokens: usize,
    /// Which record each token reads; null: its own.
    pub records: *const u32,
    pub precision: Precision,
    /// Groups that a decode kernel walks side by side, each its own stream through memory: 1 suits
    /// processors that fetch far ahead by themselves, 4 those that don't. Which is faster is measured
    /// while running.
    pub streams: usize,
    /// Dot products of four bytes are one instruction here.
    pub quads: bool,
}

impl Inputs {
    #[inline(always)]
    unsafe fn row(&self, token: usize) -> Row {
        let record = if self.records.is_null() {
            token
        } else {
            *self.records.add(token) as usize
        };
        Row::new(self.base.add(record * self.stride), &self.layout)
    }
}

#[inline(always)]
fn no_sums() -> Sums {
    [F32x4::splat(0.0); 2]
}

/// Computes groups `from..to` of a matrix for all tokens.
///
/// # Safety
/// `scratch` holds `scratch_bytes(cols)`, the inputs have the forms that `forms` states.
pub unsafe fn multiply(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
    scratch: *mut u8,
) {
    let kind = weight.kind;
    if forms(kind, inputs.precision) == FLOAT {
        float_groups(weight, inputs, output, from, to, scratch as *mut f32);
        return;
    }
    let q16 = inputs.precision == Precision::Q16;
    with_format!(kind,
        narrow F => match (q16, inputs.quads || F::QUADS_ONLY) {
            (false, false) => narrow::<F, false, false>(weight, inputs, output, from, to, scratch),
            (false, true) => narrow::<F, false, true>(weight, inputs, output, from, to, scratch),
            (true, false) => narrow::<F, true, false>(weight, inputs, output, from, to, scratch),
            (true, true) => narrow::<F, true, true>(weight, inputs, output, from, to, scratch),
        },
        wide F => match (inputs.tokens, inputs.streams) {
            (1, 1) => wide_decode::<F, 1>(weight, inputs, output, from, to),
            (1, _) => wide_decode::<F, 4>(weight, inputs, output, from, to),
            _ => wide_prefill::<F>(weight, inputs, output, from, to, scratch),
        },
        else => unreachable!("checked by forms"))
}

/// Walks `$streams` groups side by side. `$kernel` gets the block's address, its activations, and sums.
/// Addresses advance by addition, which leaves constant offsets to the load instructions.
macro_rules! decode_groups {
    ($streams:ident, $format:ident, $weight:ident, $inputs:ident, $output:ident, $from:ident, $to:ident, $kernel:expr) => {{
        let blocks = $weight.cols as usize / $format::BLOCK;
        let stride = blocks * $format::BYTES;
        let mut group = $from;
        while group + $streams <= $to {
            let mut p = $weight.data.add(group * stride);
            let mut row = $inputs.row(0);
            let mut y = [[no_sums(); 1]; $streams];
            for _ in 0..blocks {
                for s in 0..$streams {
                    $kernel(p.add(s * stride), [row], &mut y[s]);
                }
                p = p.add($format::BYTES);
                row = row.at($format::BLOCK / SUB);
            }
            for s in 0..$streams {
                $output.put(0, group + s, $weight.rows as usize, y[s][0]);
            }
            group += $streams;
        }
        while group < $to {
            let mut p = $weight.data.add(group * stride);
            let mut row = $inputs.row(0);
            let mut y = [no_sums(); 1];
            for _ in 0..blocks {
                $kernel(p, [row], &mut y);
                p = p.add($format::BYTES);
                row = row.at($format::BLOCK / SUB);
            }
            $output.put(0, group, $weight.rows as usize, y[0]);
            group += 1;
        }
    }};
}

unsafe fn narrow<F: Narrow, const Q16: bool, const QUADS: bool>(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
    scratch: *mut u8,
) {
    // Two scales for 32 values mean twice the sums, for which four groups have no registers.
    let streams = inputs.streams.min(if F::SCALED < SUB { 2 } else { 4 });
    match (inputs.tokens, streams) {
        (1, 1) => narrow_decode::<F, 1, Q16, QUADS>(weight, inputs, output, from, to),
        (1, 2) => narrow_decode::<F, 2, Q16, QUADS>(weight, inputs, output, from, to),
        (1, _) => narrow_decode::<F, 4, Q16, QUADS>(weight, inputs, output, from, to),
        _ => narrow_tiles::<F, Q16, QUADS>(weight, inputs, output, from, to, scratch),
    }
}

/// Walks S groups side by side, block by block. They lie a share of the range apart, so that each is a
/// long stream of its own: neighbours would be short ones, which no processor foresees.
unsafe fn narrow_decode<F: Narrow, const S: usize, const Q16: bool, const QUADS: bool>(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
) {
    let each = (to - from) / S;
    for i in 0..each {
        let groups = core::array::from_fn(|s| from + s * each + i);
        narrow_decode_groups::<F, S, Q16, QUADS>(weight, inputs, output, groups);
    }
    for group in from + S * each..to {
        narrow_decode_groups::<F, 1, Q16, QUADS>(weight, inputs, output, [group]);
    }
}

#[inline(never)]
unsafe fn narrow_decode_groups<F: Narrow, const S: usize, const Q16: bool, const QUADS: bool>(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    groups: [usize; S],
) {
    let blocks = weight.cols as usize / F::BLOCK;
    let mut at = groups.map(|group| weight.data.add(group * blocks * F::BYTES));
    let mut row = inputs.row(0);
    let mut y = [no_sums(); S];
    for _ in 0..blocks {
        narrow_blocks::<F, S, Q16, QUADS>(at, row, &mut y);
        at = at.map(|p| p.add(F::BYTES));
        row = row.at(F::BLOCK / SUB);
    }
    for (group, y) in groups.into_iter().zip(y) {
        output.put(0, group, weight.rows as usize, y);
    }
}

unsafe fn wide_decode<F: Wide, const S: usize>(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
) {
    decode_groups!(S, F, weight, inputs, output, from, to, wide_block::<F, 1>);
}

/// Runs `$body` for all tokens in tiles of TILE, then for what remains one by one.
macro_rules! token_tiles {
    ($tokens:expr, $t:ident, $tile:ident, $body:block) => {{
        let mut $t = 0;
        while $t + TILE <= $tokens {
            const $tile: usize = TILE;
            $body
            $t += TILE;
        }
        while $t < $tokens {
            const $tile: usize = 1;
            $body
            $t += 1;
        }
    }};
}

/// Multiplies groups of rows with several tokens: from a panel, or in place where that is cheaper.
unsafe fn narrow_tiles<F: Narrow, const Q16: bool, const QUADS: bool>(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
    panel: *mut u8,
) {
    let blocks = weight.cols as usize / F::BLOCK;
    let subs = F::BLOCK / SUB;
    for group in from..to {
        let packed = weight.data.add(group * blocks * F::BYTES);
        let to = (output, group, weight.rows as usize);
        if inputs.tokens <= F::IN_PLACE_TOKENS {
            group_tiles::<F, Q16, QUADS>((packed, blocks), inputs, to);
            continue;
        }
        for block in 0..blocks {
            let to = panel.add(block * subs * NarrowPanel::<F>::BYTES);
            panel::unpack_narrow::<F>(packed.add(block * F::BYTES), to);
        }
        group_tiles::<NarrowPanel<F>, Q16, QUADS>((panel, blocks * subs), inputs, to);
    }
}

/// One group of rows times all tokens, in tiles; a tile with fewer tokens repeats its last.
#[inline(always)]
unsafe fn group_tiles<F: Narrow, const Q16: bool, const QUADS: bool>(
    (weights, blocks): (*const u8, usize),
    inputs: &Inputs,
    (output, group, rows): (&Output, usize, usize),
) {
    const HALF: usize = TILE / 2;
    for first in (0..inputs.tokens).step_by(TILE) {
        let count = TILE.min(inputs.tokens - first);
        let row = |i: usize| inputs.row(first + i.min(count - 1));
        if count > HALF {
            let tile = TileRows::new(core::array::from_fn(row));
            let y = multiply_tile::<F, TILE, Q16, QUADS>(weights, blocks, &tile);
            output.put_tile(first, group, rows, &y[..count]);
        } else {
            let tile = TileRows::new(core::array::from_fn(row));
            let y = multiply_tile::<F, HALF, Q16, QUADS>(weights, blocks, &tile);
            output.put_tile(first, group, rows, &y[..count]);
        }
    }
}

unsafe fn wide_prefill<F: Wide>(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
    panel: *mut u8,
) {
    let blocks = weight.cols as usize / F::BLOCK;
    let subs = F::BLOCK / SUB;
    let bytes = WidePanel::<F>::BYTES;
    for group in from..to {
        for block in 0..blocks {
            let src = weight.data.add((group * blocks + block) * F::BYTES);
            panel::unpack_wide::<F>(src, panel.add(block * subs * bytes));
        }
        token_tiles!(inputs.tokens, t, N, {
            let mut rows: [Row; N] = core::array::from_fn(|i| inputs.row(t + i));
            let mut y = [no_sums(); N];
            let mut p = panel as *const u8;
            for _ in 0..blocks * subs {
                wide_block::<WidePanel<F>, N>(p, rows, &mut y);
                p = p.add(bytes);
                rows = rows.map(|r| r.at(1));
            }
            for (i, y) in y.into_iter().enumerate() {
                output.put(t + i, group, weight.rows as usize, y);
            }
        });
    }
}

/// Dequantises one group to `[cols][8]` floats.
///
/// # Safety
/// `panel` has room for `8 cols` floats, rounded up to whole blocks.
pub unsafe fn group_to_float(weight: &Weight, group: usize, panel: *mut f32) {
    let cols = weight.cols as usize;
    let base = weight.data.add(group * group_bytes(weight.kind, cols));
    if float_bytes(weight.kind).is_some() {
        panel::widen_floats(weight.kind, base, cols, panel);
        return;
    }
    if weight.kind == F8 {
        float8::to_float(base, cols, panel);
        return;
    }
    with_format!(weight.kind,
        narrow F => for block in 0..cols / F::BLOCK {
            panel::narrow_to_float::<F>(base.add(block * F::BYTES), panel.add(block * F::BLOCK * GROUP));
        },
        wide F => for block in 0..cols / F::BLOCK {
            panel::wide_to_float::<F>(base.add(block * F::BYTES), panel.add(block * F::BLOCK * GROUP));
        },
        else => unreachable!("checked by geometry"));
}

/// One group as `[cols][8]` floats: the matrix itself where it holds them, else unpacked to `panel`.
///
/// # Safety
/// As for `group_to_float`.
pub unsafe fn float_group(weight: &Weight, group: usize, panel: *mut f32) -> *const f32 {
    if weight.kind == F32 {
        return (weight.data as *const f32).add(group * weight.cols as usize * GROUP);
    }
    group_to_float(weight, group, panel);
    panel
}

/// Whether all values of packed rows are finite: those of floats, and the scales and minima of blocks.
///
/// # Safety
/// `packed` holds the groups of `rows` rows of this type.
pub unsafe fn all_finite(kind: u32, packed: *const u8, rows: usize, cols: usize) -> bool {
    let groups = rows.div_ceil(GROUP);
    let n = groups * cols * GROUP;
    match kind {
        F32 => return exponents_below(slice(packed as *const u32, n), 0x7f80_0000),
        F16 => return exponents_below(slice(packed as *const u16, n), 0x7c00),
        BF16 => return exponents_below(slice(packed as *const u16, n), 0x7f80),
        _ => {}
    }
    // Halves are widened without regard to infinities and NaN, which land at 65536 and above; the
    // exponent that stands for NaN in MXFP4 lands at 2^127.
    let limit = F32x4::splat(match kind {
        2 | 3 | 6 | 7 | 8 | 20 | 1008 => 65536.0,
        39 => 1e38,
        _ => f32::INFINITY,
    });
    let mut good = I32x4::splat(-1);
    let mut check = |[a, b]: Sums| {
        good = good.and(a.abs().lt(limit)).and(b.abs().lt(limit));
    };
    if kind == F8 {
        return float8::all_finite(packed, groups * cols / SUB);
    }
    with_format!(kind,
            narrow F => for block in 0..groups * cols / F::BLOCK {
                let block = packed.add(block * F::BYTES);
                for run in 0..F::BLOCK / F::SCALED {
                    check(F::scales(block, run));
                    if F::HAS_MIN {
                        check(F::mins(block, run));
                    }
                }
            },
            wide F => for block in 0..groups * cols / F::BLOCK {
                let block = packed.add(block * F::BYTES);
                for run in 0..F::BLOCK / F::SCALED {
                    check(F::scales(block, run));
                }
            },
            else => unreachable!("checked by geometry"));
    good.lanes() == [-1; 4]
}

unsafe fn float_groups(
    weight: &Weight,
    inputs: &Inputs,
    output: &Output,
    from: usize,
    to: usize,
    panel: *mut f32,
) {
    let cols = weight.cols as usize;
    for group in from..to {
        let panel = float_group(weight, group, panel);
        token_tiles!(inputs.tokens, t, N, {
            let xs: [*const f32; N] = core::array::from_fn(|i| inputs.row(t + i).float);
            let mut y = [no_sums(); N];
            float_block::<N>(panel, cols, xs, &mut y);
            for (i, y) in y.into_iter().enumerate() {
                output.put(t + i, group, weight.rows as usize, y);
            }
        });
    }
}
