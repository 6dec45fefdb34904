//! The backward pass of what is done to rows by themselves: norms and rotations.

use super::elementwise::{by_fours, load, store};
use crate::activations::inverse_rms;
use crate::simd::F32x4;

/// Rows of which the first `width` numbers are normalised.
#[derive(Clone, Copy)]
pub struct NormBackward {
    pub x: *const f32,
    pub gradient: *const f32,
    /// May be `gradient` where it doesn't accumulate.
    pub out: *mut f32,
    /// From a row to the next, of all three.
    pub stride: usize,
    pub width: usize,
    pub weight: *const f32,
    pub eps: f32,
    pub accumulate: bool,
    /// `[rows, 2]`: each row's 1 / rms and what it takes from each number.
    pub factors: *mut f32,
}

impl NormBackward {
    /// Computes a row's factors.
    ///
    /// # Safety
    /// The pointers cover the row.
    pub unsafe fn measure(&self, row: usize) {
        let (x, gradient) = (
            self.x.add(row * self.stride),
            self.gradient.add(row * self.stride),
        );
        let inverse = inverse_rms(x, self.width, self.eps);
        let mut sum = F32x4::splat(0.0);
        by_fours(self.width, |i, left| {
            let product = load(self.weight.add(i), left).mul(load(gradient.add(i), left));
            sum = product.mul_add(load(x.add(i), left), sum);
        });
        *self.factors.add(2 * row) = inverse;
        *self.factors.add(2 * row + 1) = inverse * inverse * sum.sum() / self.width as f32;
    }

    /// The gradient of a row's input: inverse * (weight * gradient - x * shared).
    ///
    /// # Safety
    /// As for `measure`, which has been called.
    pub unsafe fn apply(&self, row: usize) {
        let at = row * self.stride;
        let inverse = F32x4::splat(*self.factors.add(2 * row));
        let shared = F32x4::splat(*self.factors.add(2 * row + 1));
        by_fours(self.width, |i, left| {
            let product = load(self.weight.add(i), left).mul(load(self.gradient.add(at + i), left));
            let x = load(self.x.add(at + i), left);
            let value = product.sub(x.mul(shared)).mul(inverse);
            let to = self.out.add(at + i);
            let value = if self.accumulate {
                load(to, left).add(value)
            } else {
                value
            };
            store(value, to, left);
        });
    }
}

/// Turns the pairs of a head the other way round, in place.
///
/// # Safety
/// `head` holds `dim` numbers, `cos_sin` as many: cosines, then sines.
pub unsafe fn rotate_back(head: *mut f32, cos_sin: *const f32, dim: usize, interleaved: bool) {
    let pairs = dim / 2;
    for i in 0..pairs {
        let (first, second) = if interleaved {
            (2 * i, 2 * i + 1)
        } else {
            (i, i + pairs)
        };
        let (cos, sin) = (*cos_sin.add(i), *cos_sin.add(pairs + i));
        let (a, b) = (*head.add(first), *head.add(second));
        *head.add(first) = a * cos + b * sin;
        *head.add(second) = b * cos - a * sin;
    }
}
