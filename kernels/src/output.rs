//! What becomes of the sums of a matrix product: bias, factor, activation, and where they are written.

use crate::dot::Sums;
use crate::math::{clamped_swiglu, silu};
use crate::quant::GROUP;
use crate::simd::F32x4;

/// What becomes of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// out = factor * y
    Store,
    /// out += factor * y
    Accumulate,
    /// out = silu(out) * y
    Gate,
    /// out = g * sigmoid(1.702 g) * (u + 1), where g is out and at most 7, and u is y within 7.
    ClampedGate,
}

impl Epilogue {
    /// By its number in plans.
    pub fn of(word: u32) -> Self {
        match word {
            0 => Epilogue::Store,
            1 => Epilogue::Accumulate,
            2 => Epilogue::Gate,
            _ => Epilogue::ClampedGate,
        }
    }
}

/// Where results go: `out[t * stride + row]`.
#[derive(Clone, Copy)]
pub struct Output {
    pub out: *mut f32,
    pub stride: usize,
    pub bias: *const f32,
    pub epilogue: Epilogue,
    /// Factor on the product with its bias.
    pub scale: f32,
    /// Which row of `out` each token's results belong to; null: its own.
    pub rows: *const u32,
    /// A further factor for each token; null: 1.
    pub factors: *const f32,
}

impl Output {
    pub const NONE: Self = Self {
        out: core::ptr::null_mut(),
        stride: 0,
        bias: core::ptr::null(),
        epilogue: Epilogue::Store,
        scale: 1.0,
        rows: core::ptr::null(),
        factors: core::ptr::null(),
    };

    /// Takes the sums of one group of rows for tokens from `first` on.
    ///
    /// # Safety
    /// As for `put`.
    pub unsafe fn put_tile(&self, first: usize, group: usize, rows: usize, y: &[Sums]) {
        let at = group * GROUP;
        let plain = self.rows.is_null() && self.factors.is_null() && self.bias.is_null();
        if !plain || at + GROUP > rows {
            for (i, &y) in y.iter().enumerate() {
                self.put(first + i, group, rows, y);
            }
            return;
        }
        let factor = F32x4::splat(self.scale);
        let mut to = self.out.add(first * self.stride + at);
        for y in y {
            self.finish(y[0], factor, to);
            self.finish(y[1], factor, to.add(4));
            to = to.wrapping_add(self.stride);
        }
    }

    /// Takes the sums of one group of rows for one token.
    ///
    /// # Safety
    /// The pointers cover the token and the `rows` rows of the matrix.
    #[inline(never)]
    pub unsafe fn put(&self, token: usize, group: usize, rows: usize, y: Sums) {
        let first = group * GROUP;
        let row = if self.rows.is_null() {
            token
        } else {
            *self.rows.add(token) as usize
        };
        let factor = if self.factors.is_null() {
            self.scale
        } else {
            self.scale * *self.factors.add(token)
        };
        let factor = F32x4::splat(factor);
        let to = self.out.add(row * self.stride + first);
        if first + GROUP <= rows {
            for h in 0..2 {
                let mut v = y[h];
                if !self.bias.is_null() {
                    v = v.add(F32x4::load(self.bias.add(first + 4 * h)));
                }
                self.finish(v, factor, to.add(4 * h));
            }
            return;
        }
        // The last group of a matrix: through a buffer, so that nothing beyond its rows is touched.
        let count = rows - first;
        let mut buffer = [0f32; GROUP];
        core::ptr::copy_nonoverlapping(to, buffer.as_mut_ptr(), count);
        for h in 0..2 {
            let mut v = y[h];
            if !self.bias.is_null() {
                let mut bias = [0f32; GROUP];
                core::ptr::copy_nonoverlapping(self.bias.add(first), bias.as_mut_ptr(), count);
                v = v.add(F32x4::load(bias.as_ptr().add(4 * h)));
            }
            self.finish(v, factor, buffer.as_mut_ptr().add(4 * h));
        }
        core::ptr::copy_nonoverlapping(buffer.as_ptr(), to, count);
    }

    #[inline(always)]
    unsafe fn finish(&self, y: F32x4, factor: F32x4, to: *mut f32) {
        match self.epilogue {
            Epilogue::Store => y.mul(factor).store(to),
            Epilogue::Accumulate => F32x4::load(to).add(y.mul(factor)).store(to),
            Epilogue::Gate => silu(F32x4::load(to)).mul(y).store(to),
            Epilogue::ClampedGate => clamped_swiglu(F32x4::load(to), y).store(to),
        }
    }
}
