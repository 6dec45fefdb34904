use sluice_kernels::dot::{read_of_bytes, ReadOfBytes};
use sluice_kernels::linear;
use sluice_kernels::output::{Epilogue, Output};

use crate::kinds::{kind_named, Scales, KINDS};
use crate::support::{
    bits, multiply, product, quantisation_errors, Finish, Matrix, Memory, Random, Records,
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
        // Wide enough to meet the clamps of an activation.
        let before: Vec<f32> = random
            .floats(TOKENS * rows)
            .iter()
            .map(|x| 10.0 * x)
            .collect();
        for precision in PRECISIONS {
            let mut records = Records::new(kind.id, &x, cols, precision);
            // Float weights take the activations as they are, at any precision.
            let errors = if kind.is_float() {
                vec![0.0; x.len()]
            } else {
                quantisation_errors(&x, precision)
            };
            for tokens in [1, 5] {
                for (epilogue, scale) in [
                    (Epilogue::Store, 0.3),
                    (Epilogue::Accumulate, -1.7),
                    (Epilogue::Gate, 1.0),
                    (Epilogue::ClampedGate, 1.0),
                ] {
                    for bias in [None, Some(&bias[..])] {
                        let finish = Finish {
                            epilogue,
                            bias,
                            scale,
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
                            let factor = scale as f64;
                            let (want, bound) = match epilogue {
                                Epilogue::Store => (factor * sum, factor.abs() * bound),
                                Epilogue::Accumulate => (old + factor * sum, factor.abs() * bound),
                                Epilogue::Gate => {
                                    let silu = old / (1.0 + (-old).exp());
                                    (
                                        silu * sum,
                                        silu.abs() * (bound + 8.0 * ROUNDOFF * sum.abs()),
                                    )
                                }
                                Epilogue::ClampedGate => {
                                    // Roundings of 1.702 g, at most 17 in magnitude, are in exp's argument.
                                    let (g, u) = (old.min(7.0), sum.clamp(-7.0, 7.0));
                                    let gate = g / (1.0 + (-1.702 * g).exp());
                                    let rounded = 48.0 * ROUNDOFF * (u + 1.0).abs();
                                    (gate * (u + 1.0), gate.abs() * (bound + rounded))
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
            let mut run =
                |first: usize, tokens: usize, (streams, quads): (usize, bool), ends: &[usize]| {
                    let finish = Finish {
                        epilogue: Epilogue::Accumulate,
                        bias: Some(&bias),
                        scale: 0.7,
                        before: &before[first * rows..(first + tokens) * rows],
                    };
                    let mut inputs = records.inputs(first, tokens, streams);
                    inputs.quads = quads;
                    bits(&multiply(&mut matrix, &inputs, &finish, ends))
                };
            let want = run(0, TOKENS, (1, false), &[6]);
            for ends in [&[6][..], &[1, 6], &[4, 4, 5, 6]] {
                for (tokens, streams) in [(1, 1), (1, 4), (2, 1), (4, 4), (5, 1)] {
                    for (first, quads) in [(0, false), (TOKENS - tokens, false), (1, true)] {
                        assert_eq!(
                            run(first, tokens, (streams, quads), ends),
                            want[first * rows..(first + tokens) * rows],
                            "{} {precision:?}: {tokens} tokens from {first} on, {streams} streams, quads {quads}",
                            kind.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn eight_bit_weights_give_the_same_bits_as_signed_and_as_unsigned_bytes() {
    let [signed, unsigned] = ["Q8_0", "Q8_0 offset"].map(kind_named);
    // What the native build's vectors do is what the unsigned form needs.
    assert_eq!(read_of_bytes(), ReadOfBytes::Unsigned);
    for kind in KINDS {
        let faster = if kind.id == signed.id {
            unsigned.id
        } else {
            kind.id
        };
        assert_eq!(sluice_kernels::kernel_kind(kind.id), faster);
    }
    let mut random = Random::new(900);
    let blocks: Vec<Vec<u8>> = (0..SHAPE.0 * SHAPE.1 / 32)
        .map(|_| signed.random_block(&mut random, Scales::Moderate))
        .collect();
    let x = random.floats(TOKENS * SHAPE.1);
    for precision in PRECISIONS {
        for tokens in [1, TOKENS] {
            let [signed, unsigned] = [signed, unsigned].map(|kind| {
                let mut blocks = blocks.iter().cloned();
                let mut matrix = Matrix::new(kind, SHAPE, || blocks.next().unwrap());
                let mut records = Records::new(kind.id, &x, SHAPE.1, precision);
                bits(&product(&mut matrix, &records.inputs(0, tokens, 1)))
            });
            assert_eq!(signed, unsigned, "{precision:?}, {tokens} tokens");
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

#[test]
fn tokens_read_any_record_and_go_to_any_row_with_a_factor_each() {
    const READ: [u32; 6] = [4, 0, 8, 4, 1, 7];
    const WRITTEN: [u32; 6] = [2, 0, 5, 3, 8, 1];
    let (rows, cols) = SHAPE;
    for name in ["Q4_K", "Q8_0", "Q8_0 offset", "F16", "F8", "MXFP4"] {
        let kind = kind_named(name);
        let mut random = Random::new(kind.id as u64 + 700);
        let mut matrix = Matrix::random(kind, SHAPE, &mut random, Scales::Moderate);
        let x = random.floats(TOKENS * cols);
        let before = random.floats(TOKENS * rows);
        let bias = random.floats(rows);
        let factors = random.floats(READ.len());
        for precision in PRECISIONS {
            let mut records = Records::new(kind.id, &x, cols, precision);
            let mut want = before.clone();
            for ((read, written), factor) in READ.into_iter().zip(WRITTEN).zip(&factors) {
                let to = written as usize * rows..(written as usize + 1) * rows;
                let finish = Finish {
                    epilogue: Epilogue::Accumulate,
                    bias: Some(&bias),
                    scale: 0.7 * factor,
                    before: &before[to.clone()],
                };
                let inputs = records.inputs(read as usize, 1, 1);
                want[to].copy_from_slice(&multiply(&mut matrix, &inputs, &finish, &[6]));
            }
            for tokens in [1, 6] {
                let mut inputs = records.inputs(0, tokens, 1);
                inputs.records = READ.as_ptr();
                let mut got = before.clone();
                let output = Output {
                    out: got.as_mut_ptr(),
                    stride: rows,
                    bias: bias.as_ptr(),
                    epilogue: Epilogue::Accumulate,
                    scale: 0.7,
                    rows: WRITTEN.as_ptr(),
                    factors: factors.as_ptr(),
                };
                let mut scratch = Memory::new(linear::scratch_bytes(cols));
                let weight = matrix.weight();
                // SAFETY: the records and rows lie within those of nine tokens.
                unsafe { linear::multiply(&weight, &inputs, &output, 0, 6, scratch.at()) };
                for (token, row) in got.chunks(rows).enumerate() {
                    let written = WRITTEN[..tokens].contains(&(token as u32));
                    let want = if written { &want } else { &before };
                    assert_eq!(
                        bits(row),
                        bits(&want[token * rows..][..rows]),
                        "{name} {precision:?}: row {token} of {tokens}"
                    );
                }
            }
        }
    }
}
