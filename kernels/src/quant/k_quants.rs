//! The 256-value formats Q2_K to Q6_K: a float scale per block, integer scales per run of 16 or 32.
//!
//! Here a block starts with its eight float scales (and, with minima, eight float minimum scales),
//! then for each 32 values come the integer scales of eight rows and the planes of bits.

use super::planes::{self, Values, BITS, BIT_PAIRS, NIBBLES};
use super::{Format, Narrow, GROUP, SUB};
use crate::math::f16_scalar;
use crate::simd::{F32x4, U8x16};

const SUBS: usize = 8;

/// Writes eight half-precision fields as single precision, times `sign`.
unsafe fn gather_f16(rows: &[*const u8; GROUP], at: usize, sign: f32, out: *mut u8) {
    for (r, row) in rows.iter().enumerate() {
        let value = f16_scalar((row.add(at) as *const u16).read_unaligned());
        (out as *mut f32).add(r).write_unaligned(value * sign);
    }
}

/// 32 bytes of a row's block.
#[inline(always)]
unsafe fn run_of_32(row: *const u8, at: usize) -> [u8; SUB] {
    (row.add(at) as *const [u8; SUB]).read_unaligned()
}

/// The `sub`-th six-bit scale and minimum of Q4_K and Q5_K.
unsafe fn scale_and_min(scales: *const u8, sub: usize) -> (u8, u8) {
    let s = |i: usize| *scales.add(i);
    if sub < 4 {
        (s(sub) & 63, s(sub + 4) & 63)
    } else {
        (
            s(sub + 4) & 15 | (s(sub - 4) >> 6) << 4,
            s(sub + 4) >> 4 | (s(sub) >> 6) << 4,
        )
    }
}

macro_rules! with_scale_and_min {
    ($name:ident, $type:literal, file: $file:literal, fifth_bit: $fifth:literal) => {
        pub struct $name;

        impl $name {
            const SUB_BYTES: usize = 16 + NIBBLES + if $fifth { BITS } else { 0 };
            #[inline(always)]
            unsafe fn sub(block: *const u8, sub: usize) -> *const u8 {
                block.add(64 + sub * Self::SUB_BYTES)
            }
        }

        impl Format for $name {
            const TYPE: u32 = $type;
            const BLOCK: usize = 256;
            const FILE_BYTES: usize = $file;
            const BYTES: usize = 64 + SUBS * Self::SUB_BYTES;
            const SCALED: usize = 32;
            const HAS_MIN: bool = true;
            const OFFSET: i32 = 0;

            unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
                gather_f16(rows, 0, 1.0, out);
                // Minima are subtracted.
                gather_f16(rows, 2, -1.0, out.add(32));
                for sub in 0..SUBS {
                    let at = Self::sub(out, sub) as *mut u8;
                    let mut values: Values = [[0; SUB]; GROUP];
                    let mut fifth: Values = [[0; SUB]; GROUP];
                    for (r, row) in rows.iter().enumerate() {
                        let (scale, min) = scale_and_min(row.add(4), sub);
                        *at.add(r) = scale;
                        *at.add(GROUP + r) = min;
                        let nibbles = run_of_32(*row, if $fifth { 48 } else { 16 } + sub / 2 * 32);
                        values[r] = nibbles.map(|byte| byte >> (4 * (sub % 2)) & 15);
                        if $fifth {
                            fifth[r] = run_of_32(*row, 16).map(|byte| byte >> sub & 1);
                        }
                    }
                    planes::pack_nibbles(&values, at.add(16));
                    if $fifth {
                        planes::pack_bits(&fifth, at.add(16 + NIBBLES));
                    }
                }
            }
            #[inline(always)]
            unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2] {
                planes::scaled_u8(Self::sub(block, run), planes::load_f32(block))
            }
            #[inline(always)]
            unsafe fn mins(block: *const u8, run: usize) -> [F32x4; 2] {
                planes::scaled_u8(
                    Self::sub(block, run).add(GROUP),
                    planes::load_f32(block.add(32)),
                )
            }
            #[inline(always)]
            unsafe fn scales_and_mins(block: *const u8, run: usize) -> ([F32x4; 2], [F32x4; 2]) {
                let bytes = U8x16::load(Self::sub(block, run));
                (
                    planes::scaled_words(bytes.widen_low_u(), planes::load_f32(block)),
                    planes::scaled_words(bytes.widen_high_u(), planes::load_f32(block.add(32))),
                )
            }
        }

        impl Narrow for $name {
            const STEPS: usize = if $fifth { 4 } else { 8 };
            const IN_PLACE_TOKENS: usize = if $fifth { 8 } else { 16 };
            #[inline(always)]
            unsafe fn steps(block: *const u8, sub: usize, j: usize) -> [[U8x16; 2]; 2] {
                let plane = Self::sub(block, sub).add(16);
                let low = planes::nibbles(plane, j);
                if $fifth {
                    planes::or(low, planes::bits(plane.add(NIBBLES), j, 4))
                } else {
                    low
                }
            }
        }
    };
}

with_scale_and_min!(Q4K, 12, file: 144, fifth_bit: false);
with_scale_and_min!(Q5K, 13, file: 176, fifth_bit: true);

pub struct Q6K;

impl Q6K {
    const SUB_BYTES: usize = 16 + NIBBLES + BIT_PAIRS;
    #[inline(always)]
    unsafe fn sub(block: *const u8, sub: usize) -> *const u8 {
        block.add(32 + sub * Self::SUB_BYTES)
    }
}

impl Format for Q6K {
    const TYPE: u32 = 14;
    const BLOCK: usize = 256;
    const FILE_BYTES: usize = 210;
    const BYTES: usize = 32 + SUBS * Self::SUB_BYTES;
    const SCALED: usize = 16;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 32;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        gather_f16(rows, 208, 1.0, out);
        for sub in 0..SUBS {
            let at = Self::sub(out, sub) as *mut u8;
            let mut low: Values = [[0; SUB]; GROUP];
            let mut high: Values = [[0; SUB]; GROUP];
            // Each half of 128 values: 64 bytes of nibbles (values 0-63 low, 64-127 high), 32 bytes
            // of bit pairs (four runs of 32), 8 scales.
            let (half, run) = (sub / 4, sub % 4);
            for (r, row) in rows.iter().enumerate() {
                *at.add(r) = *row.add(192 + sub * 2);
                *at.add(GROUP + r) = *row.add(192 + sub * 2 + 1);
                low[r] = run_of_32(*row, half * 64 + run % 2 * 32)
                    .map(|byte| byte >> (4 * (run / 2)) & 15);
                high[r] = run_of_32(*row, 128 + half * 32).map(|byte| byte >> (2 * run) & 3);
            }
            planes::pack_nibbles(&low, at.add(16));
            planes::pack_bit_pairs(&high, at.add(16 + NIBBLES));
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2] {
        let p = Self::sub(block, run / 2).add(run % 2 * GROUP);
        planes::scaled_s8(p, planes::load_f32(block))
    }
}

impl Narrow for Q6K {
    const STEPS: usize = 2;
    const IN_PLACE_TOKENS: usize = 8;
    #[inline(always)]
    unsafe fn steps(block: *const u8, sub: usize, j: usize) -> [[U8x16; 2]; 2] {
        let plane = Self::sub(block, sub).add(16);
        planes::or(
            planes::nibbles(plane, j),
            planes::bit_pairs(plane.add(NIBBLES), j, 4),
        )
    }
}

pub struct Q3K;

impl Q3K {
    const SUB_BYTES: usize = 16 + BIT_PAIRS + BITS;
    #[inline(always)]
    unsafe fn sub(block: *const u8, sub: usize) -> *const u8 {
        block.add(32 + sub * Self::SUB_BYTES)
    }
}

impl Format for Q3K {
    const TYPE: u32 = 11;
    const BLOCK: usize = 256;
    const FILE_BYTES: usize = 110;
    const BYTES: usize = 32 + SUBS * Self::SUB_BYTES;
    const SCALED: usize = 16;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 4;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        gather_f16(rows, 108, 1.0, out);
        for sub in 0..SUBS {
            let at = Self::sub(out, sub) as *mut u8;
            let mut low: Values = [[0; SUB]; GROUP];
            let mut high: Values = [[0; SUB]; GROUP];
            let (half, run) = (sub / 4, sub % 4);
            for (r, row) in rows.iter().enumerate() {
                for i in 0..2 {
                    // Twelve bytes hold sixteen six-bit scales: low nibbles first, then bit pairs.
                    let s = sub * 2 + i;
                    let low = *row.add(96 + s % 8) >> (4 * (s / 8)) & 15;
                    let high = *row.add(104 + s % 4) >> (2 * (s / 4)) & 3;
                    *at.add(i * GROUP + r) = (low | high << 4).wrapping_sub(32);
                }
                low[r] = run_of_32(*row, 32 + half * 32).map(|byte| byte >> (2 * run) & 3);
                high[r] = run_of_32(*row, 0).map(|byte| byte >> sub & 1);
            }
            planes::pack_bit_pairs(&low, at.add(16));
            planes::pack_bits(&high, at.add(16 + BIT_PAIRS));
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2] {
        let p = Self::sub(block, run / 2).add(run % 2 * GROUP);
        planes::scaled_s8(p, planes::load_f32(block))
    }
}

impl Narrow for Q3K {
    const STEPS: usize = 8;
    const IN_PLACE_TOKENS: usize = 8;
    #[inline(always)]
    unsafe fn steps(block: *const u8, sub: usize, j: usize) -> [[U8x16; 2]; 2] {
        let plane = Self::sub(block, sub).add(16);
        planes::or(
            planes::bit_pairs(plane, j, 0),
            planes::bits(plane.add(BIT_PAIRS), j, 2),
        )
    }
}

pub struct Q2K;

impl Q2K {
    const SUB_BYTES: usize = 32 + BIT_PAIRS;
    #[inline(always)]
    unsafe fn sub(block: *const u8, sub: usize) -> *const u8 {
        block.add(64 + sub * Self::SUB_BYTES)
    }
}

impl Format for Q2K {
    const TYPE: u32 = 10;
    const BLOCK: usize = 256;
    const FILE_BYTES: usize = 84;
    const BYTES: usize = 64 + SUBS * Self::SUB_BYTES;
    const SCALED: usize = 16;
    const HAS_MIN: bool = true;
    const OFFSET: i32 = 0;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        gather_f16(rows, 80, 1.0, out);
        // Minima are subtracted.
        gather_f16(rows, 82, -1.0, out.add(32));
        for sub in 0..SUBS {
            let at = Self::sub(out, sub) as *mut u8;
            let mut values: Values = [[0; SUB]; GROUP];
            let (half, run) = (sub / 4, sub % 4);
            for (r, row) in rows.iter().enumerate() {
                for i in 0..2 {
                    let byte = *row.add(sub * 2 + i);
                    *at.add(i * GROUP + r) = byte & 15;
                    *at.add((2 + i) * GROUP + r) = byte >> 4;
                }
                values[r] = run_of_32(*row, 16 + half * 32).map(|byte| byte >> (2 * run) & 3);
            }
            planes::pack_bit_pairs(&values, at.add(32));
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2] {
        let p = Self::sub(block, run / 2).add(run % 2 * GROUP);
        planes::scaled_u8(p, planes::load_f32(block))
    }
    #[inline(always)]
    unsafe fn mins(block: *const u8, run: usize) -> [F32x4; 2] {
        let p = Self::sub(block, run / 2).add((2 + run % 2) * GROUP);
        planes::scaled_u8(p, planes::load_f32(block.add(32)))
    }
}

impl Narrow for Q2K {
    const STEPS: usize = 8;
    const IN_PLACE_TOKENS: usize = 8;
    #[inline(always)]
    unsafe fn steps(block: *const u8, sub: usize, j: usize) -> [[U8x16; 2]; 2] {
        planes::bit_pairs(Self::sub(block, sub).add(32), j, 0)
    }
}
