//! The inner loops of decoding, and of weights that are not narrow: eight weight rows times a few
//! activation rows, one block at a time.
//!
//! `tile` multiplies narrow weights with several rows of activations and adds each row's sums by the
//! same `add_run`, so that they are made in the same order however many tokens go together.

use crate::activations::{BlockMeta, Row};
use crate::quant::{Format, Narrow, Wide, SUB};
use crate::simd::{F32x4, I16x8, I32x4, U8x16};

/// Sums of eight rows (rows 0-3, rows 4-7).
pub type Sums = [F32x4; 2];

/// Adds one run's integer sums: `y += scale * activation scale * (sum - OFFSET * sum of activations)
/// + min * scaled sum of activations`.
///
/// # Safety
/// `meta` points to that of the block.
#[inline(always)]
pub unsafe fn add_run<F: Format>(
    y: &mut Sums,
    mut sums: [I32x4; 2],
    scales: [F32x4; 2],
    mins: [F32x4; 2],
    meta: *const BlockMeta,
    run: usize,
) {
    let part = if F::SCALED == SUB { 0 } else { 1 + run };
    if F::OFFSET != 0 {
        let sum = *(*meta).sum.get_unchecked(part);
        let offset = I32x4::splat(F::OFFSET * sum);
        sums = [sums[0].sub(offset), sums[1].sub(offset)];
    }
    let scale = F32x4::load_splat(&raw const (*meta).scale);
    for h in 0..2 {
        y[h] = sums[h].to_f32().mul_add(scales[h].mul(scale), y[h]);
    }
    if F::HAS_MIN {
        let sum = F32x4::load_splat((&raw const (*meta).scaled_sum as *const f32).add(part));
        for h in 0..2 {
            y[h] = mins[h].mul_add(sum, y[h]);
        }
    }
}

#[inline(always)]
fn widen(acc: [I16x8; 2]) -> [I32x4; 2] {
    [acc[0].pair_sums(), acc[1].pair_sums()]
}

#[inline(always)]
fn add2(a: [I32x4; 2], b: [I32x4; 2]) -> [I32x4; 2] {
    [a[0].add(b[0]), a[1].add(b[1])]
}

/// How a processor reads the second operand's bytes from 128 on in a dot product of four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadOfBytes {
    /// One instruction that reads them as 128 to 255 (x86 with VNNI).
    Unsigned,
    /// One instruction that reads them as -128 to -1 (ARM with its dot product).
    Signed,
    /// Several instructions, which may saturate.
    Pieces,
}

/// Finds out by trying; the build without relaxed SIMD always works in pieces.
pub fn read_of_bytes() -> ReadOfBytes {
    if cfg!(all(
        target_arch = "wasm32",
        not(target_feature = "relaxed-simd")
    )) {
        return ReadOfBytes::Pieces;
    }
    // Hidden from the compiler, which may know another answer than the processor.
    let hide = |x: u8| U8x16::splat(core::hint::black_box(x));
    let sum = |a: u8, w: u8| hide(a).dot_quads(hide(w), I32x4::splat(0)).lanes();
    let cases = [(127u8, 255u8), (128, 255), (127, 128), (255, 200)];
    let is = |read: fn(u8) -> i32| {
        cases
            .iter()
            .all(|&(a, w)| sum(a, w) == [4 * a as i8 as i32 * read(w); 4])
    };
    if is(|w| w as i32) {
        ReadOfBytes::Unsigned
    } else if is(|w| w as i8 as i32) {
        ReadOfBytes::Signed
    } else {
        ReadOfBytes::Pieces
    }
}

/// Step j of a run of sixteen activations, repeated in all lanes. A runtime checks each load against
/// the memory's end, which costs more than the load: so whole vectors are loaded (once: the compiler sees
/// that they are the same) and their parts repeated.
#[inline(always)]
unsafe fn step(bytes: *const u8, run: usize, j: usize) -> U8x16 {
    U8x16::load(bytes.add(16 * (j / 2))).splat_quad(2 * run + j % 2)
}

/// Integer sums as `pair_sums` gives them, by dot products of four bytes, of eight rows in each of G
/// blocks.
#[inline(always)]
unsafe fn quad_sums<F: Narrow, const G: usize>(
    blocks: [*const u8; G],
    sub: usize,
    bytes: *const u8,
) -> [[[I32x4; 2]; 2]; G] {
    let mut acc = [[[I32x4::splat(0); 2]; 2]; G];
    // One group has registers for two chains of additions.
    let chains = F::SCALED < SUB || G == 1;
    for j in 0..4 {
        for (g, block) in blocks.into_iter().enumerate() {
            let w = F::steps(block, sub, j);
            for run in 0..2 {
                let a = step(bytes, run, j);
                let to = if chains { run } else { 0 };
                for h in 0..2 {
                    acc[g][to][h] = a.dot_quads(w[run][h], acc[g][to][h]);
                }
            }
        }
    }
    if F::SCALED == SUB && chains {
        for sums in &mut acc {
            sums[0] = add2(sums[0], sums[1]);
        }
    }
    acc
}

/// Integer sums of 32 values of eight rows: `[run of 16][rows half]`, all in run 0 where the format's
/// scale spans 32 values.
#[inline(always)]
unsafe fn pair_sums<F: Narrow>(block: *const u8, sub: usize, bytes: *const u8) -> [[I32x4; 2]; 2] {
    let mut total = [[I32x4::splat(0); 2]; 2];
    let mut acc = [[I16x8::zero(); 2]; 2];
    let one_run = F::SCALED == SUB;
    for j in 0..4 {
        let w = F::steps(block, sub, j);
        for run in 0..2 {
            let a = step(bytes, run, j);
            let to = if one_run && F::STEPS == 8 { 0 } else { run };
            for h in 0..2 {
                acc[to][h] = acc[to][h].add(a.dot_pairs(w[run][h]));
            }
        }
        if F::STEPS == 2 && j == 1 {
            total = acc.map(widen);
            acc = [[I16x8::zero(); 2]; 2];
        }
    }
    let a = add_if(F::STEPS == 2, widen(acc[0]), total[0]);
    if one_run && F::STEPS == 8 {
        return [a, total[1]];
    }
    let b = add_if(F::STEPS == 2, widen(acc[1]), total[1]);
    if one_run {
        [add2(a, b), b]
    } else {
        [a, b]
    }
}

#[inline(always)]
fn add_if(condition: bool, a: [I32x4; 2], b: [I32x4; 2]) -> [I32x4; 2] {
    if condition {
        add2(a, b)
    } else {
        a
    }
}

/// A block in each of G groups of rows, times one row of activations: what many groups read of the
/// activations is loaded once. By dot products of four bytes where QUADS.
///
/// # Safety
/// Each of `blocks` points to `F::BYTES` bytes, `row` to the blocks' activations.
#[inline(always)]
pub unsafe fn narrow_blocks<F: Narrow, const G: usize, const Q16: bool, const QUADS: bool>(
    blocks: [*const u8; G],
    row: Row,
    y: &mut [Sums; G],
) {
    let sums_with = |sub: usize, bytes: *const u8| {
        if QUADS {
            quad_sums::<F, G>(blocks, sub, bytes)
        } else {
            blocks.map(|block| pair_sums::<F>(block, sub, bytes))
        }
    };
    for sub in 0..F::BLOCK / SUB {
        let row = row.at(sub);
        let mut sums = sums_with(sub, row.high);
        if Q16 {
            let low = sums_with(sub, row.low);
            for g in 0..G {
                for run in 0..2 {
                    for h in 0..2 {
                        sums[g][run][h] = sums[g][run][h].shl(8).add(low[g][run][h]);
                    }
                }
            }
        }
        for run in 0..SUB / F::SCALED {
            let index = sub * (SUB / F::SCALED) + run;
            for g in 0..G {
                let (scales, mins) = F::scales_and_mins(blocks[g], index);
                add_run::<F>(&mut y[g], sums[g][run], scales, mins, row.meta, run);
            }
        }
    }
}

/// One block of a wide format times T rows of activations.
///
/// # Safety
/// `block` points to `F::BYTES` bytes, `rows` to the block's activations.
#[inline(always)]
pub unsafe fn wide_block<F: Wide, const T: usize>(
    block: *const u8,
    rows: [Row; T],
    y: &mut [Sums; T],
) {
    for sub in 0..F::BLOCK / SUB {
        let rows: [Row; T] = core::array::from_fn(|t| rows[t].at(sub));
        let mut acc = [[I32x4::splat(0); 2]; T];
        for j in 0..8 {
            let w = F::pairs(block, sub, j);
            for t in 0..T {
                for run in 0..2 {
                    let at = rows[t].wide.add(16 * run);
                    let a = if T == 1 {
                        I16x8::load(at.add(j / 4 * 8)).splat_pair(j % 4)
                    } else {
                        I16x8::load_pair_splat(at.add(2 * j))
                    };
                    for h in 0..2 {
                        acc[t][h] = acc[t][h].add(a.dot(w[run][h]));
                    }
                }
            }
        }
        let scales = F::scales(block, sub);
        for t in 0..T {
            add_run::<F>(
                &mut y[t],
                acc[t],
                scales,
                [F32x4::splat(0.0); 2],
                rows[t].meta,
                0,
            );
        }
    }
}

/// `n` columns of eight float rows (`panel` is `[n][8]`) times T rows of float activations.
///
/// # Safety
/// `panel` holds `8 n` floats, each of `xs` points to `n`.
#[inline(always)]
pub unsafe fn float_block<const T: usize>(
    panel: *const f32,
    n: usize,
    xs: [*const f32; T],
    y: &mut [Sums; T],
) {
    let mut acc = *y;
    for k in 0..n {
        let w = [
            F32x4::load(panel.add(8 * k)),
            F32x4::load(panel.add(8 * k + 4)),
        ];
        for t in 0..T {
            let x = F32x4::load_splat(xs[t].add(k));
            acc[t] = [w[0].mul_add(x, acc[t][0]), w[1].mul_add(x, acc[t][1])];
        }
    }
    *y = acc;
}
