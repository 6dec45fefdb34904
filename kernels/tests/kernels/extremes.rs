//! The largest levels and activations that can meet: 16-bit sums must hold them.

use sluice_kernels::activations::Precision;

use crate::kinds::{integer_kinds, kind_named, Kind, Scales};
use crate::support::{product, Matrix, Random, Records, PRECISIONS};

const COLS: usize = 512;
/// One in half precision.
const ONE: [u8; 2] = [0, 0x3c];

/// The block with scales of one.
fn unscaled(kind: Kind, mut block: Vec<u8>) -> Vec<u8> {
    for &at in kind.halves {
        block[at..at + 2].copy_from_slice(&ONE);
    }
    if kind.name == "MXFP4" {
        block[0] = 127;
    }
    block
}

/// A block of one byte throughout, but for its scales.
fn filled(kind: Kind, byte: u8) -> Vec<u8> {
    unscaled(kind, vec![byte; kind.bytes])
}

/// Activations that quantise without error, since each block's peak is the number of levels.
fn patterns(precision: Precision) -> Vec<Vec<f32>> {
    let peak = if precision == Precision::Q16 {
        32512.0
    } else {
        127.0
    };
    let of = |f: &dyn Fn(usize) -> f32| (0..COLS).map(f).collect::<Vec<f32>>();
    let mut all = vec![
        of(&|_| peak),
        of(&|_| -peak),
        of(&|i| if i % 2 == 0 { peak } else { -peak }),
        of(&|i| if i % 32 < 16 { peak } else { -peak }),
    ];
    if precision == Precision::Q16 {
        // Low bytes of -128 and 127 beside one peak.
        for rest in [32384.0, -32640.0 + 256.0, 32383.0, -32385.0] {
            all.push(of(&|i| if i % 32 == 31 { peak } else { rest }));
        }
    }
    all
}

fn check(matrix: &mut Matrix, precision: Precision) {
    let patterns = patterns(precision);
    let x = patterns.concat();
    let exact = [0.0; COLS];
    let mut records = Records::new(matrix.kind.id, &x, COLS, precision);
    let mut run = |first: usize, tokens: usize, quads: bool| {
        let mut inputs = records.inputs(first, tokens, 1);
        inputs.quads = quads;
        product(matrix, &inputs)
    };
    let together = run(0, patterns.len(), false);
    assert_eq!(run(0, patterns.len(), true), together);
    let alone: Vec<Vec<f32>> = (0..patterns.len())
        .map(|token| {
            let alone = run(token, 1, false);
            assert_eq!(run(token, 1, true), alone);
            alone
        })
        .collect();
    for (token, x) in patterns.iter().enumerate() {
        for row in 0..matrix.rows {
            let (want, bound) = matrix.product(row, x, &exact);
            for got in [alone[token][row], together[token * matrix.rows + row]] {
                assert!(
                    (got as f64 - want).abs() <= bound,
                    "{} {precision:?}, pattern {token}: {got} for {want}, bound {bound}",
                    matrix.kind.name
                );
            }
        }
    }
}

#[test]
fn no_sum_overflows_with_levels_and_activations_at_their_extremes() {
    for kind in integer_kinds() {
        for byte in [0x00, 0x77, 0x7f, 0x80, 0xff] {
            let mut matrix = Matrix::new(kind, (8, COLS), || filled(kind, byte));
            for precision in PRECISIONS {
                check(&mut matrix, precision);
            }
        }
    }
}

#[test]
fn no_sum_overflows_where_single_levels_are_extreme() {
    // Random bytes of which most have all bits set: partial sums of every height.
    for kind in integer_kinds() {
        let mut random = Random::new(kind.id as u64 + 400);
        let mut matrix = Matrix::new(kind, (24, COLS), || {
            let mut byte = || match random.below(4) {
                0 => random.bits() as u8,
                _ => 0xff,
            };
            unscaled(kind, (0..kind.bytes).map(|_| byte()).collect())
        });
        for precision in PRECISIONS {
            check(&mut matrix, precision);
        }
    }
}

#[test]
fn the_largest_level_of_five_and_six_bits_meets_the_largest_activation() {
    // 32 columns of q = 31 (Q5_1, scale 1, minimum 0) times 127, and of q = 63 (Q6_K, less 32).
    for (name, level) in [("Q4_1", 15.0), ("Q5_1", 31.0), ("Q6_K", 31.0)] {
        let kind = kind_named(name);
        let mut matrix = Matrix::new(kind, (8, COLS), || {
            let mut block = filled(kind, 0xff);
            match name {
                "Q6_K" => block[192..208].fill(1),
                _ => block[2..4].fill(0),
            }
            block
        });
        let mut records = Records::new(kind.id, &[127.0; COLS], COLS, Precision::Q8);
        let want = [level * 127.0 * COLS as f32; 8];
        assert_eq!(product(&mut matrix, &records.inputs(0, 1, 1)), want);
    }
}

#[test]
fn subnormal_and_zero_scales_multiply_exactly() {
    for kind in integer_kinds().filter(|kind| !kind.halves.is_empty()) {
        for scale in [0x0000u16, 0x8000, 0x0001, 0x8001, 0x03ff] {
            let mut random = Random::new(kind.id as u64 + 500);
            let mut matrix = Matrix::new(kind, (8, COLS), || {
                let mut block = kind.random_block(&mut random, Scales::Any);
                for &at in kind.halves {
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                block
            });
            for precision in PRECISIONS {
                check(&mut matrix, precision);
            }
        }
    }
}
