//! The inner loop of steps of several tokens: eight weight rows times four rows of activations.
//!
//! A runtime checks each load against the memory's end, which costs more than the load. So sixteen
//! bytes of a row of activations are loaded at once and their parts repeated in registers, and one
//! pointer moves for all rows. Each row's sums are made as `dot` makes them for a row alone.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::activations::{BlockMeta, Row};
use crate::dot::{add_run, Sums};
use crate::quant::{Format, Narrow, SUB};
use crate::simd::{F32x4, I16x8, I32x4, U8x16};

/// Rows of activations that share a load of weights; the last ones of a step may be half of that.
pub const TILE: usize = 4;

/// Integer sums of 32 values of eight weight rows with each row of activations, `[run of 16][rows half]`;
/// all in run 0 where the format's scale spans 32 values.
type Products<const N: usize> = [[[I32x4; 2]; 2]; N];

/// The same block of N rows of activations: the first row's, and how far behind it the others lie.
#[derive(Clone, Copy)]
pub struct TileRows<const N: usize> {
    meta: *const u8,
    /// From a row's meta to its high bytes, and from those to its low bytes.
    high: usize,
    low: usize,
    behind: [usize; N],
}

impl<const N: usize> TileRows<N> {
    /// Of records that have one layout.
    pub fn new(rows: [Row; N]) -> Self {
        let meta = rows[0].meta as *const u8;
        Self {
            meta,
            high: (rows[0].high as usize).wrapping_sub(meta as usize),
            low: (rows[0].low as usize).wrapping_sub(rows[0].high as usize),
            behind: rows.map(|row| (row.meta as usize).wrapping_sub(meta as usize)),
        }
    }
}

/// From a block's meta to the next block's, and from its bytes to those.
const BLOCK_BYTES: usize = SUB;
const _: () = assert!(core::mem::size_of::<BlockMeta>() == BLOCK_BYTES);

/// Where the compiler must keep to the order in which this is written. Left to itself it takes one row
/// after the other, adds to each sum four products in a row, each waiting for the one before it, and runs
/// out of registers for weights. It moves nothing across a branch, and does not know that none is taken.
#[derive(Clone, Copy)]
pub struct Walls(u32);

impl Walls {
    pub fn raised() -> Self {
        Self(core::hint::black_box(0))
    }

    /// `place` differs from wall to wall, and from 0.
    #[inline(always)]
    pub fn pass(self, place: u32) {
        static NEVER_WRITTEN: AtomicU32 = AtomicU32::new(0);
        if self.0 == place {
            NEVER_WRITTEN.store(place, Ordering::Relaxed);
        }
    }
}

/// Adds the products of one half of a block's steps with the `bytes` of the first row and those behind.
#[inline(always)]
unsafe fn add_half<F: Narrow, const N: usize, const QUADS: bool>(
    (block, sub): (*const u8, usize),
    (half, walls, place): (usize, Walls, u32),
    bytes: *const u8,
    behind: [usize; N],
    sums: &mut Products<N>,
) {
    let bytes = bytes.wrapping_add(16 * half);
    let rows = behind.map(|distance| U8x16::load(bytes.wrapping_add(distance)));
    if QUADS {
        add_step::<F, N, 0>(F::steps(block, sub, 2 * half), &rows, sums);
        walls.pass(place);
        add_step::<F, N, 1>(F::steps(block, sub, 2 * half + 1), &rows, sums);
        walls.pass(place + 1);
        return;
    }
    let mut pairs = [[[I16x8::zero(); 2]; 2]; N];
    add_pairs::<F, N, 0>(F::steps(block, sub, 2 * half), &rows, &mut pairs);
    // No more steps than may be added in 16 bits.
    if F::STEPS == 2 {
        widen::<F, N>(&mut pairs, sums);
    }
    walls.pass(place);
    add_pairs::<F, N, 1>(F::steps(block, sub, 2 * half + 1), &rows, &mut pairs);
    widen::<F, N>(&mut pairs, sums);
    walls.pass(place + 1);
}

/// Which sums a run of sixteen values adds to.
const fn place<F: Format>(run: usize) -> usize {
    if F::SCALED < SUB {
        run
    } else {
        0
    }
}

#[inline(always)]
fn add_step<F: Narrow, const N: usize, const J: usize>(
    weights: [[U8x16; 2]; 2],
    rows: &[U8x16; N],
    sums: &mut Products<N>,
) {
    for t in 0..N {
        for run in 0..2 {
            let a = rows[t].splat_quad(2 * run + J);
            let sums = &mut sums[t][place::<F>(run)];
            for h in 0..2 {
                sums[h] = a.dot_quads(weights[run][h], sums[h]);
            }
        }
    }
}

#[inline(always)]
fn add_pairs<F: Narrow, const N: usize, const J: usize>(
    weights: [[U8x16; 2]; 2],
    rows: &[U8x16; N],
    pairs: &mut [[[I16x8; 2]; 2]; N],
) {
    for t in 0..N {
        for run in 0..2 {
            let a = rows[t].splat_quad(2 * run + J);
            let sums = &mut pairs[t][place::<F>(run)];
            for h in 0..2 {
                sums[h] = sums[h].add(a.dot_pairs(weights[run][h]));
            }
        }
    }
}

#[inline(always)]
fn widen<F: Narrow, const N: usize>(pairs: &mut [[[I16x8; 2]; 2]; N], sums: &mut Products<N>) {
    for t in 0..N {
        for run in 0..SUB / F::SCALED {
            for h in 0..2 {
                sums[t][run][h] = sums[t][run][h].add(pairs[t][run][h].pair_sums());
                pairs[t][run][h] = I16x8::zero();
            }
        }
    }
}

/// Sums of eight weight rows of `blocks` blocks times N rows of activations, by dot products of four
/// bytes where QUADS. A function of its own: within a larger one the runtime finds worse registers.
///
/// # Safety
/// `weights` points to the blocks, `rows` to their activations.
#[inline(never)]
pub unsafe fn multiply_tile<F: Narrow, const N: usize, const Q16: bool, const QUADS: bool>(
    weights: *const u8,
    blocks: usize,
    rows: &TileRows<N>,
) -> [Sums; N] {
    let walls = Walls::raised();
    let mut block = weights;
    let mut rows = *rows;
    let mut y = [[F32x4::splat(0.0); 2]; N];
    for _ in 0..blocks {
        for sub in 0..F::BLOCK / SUB {
            add_block::<F, N, Q16, QUADS>((block, sub), rows, walls, &mut y);
            rows.meta = rows.meta.wrapping_add(BLOCK_BYTES);
        }
        block = block.add(F::BYTES);
    }
    y
}

#[inline(always)]
unsafe fn add_block<F: Narrow, const N: usize, const Q16: bool, const QUADS: bool>(
    at: (*const u8, usize),
    rows: TileRows<N>,
    walls: Walls,
    y: &mut [Sums; N],
) {
    let mut sums = [[[I32x4::splat(0); 2]; 2]; N];
    let high = rows.meta.wrapping_add(rows.high);
    add_half::<F, N, QUADS>(at, (0, walls, 1), high, rows.behind, &mut sums);
    add_half::<F, N, QUADS>(at, (1, walls, 3), high, rows.behind, &mut sums);
    if Q16 {
        for runs in &mut sums {
            *runs = runs.map(|halves| halves.map(|sum| sum.shl(8)));
        }
        let low = high.wrapping_add(rows.low);
        add_half::<F, N, QUADS>(at, (0, walls, 5), low, rows.behind, &mut sums);
        add_half::<F, N, QUADS>(at, (1, walls, 7), low, rows.behind, &mut sums);
    }
    let (block, sub) = at;
    for run in 0..SUB / F::SCALED {
        let (scales, mins) = F::scales_and_mins(block, sub * (SUB / F::SCALED) + run);
        for t in 0..N {
            let meta = rows.meta.wrapping_add(rows.behind[t]) as *const BlockMeta;
            add_run::<F>(&mut y[t], sums[t][run], scales, mins, meta, run);
        }
    }
}
