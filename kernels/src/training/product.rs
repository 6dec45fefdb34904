//! The two products of a matrix's backward pass, for rows that lie anywhere and for several matrices of a
//! kind (heads, experts): rows times matrix, which gives gradients of inputs, and rows times rows, which
//! gives gradients of matrices. A number is added up in the order of the depth, whoever computes it.

use super::pack::{pack_columns, pack_panels, pack_rows, Product, PANEL_COLS};
use super::tile::ROWS;

/// Rows of a task; its columns are packed at once.
const TASK_ROWS: usize = 96;

/// Rows of numbers; those of matrix `m` of several begin `step` further for each.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rows {
    pub base: *mut f32,
    /// Numbers from a row to the next.
    pub stride: usize,
    /// Numbers from a matrix's rows to those of the next.
    pub step: usize,
    /// Which row is meant by each; null: the one of its number.
    pub index: *const u32,
}

impl Rows {
    #[inline(always)]
    pub unsafe fn at(&self, matrix: usize, row: usize) -> *mut f32 {
        let row = if self.index.is_null() {
            row
        } else {
            *self.index.add(row) as usize
        };
        self.base.add(matrix * self.step + row * self.stride)
    }
}

/// Which rows belong to which matrix: all of them to each, or a run to each.
#[derive(Clone, Copy)]
pub struct Groups {
    pub matrices: usize,
    pub rows: usize,
    /// `[matrices + 1]`; null: all rows belong to each.
    pub starts: *const u32,
}

impl Groups {
    pub unsafe fn of(&self, matrix: usize) -> (usize, usize) {
        if self.starts.is_null() {
            return (0, self.rows);
        }
        (
            *self.starts.add(matrix) as usize,
            *self.starts.add(matrix + 1) as usize,
        )
    }
}

/// One of the products that are added up to the gradient of an input.
#[derive(Clone, Copy)]
pub struct Term {
    pub gradient: Rows,
    /// `[depth, cols]`; the next matrix of several lies `step` further.
    pub matrix: Rows,
    pub depth: usize,
    pub scale: f32,
}

/// out[i] (+)= sum over terms of scale * gradient[i] matrix
#[derive(Clone, Copy)]
pub struct InputGradient<'a> {
    pub groups: Groups,
    pub terms: &'a [Term],
    pub out: Rows,
    pub cols: usize,
    pub accumulate: bool,
    /// Columns behind each row of the output that become 0 where it doesn't accumulate.
    pub gap: usize,
}

/// The tasks of a matrix's rows and columns.
fn tasks_of(rows: usize, cols: usize) -> usize {
    rows.div_ceil(TASK_ROWS) * cols.div_ceil(PANEL_COLS)
}

/// The `task`-th tile of so many rows and columns: first row and count, first column and count.
fn part(task: usize, rows: usize, cols: usize) -> [(usize, usize); 2] {
    let wide = cols.div_ceil(PANEL_COLS);
    let (r, c) = (task / wide * TASK_ROWS, task % wide * PANEL_COLS);
    [(r, TASK_ROWS.min(rows - r)), (c, PANEL_COLS.min(cols - c))]
}

impl InputGradient<'_> {
    /// # Safety
    /// The groups are as they will be when `run` is called.
    pub unsafe fn tasks(&self) -> usize {
        let each = |m| {
            let (start, end) = self.groups.of(m);
            tasks_of(end - start, self.cols)
        };
        (0..self.groups.matrices).map(each).sum()
    }

    /// # Safety
    /// All rows are there; `scratch` has SCRATCH_FLOATS.
    pub unsafe fn run(&self, mut task: usize, scratch: *mut f32) {
        for matrix in 0..self.groups.matrices {
            let (start, end) = self.groups.of(matrix);
            let tasks = tasks_of(end - start, self.cols);
            if task >= tasks {
                task -= tasks;
                continue;
            }
            let [(row, rows), cols] = part(task, end - start, self.cols);
            self.part(matrix, (start + row, rows), cols, scratch);
            return;
        }
    }

    unsafe fn part(
        &self,
        matrix: usize,
        (first, rows): (usize, usize),
        (col, cols): (usize, usize),
        scratch: *mut f32,
    ) {
        for (i, term) in self.terms.iter().enumerate() {
            let product = Product {
                rows,
                cols,
                depth: term.depth,
                scale: term.scale,
                add: self.accumulate || i > 0,
            };
            let gradient = |r: usize| term.gradient.at(matrix, first + r) as *const f32;
            let right = |d: usize| term.matrix.at(matrix, d).add(col) as *const f32;
            product.run(
                |(r, count), (k, depth), to| {
                    pack_rows::<ROWS>(|i| gradient(r + i).add(k), count, depth, to)
                },
                |(c, cols), (k, depth), to| pack_panels(|d| right(k + d).add(c), depth, cols, to),
                |r| self.out.at(matrix, first + r).add(col),
                scratch,
            );
        }
        if !self.accumulate && self.gap > 0 && col + cols == self.cols {
            for r in first..first + rows {
                let behind = self.out.at(matrix, r).add(self.cols);
                core::ptr::write_bytes(behind, 0, self.gap);
            }
        }
    }
}

/// out += sum_i factors[i] * scale * gradient[i]^T x[i], `[rows, cols]`
#[derive(Clone, Copy)]
pub struct MatrixGradient {
    pub groups: Groups,
    pub gradient: Rows,
    /// A factor on each row; null: 1.
    pub factors: *const f32,
    pub x: Rows,
    pub out: Rows,
    pub rows: usize,
    pub cols: usize,
    pub scale: f32,
}

impl MatrixGradient {
    pub fn tasks(&self) -> usize {
        self.groups.matrices * tasks_of(self.rows, self.cols)
    }

    /// # Safety
    /// As for `InputGradient::run`.
    pub unsafe fn run(&self, task: usize, scratch: *mut f32) {
        let each = tasks_of(self.rows, self.cols);
        let matrix = task / each;
        let [(row, rows), (col, cols)] = part(task % each, self.rows, self.cols);
        let (start, end) = self.groups.of(matrix);
        let product = Product {
            rows,
            cols,
            depth: end - start,
            scale: self.scale,
            add: true,
        };
        let gradient = |d: usize| self.gradient.at(matrix, start + d).add(row) as *const f32;
        let x = |d: usize| self.x.at(matrix, start + d).add(col) as *const f32;
        let factor = |d: usize| match self.factors.is_null() {
            true => 1.0,
            false => *self.factors.add(start + d),
        };
        product.run(
            |(r, count), (k, depth), to| {
                let column = |d: usize| (gradient(k + d).add(r), factor(k + d));
                pack_columns(column, count, depth, to)
            },
            |(c, cols), (k, depth), to| pack_panels(|d| x(k + d).add(c), depth, cols, to),
            |r| self.out.at(matrix, row + r).add(col),
            scratch,
        );
    }
}
