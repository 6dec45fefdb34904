//! Four-bit formats whose values come from a table: IQ4_NL, IQ4_XS and MXFP4.

use super::planes::{self, Values, NIBBLES};
use super::{Format, Narrow, Wide, GROUP, SUB};
use crate::math::f16_scalar;
use crate::simd::{F32x4, I16x8, U8x16};

/// The non-linear levels of IQ4_NL and IQ4_XS, as signed bytes.
const IQ4_LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The levels of E2M1, doubled, plus 12 (OCP Microscaling Formats 1.0, section 5.3.3).
const MXFP4_LEVELS: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

unsafe fn file_nibbles(row: *const u8, values: &mut [u8; SUB]) {
    for i in 0..16 {
        let byte = *row.add(i);
        values[i] = byte & 15;
        values[i + 16] = byte >> 4;
    }
}

#[inline(always)]
unsafe fn iq4_pairs(plane: *const u8, j: usize) -> [[I16x8; 2]; 2] {
    let table = U8x16::load(IQ4_LEVELS.as_ptr() as *const u8);
    let mask = U8x16::splat(15);
    let v = U8x16::load(plane.add(j * 16));
    let low = v.and(mask).lookup(table);
    let high = v.shr16(4).and(mask).lookup(table);
    [
        [low.widen_low_s(), low.widen_high_s()],
        [high.widen_low_s(), high.widen_high_s()],
    ]
}

pub struct Iq4Nl;

impl Format for Iq4Nl {
    const TYPE: u32 = 20;
    const BLOCK: usize = 32;
    const FILE_BYTES: usize = 18;
    const BYTES: usize = 18 * GROUP;
    const SCALED: usize = 32;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 0;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        planes::gather_u16(rows, 0, out);
        let mut values: Values = [[0; SUB]; GROUP];
        for (r, row) in rows.iter().enumerate() {
            file_nibbles(row.add(2), &mut values[r]);
        }
        planes::pack_wide_nibbles(&values, out.add(16));
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, _run: usize) -> [F32x4; 2] {
        planes::load_f16(block)
    }
}

impl Wide for Iq4Nl {
    #[inline(always)]
    unsafe fn pairs(block: *const u8, _sub: usize, j: usize) -> [[I16x8; 2]; 2] {
        iq4_pairs(block.add(16), j)
    }
}

pub struct Iq4Xs;

impl Iq4Xs {
    const SUB_BYTES: usize = GROUP + NIBBLES;
    #[inline(always)]
    unsafe fn sub(block: *const u8, sub: usize) -> *const u8 {
        block.add(32 + sub * Self::SUB_BYTES)
    }
}

impl Format for Iq4Xs {
    const TYPE: u32 = 23;
    const BLOCK: usize = 256;
    const FILE_BYTES: usize = 136;
    const BYTES: usize = 32 + 8 * Self::SUB_BYTES;
    const SCALED: usize = 32;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 0;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        for sub in 0..8 {
            let at = Self::sub(out, sub) as *mut u8;
            let mut values: Values = [[0; SUB]; GROUP];
            for (r, row) in rows.iter().enumerate() {
                let d = f16_scalar((*row as *const u16).read_unaligned());
                (out as *mut f32).add(r).write_unaligned(d);
                let high = (row.add(2) as *const u16).read_unaligned();
                let low = *row.add(4 + sub / 2) >> (4 * (sub % 2)) & 15;
                let scale = low | ((high >> (2 * sub) & 3) as u8) << 4;
                *at.add(r) = scale.wrapping_sub(32);
                file_nibbles(row.add(8 + sub * 16), &mut values[r]);
            }
            planes::pack_wide_nibbles(&values, at.add(GROUP));
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2] {
        planes::scaled_s8(Self::sub(block, run), planes::load_f32(block))
    }
}

impl Wide for Iq4Xs {
    #[inline(always)]
    unsafe fn pairs(block: *const u8, sub: usize, j: usize) -> [[I16x8; 2]; 2] {
        iq4_pairs(Self::sub(block, sub).add(GROUP), j)
    }
}

pub struct Mxfp4;

impl Format for Mxfp4 {
    const TYPE: u32 = 39;
    const BLOCK: usize = 32;
    const FILE_BYTES: usize = 17;
    const BYTES: usize = 16 + NIBBLES;
    const SCALED: usize = 32;
    const HAS_MIN: bool = false;
    const OFFSET: i32 = 12;

    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8) {
        let mut values: Values = [[0; SUB]; GROUP];
        for (r, row) in rows.iter().enumerate() {
            // Half of 2^(e - 127), as the upper half of a float: the levels are doubled.
            let e = **row as u16;
            let scale = if e >= 2 { (e - 1) << 7 } else { 0x20 << e };
            (out as *mut u16).add(r).write_unaligned(scale);
            file_nibbles(row.add(1), &mut values[r]);
        }
        planes::pack_nibbles(&values, out.add(16));
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, _run: usize) -> [F32x4; 2] {
        let e = I16x8::load(block as *const i16);
        [
            e.widen_low_u().shl(16).as_f32(),
            e.widen_high_u().shl(16).as_f32(),
        ]
    }
}

impl Narrow for Mxfp4 {
    const STEPS: usize = 4;
    const IN_PLACE_TOKENS: usize = 16;
    #[inline(always)]
    unsafe fn steps(block: *const u8, _sub: usize, j: usize) -> [[U8x16; 2]; 2] {
        let table = U8x16::load(MXFP4_LEVELS.as_ptr());
        let v = planes::nibbles(block.add(16), j);
        [
            [v[0][0].lookup(table), v[0][1].lookup(table)],
            [v[1][0].lookup(table), v[1][1].lookup(table)],
        ]
    }
}
