//! 8-bit floats e4m3 (1 sign, 4 exponent, 3 mantissa bits, no infinities; OCP 8-bit floating point 1.0)
//! with a float32 scale for 32 neighbours of a row, as DeepSeek-V3's checkpoints are read. In memory a
//! block of eight rows has the eight scales, then the values `[32][8]`.

use super::planes::load_f32;
use super::{GROUP, SUB};
use crate::simd::{F32x4, I16x8, I32x4};

/// The type's private number; GGUF has no such type.
pub const TYPE: u32 = 1000;
/// Bytes of a block of one row in the stream that `pack` reads: the scale, then 32 values.
const FILE_BYTES: usize = 4 + SUB;
/// Bytes of a block of eight rows.
pub const BYTES: usize = FILE_BYTES * GROUP;

/// Packs `rows` rows of `cols` values; the last group is filled up with zeros.
///
/// # Safety
/// `src` holds the rows, `dst` room for their groups.
pub unsafe fn pack(src: *const u8, rows: usize, cols: usize, dst: *mut u8) {
    let blocks = cols / SUB;
    for group in 0..rows.div_ceil(GROUP) {
        for block in 0..blocks {
            let out = dst.add((group * blocks + block) * BYTES);
            core::ptr::write_bytes(out, 0, BYTES);
            for r in 0..GROUP.min(rows - group * GROUP) {
                let row = src.add(((group * GROUP + r) * blocks + block) * FILE_BYTES);
                core::ptr::copy_nonoverlapping(row, out.add(r * 4), 4);
                for k in 0..SUB {
                    *out.add(4 * GROUP + k * GROUP + r) = *row.add(4 + k);
                }
            }
        }
    }
}

/// Four values from the low bytes of the lanes.
#[inline(always)]
fn decode(bytes: I32x4) -> F32x4 {
    let exponent = bytes.shr_u(3).and(I32x4::splat(15));
    // 1 for normal numbers, 0 for subnormal ones, whose exponent counts as 1.
    let normal = exponent.add(I32x4::splat(15)).shr_u(4);
    let mantissa = bytes.and(I32x4::splat(7)).add(normal.shl(3));
    let power = exponent
        .sub(normal)
        .add(I32x4::splat(1 + 127 - 10))
        .shl(23)
        .as_f32();
    let sign = bytes.and(I32x4::splat(128)).shl(24);
    mantissa.to_f32().mul(power).bits().add(sign).as_f32()
}

/// Dequantises one group to `[cols][8]` floats.
///
/// # Safety
/// `group` holds `cols / 32` blocks, `out` room for `8 cols` floats.
pub unsafe fn to_float(group: *const u8, cols: usize, out: *mut f32) {
    for block in 0..cols / SUB {
        let at = group.add(block * BYTES);
        let scales = load_f32(at);
        for k in 0..SUB {
            let bytes = I16x8::load_widen_u8(at.add(4 * GROUP + k * GROUP));
            let to = out.add((block * SUB + k) * GROUP);
            decode(bytes.widen_low_u()).mul(scales[0]).store(to);
            decode(bytes.widen_high_u()).mul(scales[1]).store(to.add(4));
        }
    }
}

/// Whether `blocks` packed blocks hold no NaN and no infinite scale.
///
/// # Safety
/// `packed` holds the blocks.
pub unsafe fn all_finite(packed: *const u8, blocks: usize) -> bool {
    (0..blocks).all(|block| {
        let at = packed.add(block * BYTES);
        let scales = (0..GROUP).all(|r| (at as *const f32).add(r).read_unaligned().is_finite());
        scales && (0..SUB * GROUP).all(|i| *at.add(4 * GROUP + i) & 0x7f != 0x7f)
    })
}
