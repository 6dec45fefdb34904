use sluice_kernels::linear::Epilogue;

use crate::support::{
    bits, multiply, product, quantisation_errors, Finish, Matrix, Random, Records, Scales, KINDS,
    PRECISIONS, ROUNDOFF,
};

/// Six groups, the last of three rows: four streams and two groups beside them.
const SHAPE: (usize, usize) = (43, 512);
const TOKENS: usize = 9;

#[test]
fn products_are_within_the_bound_of_quantised_activations() {
    for kind in KINDS {
        let mut random = Random::new(kind.id as u64 + 100);
        let mut matrix = Matrix::random(kind, SHAPE, &mut random, Scales::Moderate);
        let (rows, cols) = SHAPE;
        let x = random.floats(TOKENS * cols);
        let bias = random.floats(rows);
        let before = random.floats(TOKENS * rows);
        for precision in PRECISIONS {
            let mut records = Records::new(kind.id, &x, cols, precision);
            // Float weights take the activations as they are, at any precision.
            let errors = if kind.values == 1 {
                vec![0.0; x.len()]
            } else {
                quantisation_errors(&x, precision)
            };
            for tokens in [1, 5] {
                for epilogue in [Epilogue::Store, Epilogue::Accumulate, Epilogue::Gate] {
                    for bias in [None, Some(&bias[..])] {
                        let finish = Finish {
                            epilogue,
                            bias,
                            before: &before[..tokens * rows],
                        };
                        let inputs = records.inputs(0, tokens, 1);
                        let y = multiply(&mut matrix, &inputs, &finish, &[6]);
                        for (i, &got) in y.iter().enumerate() {
                            let (token, row) = (i / rows, i % rows);
                            let at = token * cols..(token + 1) * cols;
                            let (sum, bound) = matrix.product(row, &x[at.clone()], &errors[at]);
                            let sum = sum + bias.map_or(0.0, |b| b[row] as f64);
                            let old = before[i] as f64;
                            let (want, bound) = match epilogue {
                                Epilogue::Store => (sum, bound),
                                Epilogue::Accumulate => (old + sum, bound),
                                Epilogue::Gate => {
                                    let silu = old / (1.0 + (-old).exp());
                                    (
                                        silu * sum,
                                        silu.abs() * (bound + 8.0 * ROUNDOFF * sum.abs()),
                                    )
                                }
                            };
                            let bound = bound + 4.0 * ROUNDOFF * (1.0 + want.abs() + old.abs());
                            assert!(
                                (got as f64 - want).abs() <= bound,
                                "{} {precision:?}, {tokens} tokens, row {row}: {got} for {want}, bound {bound}",
                                kind.name
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_token_gets_the_same_bits_in_any_company_and_any_ranges() {
    for kind in KINDS {
        let mut random = Random::new(kind.id as u64 + 200);
        let mut matrix = Matrix::random(kind, SHAPE, &mut random, Scales::Moderate);
        let (rows, cols) = SHAPE;
        let x = random.floats(TOKENS * cols);
        let before = random.floats(TOKENS * rows);
        let bias = random.floats(rows);
        for precision in PRECISIONS {
            let mut records = Records::new(kind.id, &x, cols, precision);
            let mut run = |first: usize, tokens: usize, streams: usize, ends: &[usize]| {
                let finish = Finish {
                    epilogue: Epilogue::Accumulate,
                    bias: Some(&bias),
                    before: &before[first * rows..(first + tokens) * rows],
                };
                let inputs = records.inputs(first, tokens, streams);
                bits(&multiply(&mut matrix, &inputs, &finish, ends))
            };
            let want = run(0, TOKENS, 1, &[6]);
            for ends in [&[6][..], &[1, 6], &[4, 4, 5, 6]] {
                for (tokens, streams) in [(1, 1), (1, 4), (2, 1), (4, 4), (5, 1)] {
                    for first in [0, TOKENS - tokens] {
                        assert_eq!(
                            run(first, tokens, streams, ends),
                            want[first * rows..(first + tokens) * rows],
                            "{} {precision:?}: {tokens} tokens from {first} on, {streams} streams",
                            kind.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn blocks_of_zeros_contribute_nothing() {
    for kind in KINDS {
        let mut random = Random::new(kind.id as u64 + 300);
        let in_half = 256 / kind.values;
        let blocks: Vec<Vec<u8>> = (0..8 * 2 * in_half)
            .map(|_| kind.random_block(&mut random, Scales::Moderate))
            .collect();
        let mut all = blocks.iter().cloned();
        let mut whole = Matrix::new(kind, (8, 512), || all.next().unwrap());
        let mut left = blocks.chunks(in_half).step_by(2).flatten().cloned();
        let mut left = Matrix::new(kind, (8, 256), || left.next().unwrap());
        let mut x = random.floats(512);
        x[256..].fill(0.0);
        for precision in PRECISIONS {
            let mut zeros = Records::new(kind.id, &[0.0; 512], 512, precision);
            assert_eq!(product(&mut whole, &zeros.inputs(0, 1, 1)), [0.0; 8]);
            let mut padded = Records::new(kind.id, &x, 512, precision);
            let mut alone = Records::new(kind.id, &x[..256], 256, precision);
            assert_eq!(
                product(&mut whole, &padded.inputs(0, 1, 1)),
                product(&mut left, &alone.inputs(0, 1, 1)),
                "{} {precision:?}",
                kind.name
            );
        }
    }
}
