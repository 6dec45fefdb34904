//! Operands in the order in which `tile::multiply` reads them, and products of operands that are packed
//! on the way: from rows wherever they lie.

use super::tile::{multiply, Sums, Target, COLS, DEPTH, ROWS};
use crate::simd::F32x4;

/// Columns that are packed at a time.
pub const PANEL_COLS: usize = 64;

/// Packing writes up to so many numbers behind what it is asked for.
const SLACK: usize = 8;

/// Floats of scratch that a product needs.
pub const SCRATCH_FLOATS: usize = DEPTH * (ROWS + PANEL_COLS) + SLACK;

/// A run of numbers: the first one and how many.
pub type Run = (usize, usize);

/// out[i][j] (+)= scale * sum over the depth of left[i] right[j]
#[derive(Clone, Copy)]
pub struct Product {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    pub scale: f32,
    pub add: bool,
}

impl Product {
    /// `pack_left(rows, depth, to)` leaves `[depth][ROWS]` of at most ROWS rows, `pack_right(cols, depth,
    /// to)` panels of `[depth][COLS]`, one after the other; `out` says where a row begins. A number is
    /// added up in the order of the depth.
    ///
    /// # Safety
    /// The rows have room; `scratch` has SCRATCH_FLOATS.
    #[inline(always)]
    pub unsafe fn run(
        &self,
        pack_left: impl Fn(Run, Run, *mut f32),
        pack_right: impl Fn(Run, Run, *mut f32),
        out: impl Fn(usize) -> *mut f32,
        scratch: *mut f32,
    ) {
        let (left, right) = (scratch, scratch.add(DEPTH * ROWS + SLACK));
        for col in (0..self.cols).step_by(PANEL_COLS) {
            let cols = PANEL_COLS.min(self.cols - col);
            for k in (0..self.depth).step_by(DEPTH) {
                let depth = DEPTH.min(self.depth - k);
                pack_right((col, cols), (k, depth), right);
                for r in (0..self.rows).step_by(ROWS) {
                    let count = ROWS.min(self.rows - r);
                    pack_left((r, count), (k, depth), left);
                    let rows: [*mut f32; ROWS] =
                        core::array::from_fn(|i| out(r + i.min(count - 1)).add(col));
                    for c in (0..cols).step_by(COLS) {
                        let sums: Sums = multiply(left, right.add(c * depth), depth);
                        let target = Target {
                            rows: rows.map(|row| row.add(c)),
                            count,
                            cols: COLS.min(cols - c),
                            scale: self.scale,
                        };
                        target.put(&sums, self.add || k > 0);
                    }
                }
            }
        }
    }
}

/// `[depth][WIDTH]` of rows' first numbers, WIDTH being 6 or 8; zeros for rows that are not there.
///
/// # Safety
/// The rows have `depth` numbers, and `to` room for eight more than are packed.
#[inline(always)]
pub unsafe fn pack_rows<const WIDTH: usize>(
    row: impl Fn(usize) -> *const f32,
    count: usize,
    depth: usize,
    to: *mut f32,
) {
    let whole = depth / 4 * 4;
    let rows: [*const f32; WIDTH] = core::array::from_fn(|r| row(r.min(count - 1)));
    let zero = F32x4::splat(0.0);
    for d in (0..whole).step_by(4) {
        let four = |first: usize| {
            F32x4::transpose(core::array::from_fn(|i| match first + i {
                r if r < count => F32x4::load(rows[r.min(WIDTH - 1)].add(d)),
                _ => zero,
            }))
        };
        let (low, high) = (four(0), four(4));
        for i in 0..4 {
            // The last numbers of six are followed by two that the next step writes anew.
            let to = to.add((d + i) * WIDTH);
            low[i].store(to);
            high[i].store(to.add(4));
        }
    }
    for d in whole..depth {
        for (r, from) in rows.iter().enumerate() {
            *to.add(d * WIDTH + r) = if r < count { *from.add(d) } else { 0.0 };
        }
    }
}

/// `[depth][COLS]`, panel after panel, of columns of rows that begin where `row` says; zeros for columns
/// that are not there.
///
/// # Safety
/// The rows have `cols` numbers, and `to` room for all panels.
#[inline(always)]
pub unsafe fn pack_panels(
    row: impl Fn(usize) -> *const f32,
    depth: usize,
    cols: usize,
    to: *mut f32,
) {
    let whole = cols / COLS;
    for d in 0..depth {
        let from = row(d);
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

/// The same of rows of another matrix, whose numbers become columns: `row` is of the columns.
///
/// # Safety
/// As for `pack_rows`.
#[inline(always)]
pub unsafe fn pack_transposed_panels(
    row: impl Fn(usize) -> *const f32,
    depth: usize,
    cols: usize,
    to: *mut f32,
) {
    for c in (0..cols).step_by(COLS) {
        let panel = to.add(c * depth);
        pack_rows::<COLS>(|i| row(c + i), COLS.min(cols - c), depth, panel);
    }
}

/// `[depth][ROWS]` of columns of rows that begin where `row` says, each times its factor; zeros for columns
/// that are not there.
///
/// # Safety
/// The rows have `count` numbers.
#[inline(always)]
pub unsafe fn pack_columns(
    row: impl Fn(usize) -> (*const f32, f32),
    count: usize,
    depth: usize,
    to: *mut f32,
) {
    for d in 0..depth {
        let (from, factor) = row(d);
        let to = to.add(d * ROWS);
        if count == ROWS {
            let scale = F32x4::splat(factor);
            F32x4::load(from).mul(scale).store(to);
            *to.add(4) = *from.add(4) * factor;
            *to.add(5) = *from.add(5) * factor;
            continue;
        }
        for c in 0..ROWS {
            *to.add(c) = if c < count {
                *from.add(c) * factor
            } else {
                0.0
            };
        }
    }
}
