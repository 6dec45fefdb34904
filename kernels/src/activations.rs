//! Activations in the forms that the kernels read: bytes or 16-bit words per block of 32 with a
//! float scale, and float32 rows for float weights.

use crate::quant::SUB;
use crate::simd::{F32x4, I16x8, U8x16};

/// How activations enter integer kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    Q8 = 0,
    Q16 = 1,
    F32 = 2,
}

/// Forms a row is needed in.
pub const NARROW: u32 = 1;
pub const WIDE: u32 = 2;
pub const FLOAT: u32 = 4;

/// What a kernel needs to know of 32 activations; all fields are loaded as splats.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct BlockMeta {
    pub scale: f32,
    /// Sum of all 32 quantised values, and of each half.
    pub sum: [i32; 3],
    /// The same sums times the scale.
    pub scaled_sum: [f32; 3],
    pad: u32,
}

/// Offsets within the record of one row. Sections start at multiples of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub cols: usize,
    pub high: usize,
    pub low: usize,
    pub wide: usize,
    pub float: usize,
    pub bytes: usize,
}

impl Layout {
    pub fn new(cols: usize, forms: u32, precision: Precision) -> Self {
        let blocks = cols.div_ceil(SUB);
        let padded = blocks * SUB;
        let mut at = 0;
        let mut section = |wanted: bool, bytes: usize| {
            let start = at;
            if wanted {
                at += bytes;
            }
            start
        };
        let narrow = forms & NARROW != 0;
        section(
            forms & (NARROW | WIDE) != 0,
            blocks * core::mem::size_of::<BlockMeta>(),
        );
        let high = section(narrow, padded);
        let low = section(narrow && precision == Precision::Q16, padded);
        let wide = section(forms & WIDE != 0, padded * 2);
        let float = section(forms & FLOAT != 0, padded * 4);
        Self {
            cols,
            high,
            low,
            wide,
            float,
            bytes: at,
        }
    }
}

/// Pointers into one row's record.
#[derive(Clone, Copy)]
pub struct Row {
    pub meta: *const BlockMeta,
    pub high: *const u8,
    pub low: *const u8,
    pub wide: *const i16,
    pub float: *const f32,
}

impl Row {
    /// # Safety
    /// `base` points to a record of `layout`.
    #[inline(always)]
    pub unsafe fn new(base: *const u8, layout: &Layout) -> Self {
        Self {
            meta: base as *const BlockMeta,
            high: base.add(layout.high),
            low: base.add(layout.low),
            wide: base.add(layout.wide) as *const i16,
            float: base.add(layout.float) as *const f32,
        }
    }

    #[inline(always)]
    pub unsafe fn at(&self, block: usize) -> Self {
        Self {
            meta: self.meta.add(block),
            high: self.high.add(block * SUB),
            low: self.low.add(block * SUB),
            wide: self.wide.add(block * SUB),
            float: self.float.add(block * SUB),
        }
    }
}

/// 1 / sqrt(mean(x^2) + eps), summed in sixteen interleaved parts.
///
/// # Safety
/// `x` points to `n` floats.
pub unsafe fn inverse_rms(x: *const f32, n: usize, eps: f32) -> f32 {
    let mut acc = [F32x4::splat(0.0); 4];
    let mut i = 0;
    while i + 16 <= n {
        for (j, a) in acc.iter_mut().enumerate() {
            let v = F32x4::load(x.add(i + 4 * j));
            *a = v.mul_add(v, *a);
        }
        i += 16;
    }
    let mut sum = acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum();
    while i < n {
        sum += *x.add(i) * *x.add(i);
        i += 1;
    }
    1.0 / (sum / n as f32 + eps).sqrt()
}

/// RMSNorm of one row: `out = x * inverse_rms * weight`.
///
/// # Safety
/// All point to `n` floats; `out` may be `x`.
pub unsafe fn rms_norm(x: *const f32, weight: *const f32, n: usize, eps: f32, out: *mut f32) {
    let scale = inverse_rms(x, n, eps);
    let mut i = 0;
    while i + 4 <= n {
        let v = F32x4::load(x.add(i)).mul(F32x4::splat(scale));
        v.mul(F32x4::load(weight.add(i))).store(out.add(i));
        i += 4;
    }
    while i < n {
        *out.add(i) = *x.add(i) * scale * *weight.add(i);
        i += 1;
    }
}

/// Makes the record of one row. `x` is already normalised.
///
/// # Safety
/// `x` points to `layout.cols` floats, `base` to `layout.bytes` bytes.
pub unsafe fn prepare(
    x: *const f32,
    layout: &Layout,
    forms: u32,
    precision: Precision,
    base: *mut u8,
) {
    prepare_blocks(x, layout, forms, precision, base, 0..layout.cols);
}

/// Makes the part of a record that holds columns `cols`, which begin with a block and end with one or
/// with the row.
///
/// # Safety
/// As for `prepare`.
pub unsafe fn prepare_blocks(
    x: *const f32,
    layout: &Layout,
    forms: u32,
    precision: Precision,
    base: *mut u8,
    cols: core::ops::Range<usize>,
) {
    if forms & FLOAT != 0 {
        let to = (base.add(layout.float) as *mut f32).add(cols.start);
        core::ptr::copy_nonoverlapping(x.add(cols.start), to, cols.len());
    }
    if forms & (NARROW | WIDE) == 0 {
        return;
    }
    let levels = if precision == Precision::Q16 {
        127.0 * 256.0
    } else {
        127.0
    };
    for block in cols.start / SUB..cols.end / SUB {
        let src = x.add(block * SUB);
        let mut peak = F32x4::splat(0.0);
        for i in 0..8 {
            peak = peak.max(F32x4::load(src.add(4 * i)).abs());
        }
        let peak = peak.max_lane();
        // A peak so small that its reciprocal overflows counts as zero.
        let inverse = levels / peak;
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let q: [I16x8; 4] = core::array::from_fn(|i| {
            let part = |h: usize| {
                F32x4::load(src.add(8 * i + 4 * h))
                    .mul(F32x4::splat(inverse))
                    .nearest()
                    .to_i32()
            };
            I16x8::narrow(part(0), part(1))
        });
        let sums = [0, 2].map(|i| q[i].pair_sums().add(q[i + 1].pair_sums()).sum());
        let scale = peak / levels;
        let sum = [sums[0] + sums[1], sums[0], sums[1]];
        *(base as *mut BlockMeta).add(block) = BlockMeta {
            scale,
            sum,
            scaled_sum: sum.map(|s| s as f32 * scale),
            pad: 0,
        };
        if forms & WIDE != 0 {
            let wide = (base.add(layout.wide) as *mut i16).add(block * SUB);
            for (i, v) in q.iter().enumerate() {
                v.store(wide.add(8 * i));
            }
        }
        if forms & NARROW == 0 {
            continue;
        }
        let mut high = q;
        if precision == Precision::Q16 {
            // value = 256 high + low, both signed.
            let low = q.map(|v| v.shl(8).shr_s(8));
            high = core::array::from_fn(|i| q[i].sub(low[i]).shr_s(8));
            store_bytes(low, base.add(layout.low + block * SUB));
        }
        store_bytes(high, base.add(layout.high + block * SUB));
    }
}

#[inline(always)]
unsafe fn store_bytes(words: [I16x8; 4], to: *mut u8) {
    U8x16::narrow_s(words[0], words[1]).store(to);
    U8x16::narrow_s(words[2], words[3]).store(to.add(16));
}
