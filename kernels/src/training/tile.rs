//! Six rows times eight columns of a product, in registers: twelve sums, for each step of the depth two
//! loads of one operand and six splats of the other. Operands are packed first, so that both are read
//! one number after the other, and in blocks of the depth that stay in the nearest cache.

use crate::simd::F32x4;

/// Rows and columns of a tile.
pub const ROWS: usize = 6;
pub const COLS: usize = 8;
/// Steps of the depth that are packed at a time.
pub const DEPTH: usize = 256;

/// Sums of a tile.
pub type Sums = [[F32x4; 2]; ROWS];

/// The sums of `depth` steps: `a` is `[depth][ROWS]`, `b` `[depth][COLS]`. A function of its own: within a
/// larger one the runtime finds worse registers.
///
/// # Safety
/// `a` and `b` hold that many numbers.
#[inline(never)]
pub unsafe fn multiply(a: *const f32, b: *const f32, depth: usize) -> Sums {
    let mut sums = [[F32x4::splat(0.0); 2]; ROWS];
    let (mut a, mut b) = (a, b);
    for _ in 0..depth / 2 {
        let low = F32x4::load(a);
        let right = [F32x4::load(b), F32x4::load(b.add(4))];
        add_row(&mut sums[0], low.splat_lane(0), right);
        add_row(&mut sums[1], low.splat_lane(1), right);
        add_row(&mut sums[2], low.splat_lane(2), right);
        add_row(&mut sums[3], low.splat_lane(3), right);
        let middle = F32x4::load(a.add(4));
        add_row(&mut sums[4], middle.splat_lane(0), right);
        add_row(&mut sums[5], middle.splat_lane(1), right);
        let right = [F32x4::load(b.add(8)), F32x4::load(b.add(12))];
        add_row(&mut sums[0], middle.splat_lane(2), right);
        add_row(&mut sums[1], middle.splat_lane(3), right);
        let high = F32x4::load(a.add(8));
        add_row(&mut sums[2], high.splat_lane(0), right);
        add_row(&mut sums[3], high.splat_lane(1), right);
        add_row(&mut sums[4], high.splat_lane(2), right);
        add_row(&mut sums[5], high.splat_lane(3), right);
        a = a.add(2 * ROWS);
        b = b.add(2 * COLS);
    }
    if depth % 2 == 1 {
        let right = [F32x4::load(b), F32x4::load(b.add(4))];
        for (r, sums) in sums.iter_mut().enumerate() {
            add_row(sums, F32x4::load_splat(a.add(r)), right);
        }
    }
    sums
}

#[inline(always)]
fn add_row(sums: &mut [F32x4; 2], left: F32x4, right: [F32x4; 2]) {
    *sums = [
        right[0].mul_add(left, sums[0]),
        right[1].mul_add(left, sums[1]),
    ];
}

/// Where the numbers of a tile go: rows that may lie anywhere, each `cols` long.
pub struct Target {
    pub rows: [*mut f32; ROWS],
    /// Rows and columns that are there, of those that a tile has.
    pub count: usize,
    pub cols: usize,
    pub scale: f32,
}

impl Target {
    /// Writes `scale` times the sums, or adds that to what is there.
    ///
    /// # Safety
    /// The rows have room for the columns.
    pub unsafe fn put(&self, sums: &Sums, add: bool) {
        let scale = F32x4::splat(self.scale);
        for r in 0..self.count {
            let to = self.rows[r];
            if self.cols == COLS {
                for h in 0..2 {
                    let value = sums[r][h].mul(scale);
                    let at = to.add(4 * h);
                    if add {
                        F32x4::load(at).add(value).store(at);
                    } else {
                        value.store(at);
                    }
                }
                continue;
            }
            let values = sums[r].map(|sum| sum.mul(scale).lanes());
            for c in 0..self.cols {
                let value = values[c / 4][c % 4];
                *to.add(c) = if add { *to.add(c) + value } else { value };
            }
        }
    }
}
