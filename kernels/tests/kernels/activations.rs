use sluice_kernels::activations::{
    inverse_rms, prepare, rms_norm, BlockMeta, Layout, Precision, Row, FLOAT, NARROW, WIDE,
};

use crate::support::{quantisation_errors, Memory, Random, ROUNDOFF};

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
        let words = |at: *const u8| (0..x.len()).map(|i| *at.add(i) as i8 as i32).collect();
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
