//! Products of the backward pass against sums written from their definitions, on shapes that fill no tile.

use sluice_kernels::training::pack::SCRATCH_FLOATS;
use sluice_kernels::training::product::{Groups, InputGradient, MatrixGradient, Rows, Term};

use crate::support::{Random, ROUNDOFF};

struct Matrix {
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn random(rows: usize, cols: usize, random: &mut Random) -> Self {
        let values = random.floats(rows * cols);
        Self { cols, values }
    }

    fn rows(&mut self) -> Rows {
        Rows {
            base: self.values.as_mut_ptr(),
            stride: self.cols,
            step: 0,
            index: core::ptr::null(),
        }
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        self.values[row * self.cols + col] as f64
    }
}

fn all(rows: usize) -> Groups {
    Groups {
        matrices: 1,
        rows,
        starts: core::ptr::null(),
    }
}

/// Asserts that each number is what `expected` says, where the sums of magnitudes bound the rounding.
fn check(actual: &[f32], cols: usize, expected: impl Fn(usize, usize) -> (f64, f64), depth: usize) {
    for (i, &value) in actual.iter().enumerate() {
        let (want, magnitude) = expected(i / cols, i % cols);
        let bound = (depth + 4) as f64 * ROUNDOFF * magnitude;
        let error = (value as f64 - want).abs();
        assert!(
            error <= bound,
            "{i}: {value}, must be within {bound} of {want}"
        );
    }
}

#[test]
fn input_gradients_add_up_their_terms() {
    let mut random = Random::new(1);
    for (rows, cols, depths) in [(1, 1, [1, 1]), (7, 9, [5, 300]), (100, 70, [257, 3])] {
        for accumulate in [false, true] {
            let mut gradients = depths.map(|depth| Matrix::random(rows, depth, &mut random));
            let mut matrices = depths.map(|depth| Matrix::random(depth, cols, &mut random));
            let before = Matrix::random(rows, cols, &mut random);
            let mut out = Matrix {
                values: before.values.clone(),
                ..Matrix::random(rows, cols, &mut random)
            };
            let scales = [1.0, -0.5];
            let terms: Vec<Term> = (0..2)
                .map(|i| Term {
                    gradient: gradients[i].rows(),
                    matrix: matrices[i].rows(),
                    depth: depths[i],
                    scale: scales[i],
                })
                .collect();
            let product = InputGradient {
                groups: all(rows),
                terms: &terms,
                out: out.rows(),
                cols,
                accumulate,
                gap: 0,
            };
            let mut scratch = vec![f32::NAN; SCRATCH_FLOATS];
            // SAFETY: all rows are there.
            unsafe {
                for task in (0..product.tasks()).rev() {
                    product.run(task, scratch.as_mut_ptr());
                }
            }
            let expected = |row, col| {
                let start = if accumulate { before.at(row, col) } else { 0.0 };
                let mut sums = (start, start.abs());
                for i in 0..2 {
                    for k in 0..depths[i] {
                        let value =
                            scales[i] as f64 * gradients[i].at(row, k) * matrices[i].at(k, col);
                        sums = (sums.0 + value, sums.1 + value.abs());
                    }
                }
                sums
            };
            check(&out.values, cols, expected, depths[0] + depths[1]);
        }
    }
}

#[test]
fn matrix_gradients_take_each_group_its_rows() {
    let mut random = Random::new(2);
    let (rows, cols, count) = (13, 75, 4);
    // The third matrix has no rows; the second has more than are packed at a time.
    let starts = [0u32, 3, 270, 270, 275];
    let pairs = starts[count] as usize;
    let tokens: Vec<u32> = (0..pairs).map(|_| random.below(40)).collect();
    let factors = random.floats(pairs);
    let mut gradient = Matrix::random(pairs, rows, &mut random);
    let mut x = Matrix::random(40, cols, &mut random);
    let before = Matrix::random(count * rows, cols, &mut random);
    let mut out = Matrix {
        values: before.values.clone(),
        ..Matrix::random(count * rows, cols, &mut random)
    };
    let product = MatrixGradient {
        groups: Groups {
            matrices: count,
            rows: pairs,
            starts: starts.as_ptr(),
        },
        gradient: gradient.rows(),
        factors: factors.as_ptr(),
        x: Rows {
            index: tokens.as_ptr(),
            ..x.rows()
        },
        out: Rows {
            step: rows * cols,
            ..out.rows()
        },
        rows,
        cols,
        scale: 2.0,
    };
    let mut scratch = vec![f32::NAN; SCRATCH_FLOATS];
    for task in 0..product.tasks() {
        // SAFETY: all rows are there.
        unsafe { product.run(task, scratch.as_mut_ptr()) };
    }
    let expected = |row: usize, col| {
        let (matrix, r) = (row / rows, row % rows);
        let mut sums = (before.at(row, col), before.at(row, col).abs());
        for i in starts[matrix] as usize..starts[matrix + 1] as usize {
            let value = 2.0 * factors[i] as f64 * gradient.at(i, r) * x.at(tokens[i] as usize, col);
            sums = (sums.0 + value, sums.1 + value.abs());
        }
        sums
    };
    check(&out.values, cols, expected, 270);
}
