//! Activations in the forms that the kernels read: bytes or 16-bit words per block of 32 with a
//! float scale, and float32 rows for float weights.

use crate::quant::SUB;
use crate::simd::{F32x4, I16x8, I32x4, U8x16};

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
        let x: [F32x4; 8] = core::array::from_fn(|i| F32x4::load(src.add(4 * i)));
        let peak = peak(&x);
        // A peak so small that its reciprocal overflows counts as zero.
        let inverse = levels / peak;
        let inverse = F32x4::splat(if inverse.is_finite() { inverse } else { 0.0 });
        let level = |i: usize| x[i].mul(inverse).round_small().1;
        let q: [I16x8; 4] = core::array::from_fn(|i| I16x8::narrow(level(2 * i), level(2 * i + 1)));
        let scale = peak / levels;
        let [a, b] = [0, 2].map(|i| q[i].pair_sums().add(q[i + 1].pair_sums()).sum());
        let sum = [a + b, a, b];
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

/// The largest magnitude; NaN where one is NaN, whose bits are the largest.
#[inline(always)]
fn peak(x: &[F32x4; 8]) -> f32 {
    let magnitude = x.map(|v| v.abs().bits());
    let halves: [I32x4; 4] = core::array::from_fn(|i| magnitude[i].max(magnitude[i + 4]));
    let largest = halves[0].max(halves[1]).max(halves[2].max(halves[3]));
    let [a, b, c, d] = largest.lanes();
    f32::from_bits(a.max(b).max(c.max(d)) as u32)
}

/// Stores 32 bytes in the order that `byte_offset` states.
#[inline(always)]
unsafe fn store_bytes(words: [I16x8; 4], to: *mut u8) {
    let runs = [
        U8x16::narrow_s(words[0], words[1]),
        U8x16::narrow_s(words[2], words[3]),
    ];
    runs[0].low_halves(runs[1]).store(to);
    runs[0].high_halves(runs[1]).store(to.add(16));
}

/// Where value `i` of a block has its byte: values 0-7 and 16-23, then 8-15 and 24-31, so that each
/// sixteen bytes go with steps 2j, 2j + 1 and 2j + 4, 2j + 5 of the weights.
pub const fn byte_offset(i: usize) -> usize {
    i / 8 % 2 * 16 + i / 16 * 8 + i % 8
}
