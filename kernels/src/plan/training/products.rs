//! Products of the backward pass: any number of them in one op, since none waits for another.

use super::{Fields, Worker};
use crate::training::product::{Groups, InputGradient, MatrixGradient, Rows, Term};

const MAX_PRODUCTS: usize = 4;
const MAX_TERMS: usize = 4;

impl Fields {
    unsafe fn rows(&mut self) -> Rows {
        Rows {
            base: self.at_mut(),
            stride: self.size(),
            step: self.size(),
            index: self.at(),
        }
    }

    unsafe fn groups(&mut self) -> Groups {
        Groups {
            matrices: self.size(),
            rows: self.size(),
            starts: self.at(),
        }
    }
}

const NOWHERE: Rows = Rows {
    base: core::ptr::null_mut(),
    stride: 0,
    step: 0,
    index: core::ptr::null(),
};
const NO_TERM: Term = Term {
    gradient: NOWHERE,
    matrix: NOWHERE,
    depth: 0,
    scale: 0.0,
};

impl Worker<'_> {
    pub unsafe fn products(&self, f: &mut Fields) {
        let _rows = f.size();
        let inputs = f.size();
        let matrices = f.size();
        let mut terms = [[NO_TERM; MAX_TERMS]; MAX_PRODUCTS];
        let mut input_list = [None; MAX_PRODUCTS];
        for (slot, terms) in input_list.iter_mut().zip(&mut terms).take(inputs) {
            let groups = f.groups();
            let out = f.rows();
            let (cols, accumulate, gap) = (f.size(), f.word() != 0, f.size());
            let count = f.size();
            for term in terms.iter_mut().take(count) {
                *term = Term {
                    gradient: f.rows(),
                    matrix: f.rows(),
                    depth: f.size(),
                    scale: f.float(),
                };
            }
            *slot = Some(InputGradient {
                groups,
                terms: &terms[..count],
                out,
                cols,
                accumulate,
                gap,
            });
        }
        let mut matrix_list = [None; MAX_PRODUCTS];
        for slot in matrix_list.iter_mut().take(matrices) {
            *slot = Some(MatrixGradient {
                groups: f.groups(),
                gradient: f.rows(),
                factors: f.at(),
                x: f.rows(),
                out: f.rows(),
                rows: f.size(),
                cols: f.size(),
                scale: f.float(),
            });
        }
        let inputs = input_list.iter().flatten();
        let matrices = matrix_list.iter().flatten();
        let count = inputs.clone().map(|product| product.tasks()).sum::<usize>()
            + matrices.clone().map(MatrixGradient::tasks).sum::<usize>();
        let scratch = self.scratch() as *mut f32;
        for mut task in self.tasks(count) {
            let mut done = false;
            for product in inputs.clone() {
                let tasks = product.tasks();
                if task < tasks {
                    product.run(task, scratch);
                    done = true;
                    break;
                }
                task -= tasks;
            }
            if done {
                continue;
            }
            for product in matrices.clone() {
                let tasks = product.tasks();
                if task < tasks {
                    product.run(task, scratch);
                    break;
                }
                task -= tasks;
            }
        }
    }
}
