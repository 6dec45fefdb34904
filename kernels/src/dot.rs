//! The inner loops: eight weight rows times a few activation rows, one block at a time.
//!
//! Decode and prefill run the same code, either on packed weights or on a panel unpacked from them,
//! so that a token's sums are made in the same order however many tokens go together.

use crate::activations::Row;
use crate::quant::{Format, Narrow, Wide, SUB};
use crate::simd::{F32x4, I16x8, I32x4, U8x16};

/// Sums of eight rows (rows 0-3, rows 4-7).
pub type Sums = [F32x4; 2];

/// Adds one run's integer sums: `y += scale * activation scale * (sum - OFFSET * sum of activations)
/// + min * scaled sum of activations`.
#[inline(always)]
unsafe fn add_run<F: Format>(
    y: &mut Sums,
    mut sums: [I32x4; 2],
    scales: [F32x4; 2],
    mins: [F32x4; 2],
    row: &Row,
    run: usize,
) {
    let part = if F::SCALED == SUB { 0 } else { 1 + run };
    if F::OFFSET != 0 {
        let sum = *(*row.meta).sum.get_unchecked(part);
        let offset = I32x4::splat(F::OFFSET * sum);
        sums = [sums[0].sub(offset), sums[1].sub(offset)];
    }
    let scale = F32x4::load_splat(&raw const (*row.meta).scale);
    for h in 0..2 {
        y[h] = sums[h].to_f32().mul_add(scales[h].mul(scale), y[h]);
    }
    if F::HAS_MIN {
        let sum = F32x4::load_splat((&raw const (*row.meta).scaled_sum as *const f32).add(part));
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

/// Step j of 32 bytes of activations (the first or the second sixteen), repeated in all lanes. A
/// runtime checks each load against the memory's end, which costs more than the load. With one row of
/// activations it is cheaper to load whole vectors (once: the compiler sees that they are the same) and
/// to repeat their parts; with several the processor's shuffles would be the narrower way.
#[inline(always)]
unsafe fn step<const N: usize>(acts: *const u8, run: usize, j: usize) -> U8x16 {
    let at = acts.add(16 * run);
    if N == 1 {
        U8x16::load(at).splat_quad(j)
    } else {
        U8x16::load_quad_splat(at.add(4 * j))
    }
}

/// The step after each, which the compiler is not to foresee.
static NEXT_STEP: [u8; 4] = [1, 2, 3, 0];

/// As `quad_sums` of one block and several rows of activations whose sums share a scale. The loop over
/// the steps stays a loop: unrolled, the compiler takes one row after the other and loads the weights
/// again for each, which costs a tenth.
#[inline(always)]
unsafe fn tile_sums<F: Narrow, const N: usize>(
    block: *const u8,
    sub: usize,
    acts: [*const u8; N],
) -> [[[I32x4; 2]; 2]; N] {
    let mut acc = [[[I32x4::splat(0); 2]; 2]; N];
    let mut j = 0;
    loop {
        let w = F::steps(block, sub, j);
        for n in 0..N {
            for run in 0..2 {
                let a = step::<N>(acts[n], run, j);
                for h in 0..2 {
                    acc[n][0][h] = a.dot_quads(w[run][h], acc[n][0][h]);
                }
            }
        }
        j = core::ptr::read_volatile(NEXT_STEP.as_ptr().add(j)) as usize;
        if j == 0 {
            return acc;
        }
    }
}

/// Integer sums as `narrow_sums` gives them, by dot products of four bytes: of eight rows in each of G
/// blocks with each of N byte vectors. One of the two is 1.
#[inline(always)]
unsafe fn quad_sums<F: Narrow, const G: usize, const N: usize, const M: usize>(
    blocks: [*const u8; G],
    sub: usize,
    acts: [*const u8; N],
) -> [[[I32x4; 2]; 2]; M] {
    let mut acc = [[[I32x4::splat(0); 2]; 2]; M];
    // A lone token has registers for two chains of additions.
    let chains = F::SCALED < SUB || M == 1;
    for j in 0..4 {
        for (g, block) in blocks.into_iter().enumerate() {
            let w = F::steps(block, sub, j);
            for n in 0..N {
                for run in 0..2 {
                    let a = step::<N>(acts[n], run, j);
                    let to = if chains { run } else { 0 };
                    for h in 0..2 {
                        let sum = &mut acc[g + n][to][h];
                        *sum = a.dot_quads(w[run][h], *sum);
                    }
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

/// Integer sums of 32 values of eight rows with each of N byte vectors: `[run of 16][rows half]`,
/// all in run 0 where the format's scale spans 32 values.
#[inline(always)]
unsafe fn narrow_sums<F: Narrow, const N: usize, const QUADS: bool>(
    block: *const u8,
    sub: usize,
    acts: [*const u8; N],
) -> [[[I32x4; 2]; 2]; N] {
    if QUADS && N > 1 && F::SCALED == SUB {
        return tile_sums::<F, N>(block, sub, acts);
    }
    if QUADS {
        return quad_sums::<F, 1, N, N>([block], sub, acts);
    }
    let zero = [[[I32x4::splat(0); 2]; 2]; N];
    let mut total = zero;
    let mut acc = [[[I16x8::zero(); 2]; 2]; N];
    let one_run = F::SCALED == SUB;
    for j in 0..4 {
        let w = F::steps(block, sub, j);
        for n in 0..N {
            for run in 0..2 {
                let a = step::<N>(acts[n], run, j);
                let to = if one_run && F::STEPS == 8 { 0 } else { run };
                for h in 0..2 {
                    acc[n][to][h] = acc[n][to][h].add(a.dot_pairs(w[run][h]));
                }
            }
        }
        if F::STEPS == 2 && j == 1 {
            for n in 0..N {
                for run in 0..2 {
                    total[n][run] = widen(acc[n][run]);
                    acc[n][run] = [I16x8::zero(); 2];
                }
            }
        }
    }
    for n in 0..N {
        let a = add_if(F::STEPS == 2, widen(acc[n][0]), total[n][0]);
        if one_run && F::STEPS == 8 {
            total[n][0] = a;
            continue;
        }
        let b = add_if(F::STEPS == 2, widen(acc[n][1]), total[n][1]);
        total[n] = if one_run { [add2(a, b), b] } else { [a, b] };
    }
    total
}

#[inline(always)]
fn add_if(condition: bool, a: [I32x4; 2], b: [I32x4; 2]) -> [I32x4; 2] {
    if condition {
        add2(a, b)
    } else {
        a
    }
}

/// One block of a narrow format times T rows of activations, by dot products of four bytes where QUADS.
///
/// # Safety
/// `block` points to `F::BYTES` bytes, `rows` to the block's activations.
#[inline(always)]
pub unsafe fn narrow_block<F: Narrow, const T: usize, const Q16: bool, const QUADS: bool>(
    block: *const u8,
    rows: [Row; T],
    y: &mut [Sums; T],
) {
    for sub in 0..F::BLOCK / SUB {
        let rows: [Row; T] = core::array::from_fn(|t| rows[t].at(sub));
        let mut sums =
            narrow_sums::<F, T, QUADS>(block, sub, core::array::from_fn(|t| rows[t].high));
        if Q16 {
            let low = narrow_sums::<F, T, QUADS>(block, sub, core::array::from_fn(|t| rows[t].low));
            for t in 0..T {
                for run in 0..2 {
                    for h in 0..2 {
                        sums[t][run][h] = sums[t][run][h].shl(8).add(low[t][run][h]);
                    }
                }
            }
        }
        for run in 0..SUB / F::SCALED {
            let index = sub * (SUB / F::SCALED) + run;
            let (scales, mins) = F::scales_and_mins(block, index);
            for t in 0..T {
                add_run::<F>(&mut y[t], sums[t][run], scales, mins, &rows[t], run);
            }
        }
    }
}

/// A block in each of G groups of rows, times one row of activations: what many groups read of the
/// activations is loaded once.
///
/// # Safety
/// As for `narrow_block`.
#[inline(always)]
pub unsafe fn narrow_blocks<F: Narrow, const G: usize, const Q16: bool, const QUADS: bool>(
    blocks: [*const u8; G],
    row: Row,
    y: &mut [Sums; G],
) {
    let sums_with = |sub: usize, bytes: *const u8| {
        if QUADS {
            quad_sums::<F, G, 1, G>(blocks, sub, [bytes])
        } else {
            blocks.map(|block| narrow_sums::<F, 1, false>(block, sub, [bytes])[0])
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
                add_run::<F>(&mut y[g], sums[g][run], scales, mins, &row, run);
            }
        }
    }
}

/// One block of a wide format times T rows of activations.
///
/// # Safety
/// As for `narrow_block`.
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
                &rows[t],
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
