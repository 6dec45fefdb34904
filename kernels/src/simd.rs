//! The 128-bit vector operations the kernels are written in, and nothing else of the instruction set.
//!
//! On wasm32 they are SIMD intrinsics, with relaxed-simd where the build has it. Elsewhere a scalar
//! twin stands in, so that `cargo test` runs the same kernels on any machine.

#![allow(clippy::missing_safety_doc)]

#[cfg(target_arch = "wasm32")]
mod imp {
    use core::arch::wasm32::*;

    #[derive(Clone, Copy)]
    pub struct F32x4(pub v128);
    #[derive(Clone, Copy)]
    pub struct I32x4(pub v128);
    #[derive(Clone, Copy)]
    pub struct I16x8(pub v128);
    #[derive(Clone, Copy)]
    pub struct U8x16(pub v128);

    impl F32x4 {
        #[inline(always)]
        pub fn splat(x: f32) -> Self {
            Self(f32x4_splat(x))
        }
        #[inline(always)]
        pub unsafe fn load(p: *const f32) -> Self {
            Self(v128_load(p as *const v128))
        }
        #[inline(always)]
        pub unsafe fn load_splat(p: *const f32) -> Self {
            Self(v128_load32_splat(p as *const u32))
        }
        /// Lane i in all lanes.
        #[inline(always)]
        pub fn splat_lane(self, i: usize) -> Self {
            Self(U8x16(self.0).splat_quad(i).0)
        }
        /// Lanes 0, 0, 1, 1.
        #[inline(always)]
        pub fn low_twice(self) -> Self {
            Self(i32x4_shuffle::<0, 0, 1, 1>(self.0, self.0))
        }
        /// Lanes 2, 2, 3, 3.
        #[inline(always)]
        pub fn high_twice(self) -> Self {
            Self(i32x4_shuffle::<2, 2, 3, 3>(self.0, self.0))
        }
        /// Lanes 1, 0, 3, 2.
        #[inline(always)]
        pub fn swap_neighbours(self) -> Self {
            Self(i32x4_shuffle::<1, 0, 3, 2>(self.0, self.0))
        }
        /// Lane i of each of the four, in the order of the lanes.
        #[inline(always)]
        pub fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            let ab = [
                i32x4_shuffle::<0, 4, 1, 5>(a.0, b.0),
                i32x4_shuffle::<2, 6, 3, 7>(a.0, b.0),
            ];
            let cd = [
                i32x4_shuffle::<0, 4, 1, 5>(c.0, d.0),
                i32x4_shuffle::<2, 6, 3, 7>(c.0, d.0),
            ];
            [
                Self(i64x2_shuffle::<0, 2>(ab[0], cd[0])),
                Self(i64x2_shuffle::<1, 3>(ab[0], cd[0])),
                Self(i64x2_shuffle::<0, 2>(ab[1], cd[1])),
                Self(i64x2_shuffle::<1, 3>(ab[1], cd[1])),
            ]
        }
        #[inline(always)]
        pub unsafe fn store(self, p: *mut f32) {
            v128_store(p as *mut v128, self.0)
        }
        #[inline(always)]
        pub fn add(self, o: Self) -> Self {
            Self(f32x4_add(self.0, o.0))
        }
        #[inline(always)]
        pub fn sub(self, o: Self) -> Self {
            Self(f32x4_sub(self.0, o.0))
        }
        #[inline(always)]
        pub fn mul(self, o: Self) -> Self {
            Self(f32x4_mul(self.0, o.0))
        }
        #[inline(always)]
        pub fn div(self, o: Self) -> Self {
            Self(f32x4_div(self.0, o.0))
        }
        /// The larger, but NaN stays. One instruction, which the operation that treats both alike is not.
        #[inline(always)]
        pub fn at_least(self, limit: f32) -> Self {
            Self(f32x4_pmax(self.0, f32x4_splat(limit)))
        }
        /// The smaller, but NaN stays.
        #[inline(always)]
        pub fn at_most(self, limit: f32) -> Self {
            Self(f32x4_pmin(self.0, f32x4_splat(limit)))
        }
        /// The larger, or this where the other is NaN.
        #[inline(always)]
        pub fn larger(self, o: Self) -> Self {
            Self(f32x4_pmax(self.0, o.0))
        }
        /// Lanes 2, 3, 0, 1.
        #[inline(always)]
        pub fn swap_halves(self) -> Self {
            Self(i32x4_shuffle::<2, 3, 0, 1>(self.0, self.0))
        }
        /// The smaller of two numbers; neither may be NaN.
        #[inline(always)]
        pub fn smaller(self, o: Self) -> Self {
            Self(f32x4_pmin(self.0, o.0))
        }
        #[inline(always)]
        pub fn abs(self) -> Self {
            Self(f32x4_abs(self.0))
        }
        #[inline(always)]
        pub fn neg(self) -> Self {
            Self(f32x4_neg(self.0))
        }
        #[inline(always)]
        pub fn sqrt(self) -> Self {
            Self(f32x4_sqrt(self.0))
        }
        /// `self * b + c`, fused where the build and the machine fuse.
        #[inline(always)]
        pub fn mul_add(self, b: Self, c: Self) -> Self {
            #[cfg(target_feature = "relaxed-simd")]
            return Self(f32x4_relaxed_madd(self.0, b.0, c.0));
            #[cfg(not(target_feature = "relaxed-simd"))]
            return Self(f32x4_add(f32x4_mul(self.0, b.0), c.0));
        }
        #[inline(always)]
        pub fn bits(self) -> I32x4 {
            I32x4(self.0)
        }
        /// All ones where `self < o`.
        #[inline(always)]
        pub fn lt(self, o: Self) -> I32x4 {
            I32x4(f32x4_lt(self.0, o.0))
        }
        #[inline(always)]
        pub fn lanes(self) -> [f32; 4] {
            [
                f32x4_extract_lane::<0>(self.0),
                f32x4_extract_lane::<1>(self.0),
                f32x4_extract_lane::<2>(self.0),
                f32x4_extract_lane::<3>(self.0),
            ]
        }
    }

    impl I32x4 {
        #[inline(always)]
        pub fn splat(x: i32) -> Self {
            Self(i32x4_splat(x))
        }
        #[inline(always)]
        pub fn gather(x: [i16; 4]) -> Self {
            Self(i32x4(x[0] as i32, x[1] as i32, x[2] as i32, x[3] as i32))
        }
        #[inline(always)]
        pub fn add(self, o: Self) -> Self {
            Self(i32x4_add(self.0, o.0))
        }
        #[inline(always)]
        pub fn sub(self, o: Self) -> Self {
            Self(i32x4_sub(self.0, o.0))
        }
        #[inline(always)]
        pub fn max(self, o: Self) -> Self {
            Self(i32x4_max(self.0, o.0))
        }
        #[inline(always)]
        pub fn min(self, o: Self) -> Self {
            Self(i32x4_min(self.0, o.0))
        }
        #[inline(always)]
        pub fn and(self, o: Self) -> Self {
            Self(v128_and(self.0, o.0))
        }
        #[inline(always)]
        pub fn and_not(self, o: Self) -> Self {
            Self(v128_andnot(self.0, o.0))
        }
        #[inline(always)]
        pub fn or(self, o: Self) -> Self {
            Self(v128_or(self.0, o.0))
        }
        /// The bits that differ.
        #[inline(always)]
        pub fn flip(self, o: Self) -> Self {
            Self(v128_xor(self.0, o.0))
        }
        #[inline(always)]
        pub fn shl(self, n: u32) -> Self {
            Self(i32x4_shl(self.0, n))
        }
        #[inline(always)]
        pub fn shr_s(self, n: u32) -> Self {
            Self(i32x4_shr(self.0, n))
        }
        #[inline(always)]
        pub fn shr_u(self, n: u32) -> Self {
            Self(u32x4_shr(self.0, n))
        }
        #[inline(always)]
        pub fn to_f32(self) -> F32x4 {
            F32x4(f32x4_convert_i32x4(self.0))
        }
        #[inline(always)]
        pub fn as_f32(self) -> F32x4 {
            F32x4(self.0)
        }
        #[inline(always)]
        pub fn lanes(self) -> [i32; 4] {
            [
                i32x4_extract_lane::<0>(self.0),
                i32x4_extract_lane::<1>(self.0),
                i32x4_extract_lane::<2>(self.0),
                i32x4_extract_lane::<3>(self.0),
            ]
        }
    }

    impl I16x8 {
        #[inline(always)]
        pub fn zero() -> Self {
            Self(i16x8_splat(0))
        }
        #[inline(always)]
        pub unsafe fn load(p: *const i16) -> Self {
            Self(v128_load(p as *const v128))
        }
        #[inline(always)]
        pub unsafe fn store(self, p: *mut i16) {
            v128_store(p as *mut v128, self.0)
        }
        /// Two neighbouring values, repeated in all four 32-bit lanes.
        #[inline(always)]
        pub unsafe fn load_pair_splat(p: *const i16) -> Self {
            Self(v128_load32_splat(p as *const u32))
        }
        /// Values 2i and 2i + 1, repeated in all four 32-bit lanes.
        #[inline(always)]
        pub fn splat_pair(self, i: usize) -> Self {
            Self(U8x16(self.0).splat_quad(i).0)
        }
        /// Saturating: `a` then `b`.
        #[inline(always)]
        pub fn narrow(a: I32x4, b: I32x4) -> Self {
            Self(i16x8_narrow_i32x4(a.0, b.0))
        }
        /// Unsigned words of signed ones, saturating: `a` then `b`.
        #[inline(always)]
        pub fn narrow_u(a: I32x4, b: I32x4) -> Self {
            Self(u16x8_narrow_i32x4(a.0, b.0))
        }
        #[inline(always)]
        pub fn lanes(self) -> [i16; 8] {
            [
                i16x8_extract_lane::<0>(self.0),
                i16x8_extract_lane::<1>(self.0),
                i16x8_extract_lane::<2>(self.0),
                i16x8_extract_lane::<3>(self.0),
                i16x8_extract_lane::<4>(self.0),
                i16x8_extract_lane::<5>(self.0),
                i16x8_extract_lane::<6>(self.0),
                i16x8_extract_lane::<7>(self.0),
            ]
        }
        /// Arithmetic shift.
        #[inline(always)]
        pub fn shr_s(self, n: u32) -> Self {
            Self(i16x8_shr(self.0, n))
        }
        #[inline(always)]
        pub fn shl(self, n: u32) -> Self {
            Self(i16x8_shl(self.0, n))
        }
        #[inline(always)]
        pub fn sub(self, o: Self) -> Self {
            Self(i16x8_sub(self.0, o.0))
        }
        #[inline(always)]
        pub fn splat(x: i16) -> Self {
            Self(i16x8_splat(x))
        }
        #[inline(always)]
        pub fn and(self, o: Self) -> Self {
            Self(v128_and(self.0, o.0))
        }
        #[inline(always)]
        pub fn shr_u(self, n: u32) -> Self {
            Self(u16x8_shr(self.0, n))
        }
        /// The smaller of each two unsigned values.
        #[inline(always)]
        pub fn smaller_u(self, o: Self) -> Self {
            Self(u16x8_min(self.0, o.0))
        }
        /// Whether any unsigned value is below the other's.
        #[inline(always)]
        pub fn any_below_u(self, o: Self) -> bool {
            v128_any_true(u16x8_lt(self.0, o.0))
        }
        /// Words with the upper halves `self` and the lower halves `low`: lanes 0..4, then 4..8.
        #[inline(always)]
        pub fn above(self, low: Self) -> [I32x4; 2] {
            [
                I32x4(i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(low.0, self.0)),
                I32x4(i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(low.0, self.0)),
            ]
        }
        /// Eight signed bytes, widened.
        #[inline(always)]
        pub unsafe fn load_widen_s8(p: *const i8) -> Self {
            Self(i16x8_load_extend_i8x8(p))
        }
        /// Eight unsigned bytes, widened.
        #[inline(always)]
        pub unsafe fn load_widen_u8(p: *const u8) -> Self {
            Self(i16x8_load_extend_u8x8(p))
        }
        #[inline(always)]
        pub fn add(self, o: Self) -> Self {
            Self(i16x8_add(self.0, o.0))
        }
        /// Sums of neighbours, widened: lane i is self[2i] + self[2i + 1].
        #[inline(always)]
        pub fn pair_sums(self) -> I32x4 {
            I32x4(i32x4_extadd_pairwise_i16x8(self.0))
        }
        /// Lane i is self[2i] * o[2i] + self[2i + 1] * o[2i + 1].
        #[inline(always)]
        pub fn dot(self, o: Self) -> I32x4 {
            I32x4(i32x4_dot_i16x8(self.0, o.0))
        }
        #[inline(always)]
        pub fn widen_low(self) -> I32x4 {
            I32x4(i32x4_extend_low_i16x8(self.0))
        }
        #[inline(always)]
        pub fn widen_high(self) -> I32x4 {
            I32x4(i32x4_extend_high_i16x8(self.0))
        }
        #[inline(always)]
        pub fn widen_low_u(self) -> I32x4 {
            I32x4(u32x4_extend_low_u16x8(self.0))
        }
        #[inline(always)]
        pub fn widen_high_u(self) -> I32x4 {
            I32x4(u32x4_extend_high_u16x8(self.0))
        }
    }

    impl U8x16 {
        #[inline(always)]
        pub fn splat(x: u8) -> Self {
            Self(u8x16_splat(x))
        }
        #[inline(always)]
        pub unsafe fn load(p: *const u8) -> Self {
            Self(v128_load(p as *const v128))
        }
        #[inline(always)]
        pub unsafe fn store(self, p: *mut u8) {
            v128_store(p as *mut v128, self.0)
        }
        /// Four bytes, repeated in all four 32-bit lanes.
        #[inline(always)]
        pub unsafe fn load_quad_splat(p: *const u8) -> Self {
            Self(v128_load32_splat(p as *const u32))
        }
        /// Bytes 4i..4i+3, repeated in all four 32-bit lanes.
        #[inline(always)]
        pub fn splat_quad(self, i: usize) -> Self {
            Self(match i {
                0 => i32x4_shuffle::<0, 0, 0, 0>(self.0, self.0),
                1 => i32x4_shuffle::<1, 1, 1, 1>(self.0, self.0),
                2 => i32x4_shuffle::<2, 2, 2, 2>(self.0, self.0),
                _ => i32x4_shuffle::<3, 3, 3, 3>(self.0, self.0),
            })
        }
        #[inline(always)]
        pub fn and(self, o: Self) -> Self {
            Self(v128_and(self.0, o.0))
        }
        #[inline(always)]
        pub fn or(self, o: Self) -> Self {
            Self(v128_or(self.0, o.0))
        }
        /// Shifts within 16-bit lanes: bits of the neighbouring byte come in, so mask afterwards.
        #[inline(always)]
        pub fn shr16(self, n: u32) -> Self {
            Self(u16x8_shr(self.0, n))
        }
        #[inline(always)]
        pub fn shl16(self, n: u32) -> Self {
            Self(i16x8_shl(self.0, n))
        }
        /// Signed bytes of sixteen words, saturating: `a` then `b`.
        #[inline(always)]
        pub fn narrow_s(a: I16x8, b: I16x8) -> Self {
            Self(i8x16_narrow_i16x8(a.0, b.0))
        }
        /// The first eight bytes of each: of this, then of `o`.
        #[inline(always)]
        pub fn low_halves(self, o: Self) -> Self {
            Self(i64x2_shuffle::<0, 2>(self.0, o.0))
        }
        /// The last eight bytes of each: of this, then of `o`.
        #[inline(always)]
        pub fn high_halves(self, o: Self) -> Self {
            Self(i64x2_shuffle::<1, 3>(self.0, o.0))
        }
        /// Looks bytes 0..15 up in a table.
        #[inline(always)]
        pub fn lookup(self, table: Self) -> Self {
            Self(u8x16_swizzle(table.0, self.0))
        }
        #[inline(always)]
        pub fn as_i32(self) -> I32x4 {
            I32x4(self.0)
        }
        #[inline(always)]
        pub fn widen_low_u(self) -> I16x8 {
            I16x8(i16x8_extend_low_u8x16(self.0))
        }
        #[inline(always)]
        pub fn widen_high_u(self) -> I16x8 {
            I16x8(i16x8_extend_high_u8x16(self.0))
        }
        #[inline(always)]
        pub fn widen_low_s(self) -> I16x8 {
            I16x8(i16x8_extend_low_i8x16(self.0))
        }
        #[inline(always)]
        pub fn widen_high_s(self) -> I16x8 {
            I16x8(i16x8_extend_high_i8x16(self.0))
        }
        /// `self` holds signed bytes, `w` unsigned ones below 128. Lane i is
        /// self[2i] * w[2i] + self[2i + 1] * w[2i + 1], exact.
        #[inline(always)]
        pub fn dot_pairs(self, w: Self) -> I16x8 {
            #[cfg(target_feature = "relaxed-simd")]
            return I16x8(i16x8_relaxed_dot_i8x16_i7x16(self.0, w.0));
            #[cfg(not(target_feature = "relaxed-simd"))]
            {
                let even = i16x8_mul(
                    i16x8_shr(i16x8_shl(self.0, 8), 8),
                    v128_and(w.0, i16x8_splat(0xff)),
                );
                let odd = i16x8_mul(i16x8_shr(self.0, 8), u16x8_shr(w.0, 8));
                I16x8(i16x8_add(even, odd))
            }
        }
        /// Lane i of `acc` plus the four products of bytes 4i..4i+3; `self` holds signed bytes, `w`
        /// unsigned ones below 128. Larger ones are read as the processor likes: see `dot::read_of_bytes`.
        #[inline(always)]
        pub fn dot_quads(self, w: Self, acc: I32x4) -> I32x4 {
            #[cfg(target_feature = "relaxed-simd")]
            return I32x4(i32x4_relaxed_dot_i8x16_i7x16_add(self.0, w.0, acc.0));
            #[cfg(not(target_feature = "relaxed-simd"))]
            return self.dot_pairs(w).pair_sums().add(acc);
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod imp {
    #[derive(Clone, Copy, Debug)]
    pub struct F32x4(pub [f32; 4]);
    #[derive(Clone, Copy, Debug)]
    pub struct I32x4(pub [i32; 4]);
    #[derive(Clone, Copy, Debug)]
    pub struct I16x8(pub [i16; 8]);
    #[derive(Clone, Copy, Debug)]
    pub struct U8x16(pub [u8; 16]);

    fn zip<T: Copy, R, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> R) -> [R; N] {
        core::array::from_fn(|i| f(a[i], b[i]))
    }

    impl F32x4 {
        pub fn splat(x: f32) -> Self {
            Self([x; 4])
        }
        pub unsafe fn load(p: *const f32) -> Self {
            Self((p as *const [f32; 4]).read_unaligned())
        }
        pub unsafe fn load_splat(p: *const f32) -> Self {
            Self([p.read_unaligned(); 4])
        }
        pub fn splat_lane(self, i: usize) -> Self {
            Self([self.0[i]; 4])
        }
        pub fn low_twice(self) -> Self {
            Self([0, 0, 1, 1].map(|i| self.0[i]))
        }
        pub fn high_twice(self) -> Self {
            Self([2, 2, 3, 3].map(|i| self.0[i]))
        }
        pub fn swap_neighbours(self) -> Self {
            Self([1, 0, 3, 2].map(|i| self.0[i]))
        }
        pub fn transpose(rows: [Self; 4]) -> [Self; 4] {
            core::array::from_fn(|i| Self(rows.map(|row| row.0[i])))
        }
        pub unsafe fn store(self, p: *mut f32) {
            (p as *mut [f32; 4]).write_unaligned(self.0)
        }
        pub fn add(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a + b))
        }
        pub fn sub(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a - b))
        }
        pub fn mul(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a * b))
        }
        pub fn div(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a / b))
        }
        pub fn at_least(self, limit: f32) -> Self {
            Self(self.0.map(|x| if x < limit { limit } else { x }))
        }
        pub fn at_most(self, limit: f32) -> Self {
            Self(self.0.map(|x| if limit < x { limit } else { x }))
        }
        pub fn larger(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| if a < b { b } else { a }))
        }
        pub fn swap_halves(self) -> Self {
            Self([2, 3, 0, 1].map(|i| self.0[i]))
        }
        pub fn smaller(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| if b < a { b } else { a }))
        }
        pub fn abs(self) -> Self {
            Self(self.0.map(f32::abs))
        }
        pub fn neg(self) -> Self {
            Self(self.0.map(|a| -a))
        }
        pub fn sqrt(self) -> Self {
            Self(self.0.map(f32::sqrt))
        }
        pub fn mul_add(self, b: Self, c: Self) -> Self {
            Self(core::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
        }
        pub fn bits(self) -> I32x4 {
            I32x4(self.0.map(|a| a.to_bits() as i32))
        }
        pub fn lt(self, o: Self) -> I32x4 {
            I32x4(zip(self.0, o.0, |a, b| if a < b { -1 } else { 0 }))
        }
        pub fn lanes(self) -> [f32; 4] {
            self.0
        }
    }

    impl I32x4 {
        pub fn splat(x: i32) -> Self {
            Self([x; 4])
        }
        pub fn gather(x: [i16; 4]) -> Self {
            Self(x.map(i32::from))
        }
        pub fn add(self, o: Self) -> Self {
            Self(zip(self.0, o.0, i32::wrapping_add))
        }
        pub fn sub(self, o: Self) -> Self {
            Self(zip(self.0, o.0, i32::wrapping_sub))
        }
        pub fn max(self, o: Self) -> Self {
            Self(zip(self.0, o.0, i32::max))
        }
        pub fn min(self, o: Self) -> Self {
            Self(zip(self.0, o.0, i32::min))
        }
        pub fn and(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a & b))
        }
        pub fn and_not(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a & !b))
        }
        pub fn or(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a | b))
        }
        pub fn flip(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a ^ b))
        }
        pub fn shl(self, n: u32) -> Self {
            Self(self.0.map(|a| a << n))
        }
        pub fn shr_s(self, n: u32) -> Self {
            Self(self.0.map(|a| a >> n))
        }
        pub fn shr_u(self, n: u32) -> Self {
            Self(self.0.map(|a| ((a as u32) >> n) as i32))
        }
        pub fn to_f32(self) -> F32x4 {
            F32x4(self.0.map(|a| a as f32))
        }
        pub fn lanes(self) -> [i32; 4] {
            self.0
        }
        pub fn as_f32(self) -> F32x4 {
            F32x4(self.0.map(|a| f32::from_bits(a as u32)))
        }
    }

    impl I16x8 {
        pub fn zero() -> Self {
            Self([0; 8])
        }
        pub unsafe fn load(p: *const i16) -> Self {
            Self((p as *const [i16; 8]).read_unaligned())
        }
        pub unsafe fn store(self, p: *mut i16) {
            (p as *mut [i16; 8]).write_unaligned(self.0)
        }
        pub unsafe fn load_pair_splat(p: *const i16) -> Self {
            let pair = (p as *const [i16; 2]).read_unaligned();
            Self(core::array::from_fn(|i| pair[i % 2]))
        }
        pub fn splat_pair(self, i: usize) -> Self {
            Self(core::array::from_fn(|k| self.0[2 * i + k % 2]))
        }
        pub fn narrow(a: I32x4, b: I32x4) -> Self {
            let clamp = |x: i32| x.clamp(-32768, 32767) as i16;
            Self(core::array::from_fn(|i| {
                clamp(if i < 4 { a.0[i] } else { b.0[i - 4] })
            }))
        }
        pub fn narrow_u(a: I32x4, b: I32x4) -> Self {
            let clamp = |x: i32| x.clamp(0, 65535) as u16 as i16;
            Self(core::array::from_fn(|i| {
                clamp(if i < 4 { a.0[i] } else { b.0[i - 4] })
            }))
        }
        pub fn lanes(self) -> [i16; 8] {
            self.0
        }
        pub fn shr_s(self, n: u32) -> Self {
            Self(self.0.map(|a| a >> n))
        }
        pub fn shl(self, n: u32) -> Self {
            Self(self.0.map(|a| a << n))
        }
        pub fn sub(self, o: Self) -> Self {
            Self(zip(self.0, o.0, i16::wrapping_sub))
        }
        pub fn splat(x: i16) -> Self {
            Self([x; 8])
        }
        pub fn and(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a & b))
        }
        pub fn shr_u(self, n: u32) -> Self {
            Self(self.0.map(|a| ((a as u16) >> n) as i16))
        }
        pub fn smaller_u(self, o: Self) -> Self {
            Self(zip(
                self.0,
                o.0,
                |a, b| if (b as u16) < a as u16 { b } else { a },
            ))
        }
        pub fn any_below_u(self, o: Self) -> bool {
            zip(self.0, o.0, |a, b| (a as u16) < b as u16).contains(&true)
        }
        pub fn above(self, low: Self) -> [I32x4; 2] {
            let word = |i: usize| (self.0[i] as i32) << 16 | low.0[i] as u16 as i32;
            [0, 4].map(|first| I32x4(core::array::from_fn(|i| word(first + i))))
        }
        pub unsafe fn load_widen_s8(p: *const i8) -> Self {
            Self((p as *const [i8; 8]).read_unaligned().map(i16::from))
        }
        pub unsafe fn load_widen_u8(p: *const u8) -> Self {
            Self((p as *const [u8; 8]).read_unaligned().map(i16::from))
        }
        pub fn add(self, o: Self) -> Self {
            Self(zip(self.0, o.0, i16::wrapping_add))
        }
        pub fn pair_sums(self) -> I32x4 {
            I32x4(core::array::from_fn(|i| {
                self.0[2 * i] as i32 + self.0[2 * i + 1] as i32
            }))
        }
        pub fn dot(self, o: Self) -> I32x4 {
            I32x4(core::array::from_fn(|i| {
                self.0[2 * i] as i32 * o.0[2 * i] as i32
                    + self.0[2 * i + 1] as i32 * o.0[2 * i + 1] as i32
            }))
        }
        pub fn widen_low(self) -> I32x4 {
            I32x4(core::array::from_fn(|i| self.0[i] as i32))
        }
        pub fn widen_high(self) -> I32x4 {
            I32x4(core::array::from_fn(|i| self.0[i + 4] as i32))
        }
        pub fn widen_low_u(self) -> I32x4 {
            I32x4(core::array::from_fn(|i| self.0[i] as u16 as i32))
        }
        pub fn widen_high_u(self) -> I32x4 {
            I32x4(core::array::from_fn(|i| self.0[i + 4] as u16 as i32))
        }
    }

    impl U8x16 {
        fn map16(self, f: impl Fn(u16) -> u16) -> Self {
            let mut out = [0u8; 16];
            for i in 0..8 {
                let x = f(u16::from_le_bytes([self.0[2 * i], self.0[2 * i + 1]]));
                out[2 * i..2 * i + 2].copy_from_slice(&x.to_le_bytes());
            }
            Self(out)
        }
        pub fn splat(x: u8) -> Self {
            Self([x; 16])
        }
        pub unsafe fn load(p: *const u8) -> Self {
            Self((p as *const [u8; 16]).read_unaligned())
        }
        pub unsafe fn store(self, p: *mut u8) {
            (p as *mut [u8; 16]).write_unaligned(self.0)
        }
        pub unsafe fn load_quad_splat(p: *const u8) -> Self {
            let quad = (p as *const [u8; 4]).read_unaligned();
            Self(core::array::from_fn(|i| quad[i % 4]))
        }
        pub fn splat_quad(self, i: usize) -> Self {
            Self(core::array::from_fn(|k| self.0[4 * i + k % 4]))
        }
        pub fn and(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a & b))
        }
        pub fn or(self, o: Self) -> Self {
            Self(zip(self.0, o.0, |a, b| a | b))
        }
        pub fn shr16(self, n: u32) -> Self {
            self.map16(|x| x >> n)
        }
        pub fn shl16(self, n: u32) -> Self {
            self.map16(|x| x << n)
        }
        pub fn narrow_s(a: I16x8, b: I16x8) -> Self {
            let clamp = |x: i16| x.clamp(-128, 127) as i8 as u8;
            Self(core::array::from_fn(|i| {
                clamp(if i < 8 { a.0[i] } else { b.0[i - 8] })
            }))
        }
        pub fn low_halves(self, o: Self) -> Self {
            Self(core::array::from_fn(|i| [self, o][i / 8].0[i % 8]))
        }
        pub fn high_halves(self, o: Self) -> Self {
            Self(core::array::from_fn(|i| [self, o][i / 8].0[8 + i % 8]))
        }
        pub fn lookup(self, table: Self) -> Self {
            Self(self.0.map(|i| if i < 16 { table.0[i as usize] } else { 0 }))
        }
        pub fn as_i32(self) -> I32x4 {
            I32x4(unsafe { core::mem::transmute::<[u8; 16], [i32; 4]>(self.0) })
        }
        pub fn widen_low_u(self) -> I16x8 {
            I16x8(core::array::from_fn(|i| self.0[i] as i16))
        }
        pub fn widen_high_u(self) -> I16x8 {
            I16x8(core::array::from_fn(|i| self.0[i + 8] as i16))
        }
        pub fn widen_low_s(self) -> I16x8 {
            I16x8(core::array::from_fn(|i| self.0[i] as i8 as i16))
        }
        pub fn widen_high_s(self) -> I16x8 {
            I16x8(core::array::from_fn(|i| self.0[i + 8] as i8 as i16))
        }
        pub fn dot_pairs(self, w: Self) -> I16x8 {
            I16x8(core::array::from_fn(|i| {
                debug_assert!(w.0[2 * i] < 128 && w.0[2 * i + 1] < 128);
                (self.0[2 * i] as i8 as i16 * w.0[2 * i] as i16)
                    .wrapping_add(self.0[2 * i + 1] as i8 as i16 * w.0[2 * i + 1] as i16)
            }))
        }
        pub fn dot_quads(self, w: Self, acc: I32x4) -> I32x4 {
            I32x4(core::array::from_fn(|i| {
                (0..4).fold(acc.0[i], |sum, k| {
                    sum + self.0[4 * i + k] as i8 as i32 * w.0[4 * i + k] as i32
                })
            }))
        }
    }
}

pub use imp::{F32x4, I16x8, I32x4, U8x16};

impl F32x4 {
    /// The nearest integer, an even one of two equally near, as a float and as itself; of magnitudes
    /// below 2^22 only. Adding 1.5 * 2^23 leaves no bits for a fraction, and an integer in the last bits.
    #[inline(always)]
    pub fn round_small(self) -> (Self, I32x4) {
        const SHIFT: f32 = 12_582_912.0;
        let shifted = self.add(Self::splat(SHIFT));
        let whole = shifted.bits().sub(I32x4::splat(SHIFT.to_bits() as i32));
        (shifted.sub(Self::splat(SHIFT)), whole)
    }
    /// Sum of the lanes, in the order (0 + 1) + (2 + 3).
    #[inline(always)]
    pub fn sum(self) -> f32 {
        let [a, b, c, d] = self.lanes();
        (a + b) + (c + d)
    }
    /// The largest lane; NaN where one is NaN.
    #[inline(always)]
    pub fn max_lane(self) -> f32 {
        let larger = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
        let [a, b, c, d] = self.lanes();
        larger(larger(a, b), larger(c, d))
    }
}

impl I32x4 {
    /// Sum of the lanes.
    #[inline(always)]
    pub fn sum(self) -> i32 {
        let [a, b, c, d] = self.lanes();
        a + b + c + d
    }
}
