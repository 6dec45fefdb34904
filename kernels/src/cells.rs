//! How caches keep their numbers, and the way from and to float32. Attention reads whole pages as
//! float32: those of other types are unpacked first, once for all queries that read them.
//!
//! Numbers must be finite. Halves are binary16, rounded to nearest even, with what lies beyond 65504
//! clamped to it. Eight-bit cells have a float32 scale for each block of up to BLOCK numbers of a row:
//! its largest magnitude / 127; a cell is number / scale, rounded to nearest even.

use crate::simd::{F32x4, I16x8, I32x4};

/// Numbers of a row that share a scale.
pub const BLOCK: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cells {
    F32,
    F16,
    Q8,
}

impl Cells {
    /// By the number that plans have for it.
    pub fn of(number: u32) -> Self {
        match number {
            0 => Cells::F32,
            1 => Cells::F16,
            _ => Cells::Q8,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Cells::F32 => 4,
            Cells::F16 => 2,
            Cells::Q8 => 1,
        }
    }

    /// Scales of a row of `width` numbers.
    pub fn scales(self, width: usize) -> usize {
        match self {
            Cells::Q8 => width.div_ceil(BLOCK),
            _ => 0,
        }
    }
}

/// The half nearest to a finite number.
pub fn to_half(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = (x.to_bits() & 0x7fff_ffff).min(65504f32.to_bits());
    if magnitude < SMALLEST.to_bits() {
        // Halves that small are multiples of 2^-24, and so are floats from 0.5 to 1.
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let even = magnitude >> 13 & 1;
    sign | (((magnitude + 0xfff + even) >> 13) - (112 << 10)) as u16
}

/// As `to_half`, of eight numbers.
#[inline(always)]
fn eight_to_halves(x: [F32x4; 2]) -> I16x8 {
    let [a, b] = x.map(|x| {
        let sign = x.bits().shr_u(16).and(I32x4::splat(0x8000));
        let magnitude = x.bits().and(I32x4::splat(0x7fff_ffff));
        let magnitude = magnitude.min(I32x4::splat(65504f32.to_bits() as i32));
        let shifted = magnitude.as_f32().add(F32x4::splat(0.5)).bits();
        let subnormal = shifted.sub(I32x4::splat(0.5f32.to_bits() as i32));
        let even = magnitude.shr_u(13).and(I32x4::splat(1));
        let rounded = magnitude.add(I32x4::splat(0xfff)).add(even).shr_u(13);
        let normal = rounded.sub(I32x4::splat(112 << 10));
        let small = magnitude.as_f32().lt(F32x4::splat(SMALLEST));
        normal.and_not(small).or(subnormal.and(small)).or(sign)
    });
    I16x8::narrow_u(a, b)
}

/// The smallest normal half, 2^-14.
const SMALLEST: f32 = 1.0 / 16384.0;

/// Halves that are converted in one go.
const RUN: usize = 64;

/// Converts `n` halves, a multiple of 8, exactly. None may stand for infinity or NaN.
///
/// # Safety
/// Both point to `n` values.
pub unsafe fn from_halves(from: *const u16, n: usize, to: *mut f32) {
    let mut at = 0;
    while at < n {
        let count = RUN.min(n - at);
        let (from, to) = (from.add(at) as *const i16, to.add(at));
        if !from_normal_halves(from, count, to) {
            from_any_halves(from, count, to);
        }
        at += count;
    }
}

/// As `from_halves`; false where some half is zero or subnormal, which comes out wrong.
#[inline(always)]
unsafe fn from_normal_halves(from: *const i16, n: usize, to: *mut f32) -> bool {
    let mut least = I16x8::splat(-1);
    for at in (0..n).step_by(8) {
        let [a, b] = eight_normal_halves(I16x8::load(from.add(at)), &mut least);
        a.store(to.add(at));
        b.store(to.add(at + 4));
    }
    !any_not_normal(least)
}

unsafe fn from_any_halves(from: *const i16, n: usize, to: *mut f32) {
    for at in (0..n).step_by(8) {
        let [a, b] = eight_halves(I16x8::load(from.add(at)));
        a.store(to.add(at));
        b.store(to.add(at + 4));
    }
}

/// Converts normal halves: moves exponent and mantissa into place. Others come out wrong; `least`, all
/// ones at first, collects what `any_not_normal` finds them by.
#[inline(always)]
fn eight_normal_halves(half: I16x8, least: &mut I16x8) -> [F32x4; 2] {
    // Without its sign, doubled.
    *least = least.smaller_u(half.add(half));
    let high = half.shr_s(3).and(I16x8::splat(0x8fffu16 as i16));
    let words = high.add(I16x8::splat(112 << 7)).above(half.shl(13));
    [words[0].as_f32(), words[1].as_f32()]
}

/// Whether one of the halves was zero or subnormal, its exponent 0.
#[inline(always)]
fn any_not_normal(least: I16x8) -> bool {
    least.any_below_u(I16x8::splat(2 << 10))
}

/// Converts any halves. Multiplying a subnormal float by a power of two would do as well, if it did not
/// take processors a hundred times as long. As a normal number of the exponent below, a subnormal half
/// m * 2^-24 reads a = 2^-15 + m * 2^-25, and 2 a - 2^-14 is right; of normal halves a is right, and the
/// smaller one. So it is always the smaller one.
#[inline(always)]
fn eight_halves(half: I16x8) -> [F32x4; 2] {
    let magnitude = half.and(I16x8::splat(0x7fff));
    let high = magnitude.shr_u(3).add(I16x8::splat(112 << 7));
    let words = high.above(half.shl(13));
    let signs = half.and(I16x8::splat(i16::MIN)).above(I16x8::zero());
    let value = |word: I32x4, sign: I32x4| {
        let a = word.as_f32();
        let value = a.smaller(a.add(a).sub(F32x4::splat(SMALLEST)));
        value.bits().or(sign).as_f32()
    };
    [value(words[0], signs[0]), value(words[1], signs[1])]
}

/// How many times too small `eight_shrunk_halves` are.
pub const SHRUNK_HALF: f32 = f32::from_bits((112 + 127) << 23);

/// What `eight_shrunk_halves` needs. Hidden from the compiler, which would have it made anew, by three
/// instructions, each time.
#[inline(always)]
pub fn half_mask() -> I16x8 {
    I16x8::splat(core::hint::black_box(0x8fffu16 as i16))
}

/// Any halves divided by 2^112, exactly: sign, exponent and mantissa move into place, and no more. Of a
/// subnormal half it makes a subnormal float, which some processors are slow to multiply.
#[inline(always)]
pub fn eight_shrunk_halves(half: I16x8, mask: I16x8) -> [F32x4; 2] {
    let high = half.shr_s(3).and(mask);
    let words = high.above(half.shl(13));
    [words[0].as_f32(), words[1].as_f32()]
}

/// One row of a cache: numbers `stride` cells apart, and scales, where it has some, `stride` apart too.
#[derive(Clone, Copy)]
pub struct Row {
    pub cells: Cells,
    pub numbers: *mut u8,
    pub scales: *mut f32,
    pub stride: usize,
}

impl Row {
    /// The row behind its first vector of so many numbers.
    ///
    /// # Safety
    /// The row has more of them.
    pub unsafe fn after(self, numbers: usize) -> Self {
        let cells = self.cells;
        Self {
            numbers: self.numbers.add(numbers * self.stride * cells.bytes()),
            scales: self
                .scales
                .wrapping_add(cells.scales(numbers) * self.stride),
            ..self
        }
    }

    /// Writes `width` numbers.
    ///
    /// # Safety
    /// `from` and the row have `width` numbers.
    pub unsafe fn store(&self, from: *const f32, width: usize) {
        let stride = self.stride;
        match self.cells {
            Cells::F32 => {
                let to = self.numbers as *mut f32;
                for d in 0..width {
                    *to.add(d * stride) = *from.add(d);
                }
            }
            Cells::F16 => {
                let to = self.numbers as *mut u16;
                let mut d = 0;
                while d + 8 <= width {
                    let halves = eight_to_halves([0, 4].map(|i| F32x4::load(from.add(d + i))));
                    if stride == 1 {
                        halves.store(to.add(d) as *mut i16);
                    } else {
                        for (i, half) in halves.lanes().into_iter().enumerate() {
                            *to.add((d + i) * stride) = half as u16;
                        }
                    }
                    d += 8;
                }
                while d < width {
                    *to.add(d * stride) = to_half(*from.add(d));
                    d += 1;
                }
            }
            Cells::Q8 => {
                let to = self.numbers as *mut i8;
                for block in 0..width.div_ceil(BLOCK) {
                    let first = block * BLOCK;
                    let numbers = first..width.min(first + BLOCK);
                    let largest = numbers
                        .clone()
                        .fold(0f32, |most, d| most.max((*from.add(d)).abs()));
                    let scale = largest / 127.0;
                    *self.scales.add(block * stride) = scale;
                    for d in numbers {
                        *to.add(d * stride) = to_cell(*from.add(d), scale);
                    }
                }
            }
        }
    }
}

fn to_cell(x: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    // The smallest scales are rounded so far down that more than 127 of them fit.
    (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// Converts rows of 8-bit cells, each of some vectors with blocks of their own.
///
/// # Safety
/// `cells` and `to` have `rows` times the widths' numbers, `scales` has each row's.
pub unsafe fn from_cells(
    mut cells: *const i8,
    mut scales: *const f32,
    (rows, widths): (usize, &[usize]),
    mut to: *mut f32,
) {
    for _ in 0..rows {
        for &width in widths {
            for block in 0..width.div_ceil(BLOCK) {
                let end = width.min((block + 1) * BLOCK);
                scale_block(cells, *scales, block * BLOCK..end, to);
                scales = scales.add(1);
            }
            cells = cells.add(width);
            to = to.add(width);
        }
    }
}

#[inline(always)]
unsafe fn scale_block(
    cells: *const i8,
    scale: f32,
    numbers: core::ops::Range<usize>,
    to: *mut f32,
) {
    let mut d = numbers.start;
    while d + 8 <= numbers.end {
        let [a, b] = eight_cells(cells.add(d));
        a.mul(F32x4::splat(scale)).store(to.add(d));
        b.mul(F32x4::splat(scale)).store(to.add(d + 4));
        d += 8;
    }
    while d < numbers.end {
        *to.add(d) = *cells.add(d) as f32 * scale;
        d += 1;
    }
}

/// As `from_cells`, of groups of eight interleaved rows: `[width][8]`, the scales `[blocks][8]`.
///
/// # Safety
/// As for `from_cells`, of `8 * groups` rows with one vector each.
pub unsafe fn from_interleaved_cells(
    cells: *const i8,
    scales: *const f32,
    (groups, width): (usize, usize),
    to: *mut f32,
) {
    let blocks = width.div_ceil(BLOCK);
    for group in 0..groups {
        for block in 0..blocks {
            let scale = scales.add((group * blocks + block) * 8);
            let scale = [F32x4::load(scale), F32x4::load(scale.add(4))];
            for d in block * BLOCK..width.min((block + 1) * BLOCK) {
                let at = (group * width + d) * 8;
                let [a, b] = eight_cells(cells.add(at));
                a.mul(scale[0]).store(to.add(at));
                b.mul(scale[1]).store(to.add(at + 4));
            }
        }
    }
}

/// Eight cells as they are.
///
/// # Safety
/// `from` points to eight.
#[inline(always)]
pub unsafe fn eight_cells(from: *const i8) -> [F32x4; 2] {
    let wide = I16x8::load_widen_s8(from);
    [wide.widen_low().to_f32(), wide.widen_high().to_f32()]
}
