//! Elementary functions on vectors, and 16-bit float conversions.

use crate::simd::{F32x4, I16x8, I32x4};

/// e^x to about 1 ulp for x in [-87.3, 88.7]; below that 0, above it the largest finite result.
/// Range reduction by ln 2 in two parts, then a polynomial of degree 6 (Cephes' coefficients).
#[inline(always)]
pub fn exp(x: F32x4) -> F32x4 {
    exp_of::<false>(x)
}

/// As `exp`, the same bits in fewer instructions; of numbers up to 0.
#[inline(always)]
pub fn exp_below_one(x: F32x4) -> F32x4 {
    exp_of::<true>(x)
}

#[inline(always)]
fn exp_of<const BELOW_ONE: bool>(x: F32x4) -> F32x4 {
    let underflow = x.lt(F32x4::splat(-87.336_54));
    let x = x.at_least(-87.336_54);
    let x = if BELOW_ONE { x } else { x.at_most(88.722_8) };
    let (n, whole) = x.mul(F32x4::splat(core::f32::consts::LOG2_E)).round_small();
    let r = n.mul_add(F32x4::splat(-0.693_359_4), x);
    let r = n.mul_add(F32x4::splat(2.121_944_4e-4), r);
    let mut p = F32x4::splat(1.987_569_2e-4);
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p.mul_add(r, F32x4::splat(c));
    }
    let y = p.mul(r).mul_add(r, r).add(F32x4::splat(1.0));
    let pow = |k: I32x4| k.add(I32x4::splat(127)).shl(23).as_f32();
    let y = if BELOW_ONE {
        y.mul(pow(whole))
    } else {
        // 2^n in two factors, since n can be 128.
        let half = whole.shr_s(1);
        y.mul(pow(half)).mul(pow(whole.sub(half)))
    };
    y.bits().and_not(underflow).as_f32()
}

/// x * sigmoid(x).
#[inline(always)]
pub fn silu(x: F32x4) -> F32x4 {
    x.div(exp(x.neg()).add(F32x4::splat(1.0)))
}

/// The gated activation of GPT-OSS: `g * sigmoid(1.702 g) * (u + 1)` with g at most 7 and u within 7.
#[inline(always)]
pub fn clamped_swiglu(gate: F32x4, up: F32x4) -> F32x4 {
    let g = gate.at_most(7.0);
    let u = up.at_most(7.0).at_least(-7.0);
    let sigmoid = exp(g.mul(F32x4::splat(-1.702))).add(F32x4::splat(1.0));
    g.div(sigmoid).mul(u.add(F32x4::splat(1.0)))
}

/// Eight half-precision floats to single precision: the exponent is re-biased by one multiplication.
#[inline(always)]
pub fn f16_to_f32(h: I16x8) -> [F32x4; 2] {
    let widen = |i: I32x4| {
        i.shl(13)
            .and(I32x4::splat(0x8fff_e000_u32 as i32))
            .as_f32()
            .mul(F32x4::splat(f32::from_bits(0x7780_0000)))
    };
    [widen(h.widen_low()), widen(h.widen_high())]
}

/// One half-precision float, all cases (infinities and NaN too).
pub fn f16_scalar(h: u16) -> f32 {
    let sign = ((h & 0x8000) as u32) << 16;
    let magnitude = match h & 0x7fff {
        m if m >= 0x7c00 => 0x7f80_0000 | ((m as u32 & 0x3ff) << 13),
        m => (f32::from_bits((m as u32) << 13) * f32::from_bits(0x7780_0000)).to_bits(),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let y = exp(F32x4::splat(x)).lanes()[0];
            let want = (x as f64).exp();
            assert!(
                ((y as f64 - want) / want).abs() < 2.4e-7,
                "exp({x}) = {y}, want {want}"
            );
            x += 0.0137;
        }
        let mut x = 0.0f32;
        while x > -90.0 {
            let [a, b] = [exp, exp_below_one].map(|f| f(F32x4::splat(x)).lanes()[0].to_bits());
            assert_eq!(a, b, "exp({x})");
            x -= 0.000_37;
        }
        assert_eq!(exp(F32x4::splat(-100.0)).lanes()[0], 0.0);
        assert_eq!(
            exp_below_one(F32x4::splat(f32::NEG_INFINITY)).lanes()[0],
            0.0
        );
        assert_eq!(exp(F32x4::splat(f32::NEG_INFINITY)).lanes()[0], 0.0);
        assert_eq!(exp(F32x4::splat(0.0)).lanes()[0], 1.0);
        assert!(exp(F32x4::splat(1000.0)).lanes()[0] > 3.3e38);
    }

    #[test]
    fn half_floats_convert_exactly() {
        for h in 0..0x7c00u16 {
            for h in [h, h | 0x8000] {
                let mut lanes = [0i16; 8];
                lanes[1] = h as i16;
                lanes[6] = h as i16;
                let [low, high] = f16_to_f32(unsafe { I16x8::load(lanes.as_ptr()) });
                let exponent = ((h >> 10) & 31) as i32;
                let mantissa = (h & 0x3ff) as f64;
                let magnitude = if exponent == 0 {
                    mantissa * 2f64.powi(-24)
                } else {
                    (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15)
                };
                let want = if h & 0x8000 != 0 {
                    -magnitude
                } else {
                    magnitude
                };
                assert_eq!(low.lanes()[1] as f64, want);
                assert_eq!(high.lanes()[2] as f64, want);
                assert_eq!(f16_scalar(h) as f64, want);
            }
        }
    }
}
