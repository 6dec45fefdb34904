//! The two products of a matrix's backward pass, for rows that lie anywhere and for several matrices of a
//! kind (heads, experts): rows times matrix, which gives gradients of inputs, and rows times rows, which
//! gives gradients of matrices. A number is added up in the order of the depth, whoever computes it.

use super::tile::{multiply, Sums, Target, COLS, DEPTH, ROWS};

/// Columns of a matrix that a task packs at a time, and rows that it multiplies with them.
pub const TASK_COLS: usize = 64;
pub const TASK_ROWS: usize = 96;

/// Floats of scratch that a task needs.
pub const SCRATCH_FLOATS: usize = DEPTH * (ROWS + TASK_COLS);

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
    rows.div_ceil(TASK_ROWS) * cols.div_ceil(TASK_COLS)
}

/// The `task`-th tile of so many rows and columns: first row and count, first column and count.
fn part(task: usize, rows: usize, cols: usize) -> [(usize, usize); 2] {
    let wide = cols.div_ceil(TASK_COLS);
    let (r, c) = (task / wide * TASK_ROWS, task % wide * TASK_COLS);
    [(r, TASK_ROWS.min(rows - r)), (c, TASK_COLS.min(cols - c))]
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
        let (left, right) = (scratch, scratch.add(DEPTH * ROWS));
        let mut add = self.accumulate;
        for term in self.terms {
            for k in (0..term.depth).step_by(DEPTH) {
                let depth = DEPTH.min(term.depth - k);
                pack_right(&term.matrix, matrix, (k, depth), (col, cols), right);
                for r in (0..rows).step_by(ROWS) {
                    let count = ROWS.min(rows - r);
                    let row = |i: usize| term.gradient.at(matrix, first + r + i) as *const f32;
                    pack_rows(row, count, (k, depth), left);
                    let out = |i: usize| self.out.at(matrix, first + r + i).add(col);
                    put_tiles(left, right, depth, (count, cols), term.scale, out, add);
                }
                add = true;
            }
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
        let (left, right) = (scratch, scratch.add(DEPTH * ROWS));
        for k in (start..end).step_by(DEPTH) {
            let depth = DEPTH.min(end - k);
            pack_right(&self.x, matrix, (k, depth), (col, cols), right);
            for r in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - r);
                self.pack_columns(matrix, (row + r, count), (k, depth), left);
                let out = |i: usize| self.out.at(matrix, row + r + i).add(col);
                put_tiles(left, right, depth, (count, cols), self.scale, out, true);
            }
        }
    }

    /// `[depth][ROWS]` of the gradients' columns, each row times its factor.
    unsafe fn pack_columns(
        &self,
        matrix: usize,
        (col, count): (usize, usize),
        (k, depth): (usize, usize),
        to: *mut f32,
    ) {
        for d in 0..depth {
            let from = self.gradient.at(matrix, k + d).add(col);
            let factor = if self.factors.is_null() {
                1.0
            } else {
                *self.factors.add(k + d)
            };
            let to = to.add(d * ROWS);
            for c in 0..ROWS {
                *to.add(c) = if c < count {
                    *from.add(c) * factor
                } else {
                    0.0
                };
            }
        }
    }
}

/// Multiplies packed rows with all packed columns of a task.
unsafe fn put_tiles(
    left: *const f32,
    right: *const f32,
    depth: usize,
    (count, cols): (usize, usize),
    scale: f32,
    out: impl Fn(usize) -> *mut f32,
    add: bool,
) {
    let rows: [*mut f32; ROWS] = core::array::from_fn(|i| out(i.min(count - 1)));
    for c in (0..cols).step_by(COLS) {
        let sums: Sums = multiply(left, right.add(c * depth), depth);
        let target = Target {
            rows: rows.map(|row| row.add(c)),
            count,
            cols: COLS.min(cols - c),
            scale,
        };
        target.put(&sums, add);
    }
}

/// `[depth][ROWS]` of rows' numbers from `k` on; zeros for rows that are not there.
unsafe fn pack_rows(
    row: impl Fn(usize) -> *const f32,
    count: usize,
    (k, depth): (usize, usize),
    to: *mut f32,
) {
    for r in 0..ROWS {
        if r >= count {
            for d in 0..depth {
                *to.add(d * ROWS + r) = 0.0;
            }
            continue;
        }
        let from = row(r).add(k);
        for d in 0..depth {
            *to.add(d * ROWS + r) = *from.add(d);
        }
    }
}

/// Panels of `[depth][COLS]`, one after the other, of the rows `k ..` of a matrix; zeros for columns that
/// are not there.
unsafe fn pack_right(
    rows: &Rows,
    matrix: usize,
    (k, depth): (usize, usize),
    (col, cols): (usize, usize),
    to: *mut f32,
) {
    use crate::simd::F32x4;
    let whole = cols / COLS;
    for d in 0..depth {
        let from = rows.at(matrix, k + d).add(col) as *const f32;
        for c in 0..whole {
            let to = to.add((c * depth + d) * COLS);
            F32x4::load(from.add(c * COLS)).store(to);
            F32x4::load(from.add(c * COLS + 4)).store(to.add(4));
        }
        if whole * COLS < cols {
            let to = to.add((whole * depth + d) * COLS);
            for c in 0..COLS {
                let at = whole * COLS + c;
                *to.add(c) = if at < cols { *from.add(at) } else { 0.0 };
            }
        }
    }
}
