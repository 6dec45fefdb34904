//! Bit planes of 32 values of eight rows, and reading them back as vectors.
//!
//! Narrow planes: vector `2j + h` belongs to rows 4h..4h+3; its byte `4r + c` holds values 4j + c and
//! 16 + 4j + c of row 4h + r in its low and high half. Wide planes: byte `2r + c` of vector j holds
//! values 2j + c and 16 + 2j + c of row r.

use super::{GROUP, SUB};
use crate::math::f16_to_f32;
use crate::simd::{F32x4, I16x8, I32x4, U8x16};

/// Unpacked values of 32 columns of eight rows.
pub type Values = [[u8; SUB]; GROUP];

pub const NIBBLES: usize = 128;
pub const BIT_PAIRS: usize = 64;
pub const BITS: usize = 32;

/// The two halves of a row's 32 values, of which the low bits of `mask` count.
#[inline(always)]
unsafe fn halves(row: &[u8; SUB], mask: u8) -> [U8x16; 2] {
    let mask = U8x16::splat(mask);
    let p = row.as_ptr();
    [U8x16::load(p).and(mask), U8x16::load(p.add(16)).and(mask)]
}

/// Writes the low four bits of each value: 128 bytes.
pub unsafe fn pack_nibbles(values: &Values, out: *mut u8) {
    for (row, values) in values.iter().enumerate() {
        let [low, high] = halves(values, 15);
        let words = low.or(high.shl16(4)).as_i32().lanes();
        for (j, word) in words.into_iter().enumerate() {
            let to = out.add((2 * j + row / 4) * 16 + (row % 4) * 4);
            (to as *mut i32).write_unaligned(word);
        }
    }
}

/// Writes the low two bits of each value: 64 bytes. Vector `2i + h` holds steps 4i..4i+3.
pub unsafe fn pack_bit_pairs(values: &Values, out: *mut u8) {
    for (row, values) in values.iter().enumerate() {
        for (i, half) in halves(values, 3).into_iter().enumerate() {
            let [a, b, c, d] = half.as_i32().lanes();
            let to = out.add((2 * i + row / 4) * 16 + (row % 4) * 4);
            (to as *mut i32).write_unaligned(a | b << 2 | c << 4 | d << 6);
        }
    }
}

/// Writes the low bit of each value: 32 bytes. Bit j of a byte belongs to step j.
pub unsafe fn pack_bits(values: &Values, out: *mut u8) {
    for (row, values) in values.iter().enumerate() {
        let [low, high] = halves(values, 1).map(|half| {
            let [a, b, c, d] = half.as_i32().lanes();
            a | b << 1 | c << 2 | d << 3
        });
        let to = out.add((row / 4) * 16 + (row % 4) * 4);
        (to as *mut i32).write_unaligned(low | high << 4);
    }
}

/// Writes four-bit values for 16-bit kernels: 128 bytes.
pub unsafe fn pack_wide_nibbles(values: &Values, out: *mut u8) {
    for j in 0..8 {
        for row in 0..GROUP {
            for c in 0..2 {
                let k = 2 * j + c;
                let byte = (values[row][k] & 15) | (values[row][16 + k] & 15) << 4;
                *out.add(j * 16 + row * 2 + c) = byte;
            }
        }
    }
}

/// Steps j and j + 4 of a plane of nibbles.
#[inline(always)]
pub unsafe fn nibbles(plane: *const u8, j: usize) -> [[U8x16; 2]; 2] {
    let mask = U8x16::splat(15);
    let a = U8x16::load(plane.add(j * 32));
    let b = U8x16::load(plane.add(j * 32 + 16));
    [
        [a.and(mask), b.and(mask)],
        [a.shr16(4).and(mask), b.shr16(4).and(mask)],
    ]
}

/// Steps j and j + 4 of a plane of bit pairs, moved left by `shift` bits (0 or 4).
#[inline(always)]
pub unsafe fn bit_pairs(plane: *const u8, j: usize, shift: usize) -> [[U8x16; 2]; 2] {
    let mask = U8x16::splat(3 << shift);
    let take = |v: usize| {
        let x = U8x16::load(plane.add(v * 16));
        if 2 * j >= shift {
            x.shr16((2 * j - shift) as u32).and(mask)
        } else {
            x.shl16((shift - 2 * j) as u32).and(mask)
        }
    };
    [[take(0), take(1)], [take(2), take(3)]]
}

/// Steps j and j + 4 of a plane of bits, moved left by `shift` bits.
#[inline(always)]
pub unsafe fn bits(plane: *const u8, j: usize, shift: usize) -> [[U8x16; 2]; 2] {
    let mask = U8x16::splat(1 << shift);
    let take = |half: usize, j: usize| {
        let x = U8x16::load(plane.add(half * 16));
        if j >= shift {
            x.shr16((j - shift) as u32).and(mask)
        } else {
            x.shl16((shift - j) as u32).and(mask)
        }
    };
    [[take(0, j), take(1, j)], [take(0, j + 4), take(1, j + 4)]]
}

#[inline(always)]
pub fn or(a: [[U8x16; 2]; 2], b: [[U8x16; 2]; 2]) -> [[U8x16; 2]; 2] {
    [
        [a[0][0].or(b[0][0]), a[0][1].or(b[0][1])],
        [a[1][0].or(b[1][0]), a[1][1].or(b[1][1])],
    ]
}

/// Copies eight 16-bit fields, `at` bytes into each row's block.
pub unsafe fn gather_u16(rows: &[*const u8; GROUP], at: usize, out: *mut u8) {
    for (r, row) in rows.iter().enumerate() {
        (out as *mut u16)
            .add(r)
            .write_unaligned((row.add(at) as *const u16).read_unaligned());
    }
}

/// Eight half-precision fields as stored by `gather_u16`.
#[inline(always)]
pub unsafe fn load_f16(p: *const u8) -> [F32x4; 2] {
    f16_to_f32(I16x8::load(p as *const i16))
}

/// Eight single-precision fields.
#[inline(always)]
pub unsafe fn load_f32(p: *const u8) -> [F32x4; 2] {
    [
        F32x4::load(p as *const f32),
        F32x4::load((p as *const f32).add(4)),
    ]
}

/// Eight bytes as floats, times `d`.
#[inline(always)]
pub unsafe fn scaled_u8(p: *const u8, d: [F32x4; 2]) -> [F32x4; 2] {
    scaled_words(I16x8::load_widen_u8(p), d)
}

/// Eight unsigned words as floats, times `d`.
#[inline(always)]
pub fn scaled_words(w: I16x8, d: [F32x4; 2]) -> [F32x4; 2] {
    [
        w.widen_low_u().to_f32().mul(d[0]),
        w.widen_high_u().to_f32().mul(d[1]),
    ]
}

/// Eight signed bytes as floats, times `d`.
#[inline(always)]
pub unsafe fn scaled_s8(p: *const u8, d: [F32x4; 2]) -> [F32x4; 2] {
    let w = I16x8::load_widen_s8(p as *const i8);
    [
        w.widen_low().to_f32().mul(d[0]),
        w.widen_high().to_f32().mul(d[1]),
    ]
}

/// The four bytes of each 32-bit lane of a narrow vector, one vector of lanes per byte.
#[inline(always)]
pub fn bytes_of_lanes(v: U8x16) -> [I32x4; 4] {
    let x = v.as_i32();
    let mask = I32x4::splat(255);
    [
        x.and(mask),
        x.shr_u(8).and(mask),
        x.shr_u(16).and(mask),
        x.shr_u(24),
    ]
}
