//! Functions of numbers one by one, four at a time, and sums of columns.

use crate::math::{exp, silu};
use crate::simd::F32x4;

/// Numbers that a task takes; a multiple of 4.
pub const CHUNK: usize = 4096;

/// The first `count` of four numbers; the others are 0.
#[inline(always)]
pub unsafe fn load(from: *const f32, count: usize) -> F32x4 {
    if count >= 4 {
        return F32x4::load(from);
    }
    let mut lanes = [0.0; 4];
    core::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
    F32x4::load(lanes.as_ptr())
}

/// Stores the first `count` of four numbers.
#[inline(always)]
pub unsafe fn store(value: F32x4, to: *mut f32, count: usize) {
    if count >= 4 {
        value.store(to);
    } else {
        core::ptr::copy_nonoverlapping(value.lanes().as_ptr(), to, count);
    }
}

/// Calls `body` with each four numbers of `n`: where they begin and how many of them are left.
#[inline(always)]
pub fn by_fours(n: usize, mut body: impl FnMut(usize, usize)) {
    let mut i = 0;
    while i < n {
        body(i, n - i);
        i += 4;
    }
}

/// The sum of products of `n` numbers.
#[inline(always)]
pub unsafe fn dot(a: *const f32, b: *const f32, n: usize) -> f32 {
    let mut sums = [F32x4::splat(0.0); 2];
    let mut i = 0;
    while i + 8 <= n {
        for (h, sum) in sums.iter_mut().enumerate() {
            *sum = F32x4::load(a.add(i + 4 * h)).mul_add(F32x4::load(b.add(i + 4 * h)), *sum);
        }
        i += 8;
    }
    let mut sum = sums[0].add(sums[1]);
    while i < n {
        sum = load(a.add(i), n - i).mul_add(load(b.add(i), n - i), sum);
        i += 4;
    }
    sum.sum()
}

/// y += factor * x
#[inline(always)]
pub unsafe fn add_scaled(factor: f32, x: *const f32, y: *mut f32, n: usize) {
    let factor = F32x4::splat(factor);
    by_fours(n, |i, left| {
        let sum = load(x.add(i), left).mul_add(factor, load(y.add(i), left));
        store(sum, y.add(i), left);
    });
}

/// sigmoid(x)
#[inline(always)]
pub fn sigmoid(x: F32x4) -> F32x4 {
    let one = F32x4::splat(1.0);
    one.div(exp(x.neg()).add(one))
}

/// d silu(x) / dx = sigmoid(x) (1 + x (1 - sigmoid(x)))
#[inline(always)]
pub fn silu_slope(x: F32x4) -> F32x4 {
    let one = F32x4::splat(1.0);
    let s = sigmoid(x);
    s.mul(x.mul_add(one.sub(s), one))
}

/// out = silu(gate) * up
///
/// # Safety
/// All hold `n` numbers.
pub unsafe fn swiglu(gate: *const f32, up: *const f32, out: *mut f32, n: usize) {
    by_fours(n, |i, left| {
        let value = silu(load(gate.add(i), left)).mul(load(up.add(i), left));
        store(value, out.add(i), left);
    });
}

/// The gradients of gate and up; they may lie where gate and up do.
///
/// # Safety
/// As for `swiglu`.
pub unsafe fn swiglu_backward(
    (gate, up): (*const f32, *const f32),
    gradient: *const f32,
    (gate_out, up_out): (*mut f32, *mut f32),
    n: usize,
) {
    by_fours(n, |i, left| {
        let [g, u, d] = [gate, up, gradient].map(|from| load(from.add(i), left));
        store(d.mul(u).mul(silu_slope(g)), gate_out.add(i), left);
        store(d.mul(silu(g)), up_out.add(i), left);
    });
}

/// Columns that a task adds up.
pub const SUM_COLS: usize = 64;

/// out[c] += scale * sum over rows of x[row, c] * factor(row), for the columns from `first` on.
///
/// # Safety
/// `x` holds `rows` rows of `stride` numbers, `out` the columns.
pub unsafe fn add_column_sums(
    x: *const f32,
    (rows, stride): (usize, usize),
    (first, cols): (usize, usize),
    term: impl Fn(usize, usize, F32x4) -> F32x4,
    scale: f32,
    out: *mut f32,
) {
    let mut sums = [F32x4::splat(0.0); SUM_COLS / 4];
    for row in 0..rows {
        let from = x.add(row * stride + first);
        by_fours(cols, |c, left| {
            sums[c / 4] = sums[c / 4].add(term(row, first + c, load(from.add(c), left)));
        });
    }
    by_fours(cols, |c, left| {
        let at = out.add(first + c);
        let sum = sums[c / 4].mul_add(F32x4::splat(scale), load(at, left));
        store(sum, at, left);
    });
}
