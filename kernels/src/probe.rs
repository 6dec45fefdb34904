//! What this machine makes of the operations that WebAssembly leaves to it: relaxed multiply-adds, which
//! round once or twice, and relaxed dot products, which may read bytes from 128 on as they like. Machines
//! on which the same build gives the same answers compute the same bits.

use core::hint::black_box;

use crate::dot::read_of_bytes;
use crate::simd::{F32x4, I32x4, U8x16};

/// Words that `probe` writes.
pub const WORDS: usize = FLOATS.len() + 2 * BYTES.len() + 1;

/// Factors and addends whose product and sum tell one rounding from two.
const FLOATS: [[f32; 3]; 4] = [
    [1.0 + f32::EPSILON, 1.0 - f32::EPSILON, -1.0],
    [0.1, 10.0, -1.0],
    [3.333_333_3, 1.5e-7, 1.0],
    [-16_777_215.0, 0.999_999_94, 16_777_214.0],
];

/// Signed bytes and unsigned ones below 128, the largest among them.
const BYTES: [[u8; 2]; 4] = [[127, 127], [128, 127], [129, 1], [200, 99]];

/// Writes WORDS words of results.
///
/// # Safety
/// `to` has room for them.
pub unsafe fn probe(to: *mut u32) {
    // Hidden from the compiler, which may know other answers than the machine.
    let float = |x: f32| F32x4::splat(black_box(x));
    let byte = |x: u8| U8x16::splat(black_box(x));
    let sums = FLOATS.map(|[a, b, c]| float(a).mul_add(float(b), float(c)).bits());
    let pairs = BYTES.map(|[a, w]| byte(a).dot_pairs(byte(w)).widen_low());
    let quads = BYTES.map(|[a, w]| byte(a).dot_quads(byte(w), I32x4::splat(1)));
    let answers = sums.iter().chain(&pairs).chain(&quads);
    for (i, answer) in answers.enumerate() {
        *to.add(i) = answer.lanes()[0] as u32;
    }
    *to.add(WORDS - 1) = read_of_bytes() as u32;
}
