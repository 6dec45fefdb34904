use sluice_kernels::activations::{
    byte_offset, inverse_rms, prepare, prepare_blocks, rms_norm, BlockMeta, Layout, Precision, Row,
    FLOAT, NARROW, WIDE,
};
use sluice_kernels::math::clamped_swiglu;
use sluice_kernels::simd::F32x4;

use crate::support::{quantisation_errors, Memory, Random, PRECISIONS, ROUNDOFF};

const COLS: usize = 192;

/// One record with all forms, read back.
struct Record {
    meta: Vec<BlockMeta>,
    high: Vec<i32>,
    low: Vec<i32>,
    wide: Vec<i32>,
    float: Vec<f32>,
}

fn record(x: &[f32], precision: Precision) -> Record {
    let forms = NARROW | WIDE | FLOAT;
    let layout = Layout::new(x.len(), forms, precision);
    let mut memory = Memory::new(layout.bytes);
    // SAFETY: the layout's sections lie within its bytes.
    unsafe {
        prepare(x.as_ptr(), &layout, forms, precision, memory.at());
        let row = Row::new(memory.at(), &layout);
        let word =
            |at: *const u8, i: usize| *at.add(i / 32 * 32 + byte_offset(i % 32)) as i8 as i32;
        let words = |at: *const u8| (0..x.len()).map(|i| word(at, i)).collect();
        let record = Record {
            meta: (0..x.len() / 32).map(|i| *row.meta.add(i)).collect(),
            high: words(row.high),
            low: if precision == Precision::Q16 {
                words(row.low)
            } else {
                Vec::new()
            },
            wide: (0..x.len()).map(|i| *row.wide.add(i) as i32).collect(),
            float: (0..x.len()).map(|i| *row.float.add(i)).collect(),
        };
        memory.check_guard();
        record
    }
}

fn check(x: &[f32], precision: Precision) {
    let record = record(x, precision);
    assert_eq!(record.float, x);
    let errors = quantisation_errors(x, precision);
    for (i, &q) in record.wide.iter().enumerate() {
        let scale = record.meta[i / 32].scale as f64;
        let error = (x[i] as f64 - scale * q as f64).abs();
        assert!(
            error <= errors[i],
            "{precision:?} value {i}: {} as {q} times {scale}",
            x[i]
        );
        if precision == Precision::Q16 {
            assert_eq!(256 * record.high[i] + record.low[i], q);
        } else {
            assert_eq!(record.high[i], q);
        }
    }
    for (block, meta) in record.meta.iter().enumerate() {
        let q = &record.wide[block * 32..][..32];
        let halves = [q[..16].iter().sum::<i32>(), q[16..].iter().sum()];
        assert_eq!(meta.sum, [halves[0] + halves[1], halves[0], halves[1]]);
        for (sum, scaled) in meta.sum.into_iter().zip(meta.scaled_sum) {
            assert_eq!(scaled, sum as f32 * meta.scale);
        }
    }
}

#[test]
fn quantised_activations_are_within_half_a_step() {
    let mut random = Random::new(1);
    for scale in [1.0, 1e-6, 3e4, 1e30] {
        for precision in [Precision::Q8, Precision::Q16] {
            let mut x = random.floats(COLS);
            for v in &mut x {
                *v *= scale;
            }
            // A block with one outlier, and one of zeros.
            x[40] = 100.0 * scale;
            x[64..96].fill(0.0);
            check(&x, precision);
        }
    }
}

#[test]
fn every_sixteen_bit_level_splits_into_two_signed_bytes() {
    // Each block has the peak, which makes the step one, so that the values are the levels.
    let levels: Vec<f32> = (-32512..=32512).map(|q| q as f32).collect();
    for run in levels.chunks(31) {
        let mut x = run.to_vec();
        x.resize(32, 32512.0);
        check(&x, Precision::Q16);
    }
}

#[test]
fn activations_too_small_for_a_step_stay_small() {
    for precision in [Precision::Q8, Precision::Q16] {
        for peak in [1e-33f32, 1e-35, 1e-37, 1e-39, f32::from_bits(1)] {
            let mut x = vec![0.0; 32];
            x[3] = peak;
            x[17] = -peak / 2.0;
            let record = record(&x, precision);
            let meta = record.meta[0];
            for (i, &x) in x.iter().enumerate() {
                let q = record.wide[i];
                let bytes = match precision {
                    Precision::Q16 => 256 * record.high[i] + record.low[i],
                    _ => record.high[i],
                };
                assert_eq!(bytes, q, "{precision:?} {peak:e}: value {i}");
                let back = meta.scale as f64 * q as f64;
                assert!(
                    (back - x as f64).abs() <= 1.01 * peak as f64,
                    "{precision:?} {peak:e}: value {i} is {back:e} for {x:e}"
                );
            }
            assert_eq!(meta.sum[0], record.wide.iter().sum::<i32>());
        }
    }
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let mut random = Random::new(2);
    for n in [4, 16, 30, 31, 576] {
        let x = random.floats(n);
        let weight = random.floats(n);
        let mean = x.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / n as f64;
        let want = 1.0 / (mean + 1e-5).sqrt();
        let mut out = vec![0.0; n];
        // SAFETY: all have n values.
        let got = unsafe {
            rms_norm(x.as_ptr(), weight.as_ptr(), n, 1e-5, out.as_mut_ptr());
            inverse_rms(x.as_ptr(), n, 1e-5)
        };
        let relative = (n + 8) as f64 * ROUNDOFF;
        assert!((got as f64 / want - 1.0).abs() <= relative, "n = {n}");
        for i in 0..n {
            let want = x[i] as f64 * want * weight[i] as f64;
            assert!(
                (out[i] as f64 - want).abs() <= relative * want.abs(),
                "n = {n}"
            );
        }
    }
}

#[test]
fn a_record_made_in_pieces_has_the_bits_of_one_made_at_once() {
    let x = Random::new(3).floats(COLS);
    for precision in PRECISIONS {
        for forms in [NARROW, WIDE, FLOAT, NARROW | FLOAT, NARROW | WIDE | FLOAT] {
            let layout = Layout::new(COLS, forms, precision);
            // Pieces in any order; the last of them ends with the row.
            let make = |pieces: &[core::ops::Range<usize>]| {
                let mut memory = Memory::new(layout.bytes);
                for cols in pieces {
                    let base = memory.at();
                    // SAFETY: the memory has room for the record.
                    unsafe {
                        prepare_blocks(x.as_ptr(), &layout, forms, precision, base, cols.clone())
                    };
                }
                memory.check_guard();
                // SAFETY: as long as it was made.
                unsafe { core::slice::from_raw_parts(memory.at(), layout.bytes) }.to_vec()
            };
            let mut whole = Memory::new(layout.bytes);
            // SAFETY: as above.
            let whole = unsafe {
                prepare(x.as_ptr(), &layout, forms, precision, whole.at());
                core::slice::from_raw_parts(whole.at(), layout.bytes)
            };
            assert_eq!(make(&[64..160, 0..64, 160..COLS]), whole, "{precision:?}");
            // One part is not enough: each writes its own columns only.
            assert_ne!(make(&[0..64, 96..COLS]), whole, "{precision:?}");
        }
    }
}

#[test]
fn a_record_of_floats_may_end_within_a_block() {
    let x = Random::new(4).floats(40);
    let layout = Layout::new(40, FLOAT, Precision::F32);
    let mut memory = Memory::new(layout.bytes);
    // SAFETY: the memory has room for the record.
    unsafe {
        for cols in [32..40, 0..32] {
            prepare_blocks(
                x.as_ptr(),
                &layout,
                FLOAT,
                Precision::F32,
                memory.at(),
                cols,
            );
        }
        let float = Row::new(memory.at(), &layout).float;
        assert_eq!(core::slice::from_raw_parts(float, 40), x);
    }
    memory.check_guard();
}

#[test]
fn the_clamped_gate_follows_its_definition_within_and_beyond_the_clamps() {
    let values: Vec<f32> = (-240..=240)
        .map(|i| i as f32 / 8.0)
        .chain([-1e30, 1e30, -7.000001, 7.000001, -0.0])
        .collect();
    for &gate in &values {
        for &up in &values {
            let got = clamped_swiglu(F32x4::splat(gate), F32x4::splat(up)).lanes()[0] as f64;
            let (g, u) = ((gate as f64).min(7.0), (up as f64).clamp(-7.0, 7.0));
            let want = g / (1.0 + (-1.702 * g).exp()) * (u + 1.0);
            // exp's argument is rounded twice, by the constant and by the product.
            let relative = (16.0 + 4.0 * g.abs()) * ROUNDOFF;
            // Below what exp can show, the result is nearly zero.
            let bound = if g < -51.0 {
                1e-6
            } else {
                relative * want.abs()
            };
            assert!(
                (got - want).abs() <= bound,
                "gate {gate}, up {up}: {got} for {want}, bound {bound}"
            );
        }
    }
}

#[test]
fn the_clamped_gate_does_not_hide_nan() {
    for (gate, up) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
        let got = clamped_swiglu(F32x4::splat(gate), F32x4::splat(up));
        assert!(got.lanes()[0].is_nan(), "gate {gate}, up {up}");
    }
}
