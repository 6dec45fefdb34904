//! Quantised weight formats in the layout that the kernels read.
//!
//! Rows are taken in groups of eight, and within a group the row's blocks follow each other, so that
//! a kernel reads one group as one sequential stream. Within a block, lanes are rows: a 16-byte vector
//! of a *narrow* format holds four neighbouring values of four rows, one of a *wide* format two
//! neighbouring values of eight rows. `pack` makes this layout once, when a model is loaded.

pub mod float8;
pub mod k_quants;
pub mod legacy;
pub mod lookup;
pub mod planes;

use crate::simd::{F32x4, I16x8, U8x16};

/// Rows in a group.
pub const GROUP: usize = 8;
/// Values per activation block, and the unit that kernels step by.
pub const SUB: usize = 32;

/// What is common to all integer formats. A value is `scale * (q - OFFSET) + min`.
///
/// # Safety
/// Pointers must be valid for the sizes that the constants state.
pub trait Format {
    /// Number of the type in GGUF.
    const TYPE: u32;
    /// Values of a row per block.
    const BLOCK: usize;
    /// Bytes of a block of one row in the file.
    const FILE_BYTES: usize;
    /// Bytes of a block of eight rows here.
    const BYTES: usize;
    /// Values that share a scale: 32 or 16.
    const SCALED: usize;
    const HAS_MIN: bool;
    const OFFSET: i32;

    /// Packs one block of eight rows.
    unsafe fn pack(rows: &[*const u8; GROUP], out: *mut u8);
    /// Scales of eight rows for scaled run `run` (of SCALED values) of the block.
    unsafe fn scales(block: *const u8, run: usize) -> [F32x4; 2];
    /// Constant terms of eight rows, where HAS_MIN.
    unsafe fn mins(_block: *const u8, _run: usize) -> [F32x4; 2] {
        [F32x4::splat(0.0); 2]
    }
    /// Both, where they lie together.
    #[inline(always)]
    unsafe fn scales_and_mins(block: *const u8, run: usize) -> ([F32x4; 2], [F32x4; 2]) {
        (Self::scales(block, run), Self::mins(block, run))
    }
}

/// Formats whose q is unsigned and below 128: 8-bit dot products.
pub trait Narrow: Format {
    /// How many steps of four values may be added in 16 bits: `steps * 2 * max q * 128 < 32768`.
    const STEPS: usize;
    /// q reaches 255: only for processors whose dot products of four bytes read it so.
    const QUADS_ONLY: bool = false;
    /// Up to how many tokens it is cheaper to take the bits apart for each tile than to write a panel.
    const IN_PLACE_TOKENS: usize;
    /// Values of steps `j` and `j + 4` (j < 4; a step is four values) of the 32 values `sub`:
    /// `[step][rows 0-3, rows 4-7]`.
    unsafe fn steps(block: *const u8, sub: usize, j: usize) -> [[U8x16; 2]; 2];
}

/// Formats whose q is a signed byte: 16-bit dot products.
pub trait Wide: Format {
    /// Values 2j, 2j + 1 (`[0]`) and 16 + 2j, 16 + 2j + 1 (`[1]`), j < 8, of the 32 values `sub`,
    /// as 16-bit pairs of rows 0-3 and rows 4-7.
    unsafe fn pairs(block: *const u8, sub: usize, j: usize) -> [[I16x8; 2]; 2];
}

/// Runs `$body` with `$format` naming the narrow format, or `$wide` for the wide ones.
#[macro_export]
macro_rules! with_format {
    ($type:expr, narrow $format:ident => $narrow:expr, wide $wide_format:ident => $wide:expr, else => $other:expr) => {
        match $type {
            2 => {
                type $format = $crate::quant::legacy::Q4_0;
                $narrow
            }
            3 => {
                type $format = $crate::quant::legacy::Q4_1;
                $narrow
            }
            6 => {
                type $format = $crate::quant::legacy::Q5_0;
                $narrow
            }
            7 => {
                type $format = $crate::quant::legacy::Q5_1;
                $narrow
            }
            8 => {
                type $wide_format = $crate::quant::legacy::Q8_0;
                $wide
            }
            1008 => {
                type $format = $crate::quant::legacy::Q8_0Offset;
                $narrow
            }
            10 => {
                type $format = $crate::quant::k_quants::Q2K;
                $narrow
            }
            11 => {
                type $format = $crate::quant::k_quants::Q3K;
                $narrow
            }
            12 => {
                type $format = $crate::quant::k_quants::Q4K;
                $narrow
            }
            13 => {
                type $format = $crate::quant::k_quants::Q5K;
                $narrow
            }
            14 => {
                type $format = $crate::quant::k_quants::Q6K;
                $narrow
            }
            20 => {
                type $wide_format = $crate::quant::lookup::Iq4Nl;
                $wide
            }
            23 => {
                type $wide_format = $crate::quant::lookup::Iq4Xs;
                $wide
            }
            39 => {
                type $format = $crate::quant::lookup::Mxfp4;
                $narrow
            }
            _ => $other,
        }
    };
}
