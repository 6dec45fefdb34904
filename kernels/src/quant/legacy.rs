//! The 32-value formats: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, each with half-precision scales.

use super::planes::{self, Values};
use super::{Format, Narrow, Wide, GROUP, SUB};
use crate::simd::{F32x4, I16x8, U8x16};

/// Values as they lie in the file: byte i holds values i and i + 16.
unsafe fn file_nibbles(rows: &[*const u8; GROUP], at: usize) -> Values {
    let mut values = [[0; SUB]; GROUP];
    for (r, row) in rows.iter().enumerate() {
        let bytes = (row.add(at) as *const [u8; 16]).read_unaligned();
        for i in 0..16 {
            values[r][i] = bytes[i] & 15;
            values[r][i + 16] = bytes[i] >> 4;
        }
    }
    values
}

/// The fifth bits, value i in bit i of a 32-bit word.
unsafe fn file_bits(rows: &[*const u8; GROUP], at: usize) -> Values {
    let mut values = [[0; SUB]; GROUP];
    for (r, row) in rows.iter().enumerate() {
        let word = (row.add(at) as *const u32).read_unaligned();
        for (i, value) in values[r].iter_mut().enumerate() {
            *value = (word >> i & 1) as u8;
        }
    }
    values
}

macro_rules! legacy {
    ($name:ident, $type:literal, min: $min:literal, fifth_bit: $fifth:literal, offset: $offset:literal) => {
        pub struct $name;

        impl Format for $name {
            const TYPE: u32 = $type;
            const BLOCK: usize = 32;
            const FILE_BYTES: usize = 18 + if $min { 2 } else { 0 } + if $fifth { 4 } else { 0 };
            const BYTES: usize = Self::FILE_BYTES * GROUP;
            const SCALED: usize = 32;
            const HAS_MIN: bool = $min;
            const OFFSET: i32 = $offset;

            unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
                let header = if $min { 4 } else { 2 };
                planes::gather_u16(rows, 0, out);
                if $min {
                    planes::gather_u16(rows, 2, out.add(16));
                }
                let plane = out.add(header * GROUP);
                let nibbles = if $fifth { header + 4 } else { header };
                planes::pack_nibbles(&file_nibbles(rows, nibbles), plane);
                if $fifth {
                    planes::pack_bits(&file_bits(rows, header), plane.add(planes::NIBBLES));
                }
            }
            #[inline(always)]
            unsafe fn scales(block: *const u8, _run: usize) -> [F32x4; 2] {
                planes::load_f16(block)
            }
            #[inline(always)]
            unsafe fn mins(block: *const u8, _run: usize) -> [F32x4; 2] {
                planes::load_f16(block.add(16))
            }
        }

        impl Narrow for $name {
            const STEPS: usize = if $fifth { 4 } else { 8 };
            const IN_PLACE_TOKENS: usize = if $fifth { 8 } else { 16 };
            #[inline(always)]
            unsafe fn steps(block: *const u8, _sub: usize, j: usize) -> [[U8x16; 2]; 2] {
                let plane = block.add(if $min { 32 } else { 16 });
                let low = planes::nibbles(plane, j);
                if $fifth {
                    planes::or(low, planes::bits(plane.add(planes::NIBBLES), j, 4))
                } else {
                    low
                }
            }
        }
    };
}

legacy!(Q4_0, 2, min: false, fifth_bit: false, offset: 8);
legacy!(Q4_1, 3, min: true, fifth_bit: false, offset: 0);
legacy!(Q5_0, 6, min: false, fifth_bit: true, offset: 16);
legacy!(Q5_1, 7, min: true, fifth_bit: true, offset: 0);

pub struct Q8_0;

impl Format for Q8_0 {
    const TYPE: u32 = 8;
    const BLOCK: usize = 32;
    const FILE_BYTES: usize = 34;
    const BYTES: usize = 34 * GROUP;
    const SCALED: usize = 32;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 0;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        planes::gather_u16(rows, 0, out);
        let plane = out.add(16) as *mut u16;
        for j in 0..16 {
            for (r, row) in rows.iter().enumerate() {
                let pair = (row.add(2 + 2 * j) as *const u16).read_unaligned();
                plane.add(j * GROUP + r).write_unaligned(pair);
            }
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, _run: usize) -> [F32x4; 2] {
        planes::load_f16(block)
    }
}

impl Wide for Q8_0 {
    #[inline(always)]
    unsafe fn pairs(block: *const u8, _sub: usize, j: usize) -> [[I16x8; 2]; 2] {
        let p = block.add(16 + j * 16) as *const i8;
        [
            [I16x8::load_widen_s8(p), I16x8::load_widen_s8(p.add(8))],
            [
                I16x8::load_widen_s8(p.add(128)),
                I16x8::load_widen_s8(p.add(136)),
            ],
        ]
    }
}

/// Q8_0 as unsigned bytes, 128 added, in the layout of narrow formats.
pub struct Q8_0Offset;

impl Format for Q8_0Offset {
    /// A private number; files hold Q8_0.
    const TYPE: u32 = 1008;
    const BLOCK: usize = 32;
    const FILE_BYTES: usize = 34;
    const BYTES: usize = 34 * GROUP;
    const SCALED: usize = 32;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 128;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        planes::gather_u16(rows, 0, out);
        for step in 0..8 {
            for (r, row) in rows.iter().enumerate() {
                let quad = (row.add(2 + 4 * step) as *const u32).read_unaligned();
                let to = out.add(16 + (step * GROUP + r) * 4) as *mut u32;
                to.write_unaligned(quad ^ 0x8080_8080);
            }
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, _run: usize) -> [F32x4; 2] {
        planes::load_f16(block)
    }
}

impl Narrow for Q8_0Offset {
    const STEPS: usize = 0;
    const QUADS_ONLY: bool = true;
    const IN_PLACE_TOKENS: usize = usize::MAX;
    #[inline(always)]
    unsafe fn steps(block: *const u8, _sub: usize, j: usize) -> [[U8x16; 2]; 2] {
        let low = block.add(16 + 32 * j);
        let high = low.add(128);
        [
            [U8x16::load(low), U8x16::load(low.add(16))],
            [U8x16::load(high), U8x16::load(high.add(16))],
        ]
    }
}
