//! The inner loops of attention: a few queries over the keys, then the values, of a page.
//!
//! As in `tile`, a load costs more than what it loads. So four factors are loaded at once and their lanes
//! repeated in registers, and walls keep the compiler from adding to one sum four times in a row. Each
//! query's sums are made in the order of the numbers, whatever queries it goes with.

use crate::kv_layer::{Source, LANES, PAGE};
use crate::simd::F32x4;
use crate::tile::Walls;

/// Sums of N queries over eight keys or eight dimensions.
type Sums<const N: usize> = [[F32x4; 2]; N];

/// Adds eight numbers times lane `I` of each query's factors.
#[inline(always)]
fn add_lane<const N: usize, const I: usize>(
    numbers: [F32x4; 2],
    factors: &[F32x4; N],
    sums: &mut Sums<N>,
) {
    for n in 0..N {
        let factor = factors[n].splat_lane(I);
        sums[n][0] = numbers[0].mul_add(factor, sums[n][0]);
        sums[n][1] = numbers[1].mul_add(factor, sums[n][1]);
    }
}

/// Adds eight numbers times each query's factor.
#[inline(always)]
unsafe fn add_one<const N: usize>(
    numbers: [F32x4; 2],
    factors: [*const f32; N],
    sums: &mut Sums<N>,
) {
    for n in 0..N {
        let factor = F32x4::load_splat(factors[n]);
        sums[n][0] = numbers[0].mul_add(factor, sums[n][0]);
        sums[n][1] = numbers[1].mul_add(factor, sums[n][1]);
    }
}

/// Scores N queries with some groups of keys. A function of its own: within a larger one the runtime
/// finds worse registers.
///
/// # Safety
/// The queries have `dim` numbers, the groups are the part's, and `scores` is `[N][PAGE]`.
#[inline(never)]
pub unsafe fn score_groups<const N: usize, S: Source>(
    q: &[*const f32; N],
    keys: S,
    (groups, dim): (usize, usize),
    scale: f32,
    scores: *mut f32,
) {
    let walls = Walls::raised();
    let q = *q;
    for group in 0..groups {
        let mut sums = [[F32x4::splat(0.0); 2]; N];
        let mut d = 0;
        while d + 4 <= dim {
            let q = q.map(|q| F32x4::load(q.add(d)));
            add_lane::<N, 0>(keys.keys(group, d, dim), &q, &mut sums);
            walls.pass(1);
            add_lane::<N, 1>(keys.keys(group, d + 1, dim), &q, &mut sums);
            walls.pass(2);
            add_lane::<N, 2>(keys.keys(group, d + 2, dim), &q, &mut sums);
            walls.pass(3);
            add_lane::<N, 3>(keys.keys(group, d + 3, dim), &q, &mut sums);
            walls.pass(4);
            d += 4;
        }
        while d < dim {
            add_one(keys.keys(group, d, dim), q.map(|q| q.add(d)), &mut sums);
            d += 1;
        }
        for n in 0..N {
            let to = scores.add(n * PAGE + group * LANES);
            for h in 0..2 {
                sums[n][h].mul(F32x4::splat(scale)).store(to.add(4 * h));
            }
        }
    }
}

/// Adds `count` values times their scores to N outputs, eight dimensions after the other; up to seven
/// last ones are left.
///
/// # Safety
/// The outputs have `dim` numbers, the values are the part's, and `scores` is `[N][PAGE]`.
#[inline(never)]
pub unsafe fn add_columns<const N: usize, S: Source>(
    outs: &[*mut f32; N],
    values: S,
    (count, dim): (usize, usize),
    scores: *const f32,
) {
    let walls = Walls::raised();
    let outs = *outs;
    let mut d = 0;
    while d + 8 <= dim {
        let mut sums = outs.map(|out| [F32x4::load(out.add(d)), F32x4::load(out.add(d + 4))]);
        let mut key = 0;
        while key + 4 <= count {
            let p: [F32x4; N] = core::array::from_fn(|n| F32x4::load(scores.add(n * PAGE + key)));
            add_lane::<N, 0>(values.value(key, d, dim), &p, &mut sums);
            walls.pass(1);
            add_lane::<N, 1>(values.value(key + 1, d, dim), &p, &mut sums);
            walls.pass(2);
            add_lane::<N, 2>(values.value(key + 2, d, dim), &p, &mut sums);
            walls.pass(3);
            add_lane::<N, 3>(values.value(key + 3, d, dim), &p, &mut sums);
            walls.pass(4);
            key += 4;
        }
        while key < count {
            let p = core::array::from_fn(|n| scores.add(n * PAGE + key));
            add_one(values.value(key, d, dim), p, &mut sums);
            key += 1;
        }
        for n in 0..N {
            sums[n][0].store(outs[n].add(d));
            sums[n][1].store(outs[n].add(d + 4));
        }
        d += 8;
    }
}
