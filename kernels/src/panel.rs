//! Weights of one group of rows, unpacked once and then used for many tokens.
//!
//! A panel is itself a format with blocks of 32 values, so the kernels of `dot` run on it unchanged.

use core::marker::PhantomData;

use crate::math::f16_to_f32;
use crate::quant::planes::{bytes_of_lanes, load_f32};
use crate::quant::{Format, Narrow, Wide, GROUP, SUB};
use crate::simd::{F32x4, I16x8, I32x4, U8x16};

const NARROW_VALUES: usize = SUB * GROUP;
const WIDE_VALUES: usize = SUB * GROUP * 2;

pub struct NarrowPanel<F>(PhantomData<F>);

impl<F: Format> Format for NarrowPanel<F> {
    const TYPE: u32 = F::TYPE;
    const BLOCK: usize = SUB;
    const FILE_BYTES: usize = 0;
    const BYTES: usize =
        NARROW_VALUES + SUB / F::SCALED * GROUP * 4 * if F::HAS_MIN { 2 } else { 1 };
    const SCALED: usize = F::SCALED;
    const HAS_MIN: bool = F::HAS_MIN;
    const OFFSET: i32 = F::OFFSET;

    unsafe fn pack(_rows: &[*const u8; GROUP], _out: *mut u8) {
        unreachable!("panels are made from packed weights")
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2] {
        load_f32(block.add(NARROW_VALUES + run * GROUP * 4))
    }
    #[inline(always)]
    unsafe fn mins(block: *const u8, run: usize) -> [F32x4; 2] {
        load_f32(block.add(NARROW_VALUES + (SUB / F::SCALED + run) * GROUP * 4))
    }
}

impl<F: Narrow> Narrow for NarrowPanel<F> {
    const STEPS: usize = F::STEPS;
    const QUADS_ONLY: bool = F::QUADS_ONLY;
    const IN_PLACE_TOKENS: usize = usize::MAX;
    #[inline(always)]
    unsafe fn steps(block: *const u8, _sub: usize, j: usize) -> [[U8x16; 2]; 2] {
        let low = block.add(32 * j);
        let high = low.add(128);
        [
            [U8x16::load(low), U8x16::load(low.add(16))],
            [U8x16::load(high), U8x16::load(high.add(16))],
        ]
    }
}

/// Unpacks one block into `F::BLOCK / 32` panel blocks.
///
/// # Safety
/// `block` points to `F::BYTES` bytes, `out` to that many blocks of the panel.
#[inline(always)]
pub unsafe fn unpack_narrow<F: Narrow>(block: *const u8, out: *mut u8) {
    let runs = SUB / F::SCALED;
    for sub in 0..F::BLOCK / SUB {
        let to = out.add(sub * NarrowPanel::<F>::BYTES);
        for j in 0..4 {
            let w = F::steps(block, sub, j);
            for run in 0..2 {
                for h in 0..2 {
                    w[run][h].store(to.add(128 * run + 32 * j + 16 * h));
                }
            }
        }
        for run in 0..runs {
            let scales = (to.add(NARROW_VALUES) as *mut f32).add(run * GROUP);
            let [a, b] = F::scales(block, sub * runs + run);
            a.store(scales);
            b.store(scales.add(4));
            if F::HAS_MIN {
                let [a, b] = F::mins(block, sub * runs + run);
                a.store(scales.add(runs * GROUP));
                b.store(scales.add(runs * GROUP + 4));
            }
        }
    }
}

pub struct WidePanel<F>(PhantomData<F>);

impl<F: Format> Format for WidePanel<F> {
    const TYPE: u32 = F::TYPE;
    const BLOCK: usize = SUB;
    const FILE_BYTES: usize = 0;
    const BYTES: usize = WIDE_VALUES + GROUP * 4;
    const SCALED: usize = SUB;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = F::OFFSET;

    unsafe fn pack(_rows: &[*const u8; GROUP], _out: *mut u8) {
        unreachable!("panels are made from packed weights")
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, _run: usize) -> [F32x4; 2] {
        load_f32(block.add(WIDE_VALUES))
    }
}

impl<F: Wide> Wide for WidePanel<F> {
    #[inline(always)]
    unsafe fn pairs(block: *const u8, _sub: usize, j: usize) -> [[I16x8; 2]; 2] {
        let low = (block as *const i16).add(16 * j);
        let high = low.add(128);
        [
            [I16x8::load(low), I16x8::load(low.add(8))],
            [I16x8::load(high), I16x8::load(high.add(8))],
        ]
    }
}

/// Unpacks one block into `F::BLOCK / 32` panel blocks.
///
/// # Safety
/// As for `unpack_narrow`.
#[inline(always)]
pub unsafe fn unpack_wide<F: Wide>(block: *const u8, out: *mut u8) {
    for sub in 0..F::BLOCK / SUB {
        let to = out.add(sub * WidePanel::<F>::BYTES);
        for j in 0..8 {
            let w = F::pairs(block, sub, j);
            for run in 0..2 {
                for h in 0..2 {
                    w[run][h].store((to as *mut i16).add(128 * run + 16 * j + 8 * h));
                }
            }
        }
        let scales = to.add(WIDE_VALUES) as *mut f32;
        let [a, b] = F::scales(block, sub);
        a.store(scales);
        b.store(scales.add(4));
    }
}

/// Dequantises one block to `[F::BLOCK][8]` floats: `scale * (q - OFFSET) + min`, each step rounded.
///
/// # Safety
/// `block` points to `F::BYTES` bytes, `out` to `8 * F::BLOCK` floats.
#[inline(always)]
pub unsafe fn narrow_to_float<F: Narrow>(block: *const u8, out: *mut f32) {
    let offset = I32x4::splat(F::OFFSET);
    for sub in 0..F::BLOCK / SUB {
        for run in 0..2 {
            let index = (sub * SUB + run * 16) / F::SCALED;
            let scales = F::scales(block, index);
            let mins = F::mins(block, index);
            for j in 0..4 {
                let w = F::steps(block, sub, j)[run];
                for h in 0..2 {
                    for (c, q) in bytes_of_lanes(w[h]).into_iter().enumerate() {
                        let mut v = q.sub(offset).to_f32().mul(scales[h]);
                        if F::HAS_MIN {
                            v = v.add(mins[h]);
                        }
                        v.store(out.add((sub * SUB + run * 16 + 4 * j + c) * GROUP + 4 * h));
                    }
                }
            }
        }
    }
}

/// Dequantises one block of a wide format, as `narrow_to_float`.
///
/// # Safety
/// As for `narrow_to_float`.
#[inline(always)]
pub unsafe fn wide_to_float<F: Wide>(block: *const u8, out: *mut f32) {
    for sub in 0..F::BLOCK / SUB {
        let scales = F::scales(block, sub);
        for j in 0..8 {
            let w = F::pairs(block, sub, j);
            for run in 0..2 {
                for h in 0..2 {
                    let mut bits = [0i16; 8];
                    w[run][h].store(bits.as_mut_ptr());
                    for c in 0..2 {
                        let q = I32x4::gather([bits[c], bits[2 + c], bits[4 + c], bits[6 + c]]);
                        let k = sub * SUB + run * 16 + 2 * j + c;
                        q.to_f32().mul(scales[h]).store(out.add(k * GROUP + 4 * h));
                    }
                }
            }
        }
    }
}

/// Eight rows of a float format, `[n][8]` in memory, as float32.
///
/// # Safety
/// `src` holds `8 n` values of the type, `out` room for `8 n` floats.
pub unsafe fn widen_floats(kind: u32, src: *const u8, n: usize, out: *mut f32) {
    for k in 0..n {
        let [a, b] = match kind {
            0 => load_f32(src.add(k * 32)),
            1 => f16_to_f32(I16x8::load((src as *const i16).add(k * 8))),
            _ => {
                let v = I16x8::load((src as *const i16).add(k * 8));
                [
                    v.widen_low_u().shl(16).as_f32(),
                    v.widen_high_u().shl(16).as_f32(),
                ]
            }
        };
        a.store(out.add(k * 8));
        b.store(out.add(k * 8 + 4));
    }
}
