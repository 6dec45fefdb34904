use core::ops::Range;

use sluice_kernels::attention::{
    attend, rotate, scratch_floats, Attention, Batch, KvLayer, Query, Rotation, Split,
};
use sluice_kernels::cells::Cells;

use crate::cells::rounded;
use crate::support::{bits, Random, ROUNDOFF};

/// Three query heads to each of two KV heads; widths that are not whole vectors.
pub const HEADS: usize = 6;
pub const KV_HEADS: usize = 2;
pub const KEY_DIM: usize = 20;
pub const VALUE_DIM: usize = 12;
pub const SCALE: f32 = 0.4;
/// Pages of two sequences, out of order; page 3 belongs to nobody.
pub const TABLES: [i32; 6] = [5, 0, 2, 4, 1, 6];
const PAGES: usize = 7;
const TABLE_WIDTH: usize = 3;

/// Scratch of attention over these heads.
pub const SCRATCH: usize = scratch_floats(KEY_DIM);

/// All ways of keeping numbers.
pub const ALL_CELLS: [Cells; 3] = [Cells::F32, Cells::F16, Cells::Q8];

/// Two sequences' keys and values, as attention reads them and in the cache.
pub struct Cache {
    /// `[sequence][token][head][dim]`.
    pub keys: [Vec<f32>; 2],
    pub values: [Vec<f32>; 2],
    pages: Vec<u8>,
    cells: Cells,
}

impl Cache {
    pub fn new(lengths: [usize; 2]) -> Self {
        Self::of(Cells::F32, lengths)
    }

    /// Fills the cache by `key_value`, without rotation. What is not written is NaN.
    pub fn of(cells: Cells, lengths: [usize; 2]) -> Self {
        let mut random = Random::new(7);
        let keys = lengths.map(|n| random.floats(n * KV_HEADS * KEY_DIM));
        let values = lengths.map(|n| random.floats(n * KV_HEADS * VALUE_DIM));
        let mut cache = Self {
            keys,
            values,
            pages: Vec::new(),
            cells,
        };
        // Aligned for floats, whose NaN all ones are; so are those of halves.
        cache.pages = vec![0xff; PAGES * cache.layer().page_bytes()];
        let rotation = Rotation {
            cos_sin: core::ptr::null(),
            dim: 0,
            interleaved: false,
            q_norm: core::ptr::null(),
            k_norm: core::ptr::null(),
            eps: 0.0,
        };
        for (sequence, &length) in lengths.iter().enumerate() {
            let layer = cache.layer();
            for token in 0..length {
                let positions = [token as i32];
                let sequences = [sequence as i32];
                let batch = batch(&positions, &sequences);
                for head in 0..KV_HEADS {
                    let row = token * KV_HEADS + head;
                    let k = cache.keys[sequence][row * KEY_DIM..].as_mut_ptr();
                    let v = cache.values[sequence][row * VALUE_DIM..].as_ptr();
                    // SAFETY: the tables cover all positions; no value is rotated.
                    unsafe { rotation.key_value(k, v, head, 0, &layer, &batch) };
                }
            }
        }
        for rows in &mut cache.keys {
            rows.chunks_mut(KEY_DIM).for_each(|row| rounded(cells, row));
        }
        for rows in &mut cache.values {
            rows.chunks_mut(VALUE_DIM)
                .for_each(|row| rounded(cells, row));
        }
        cache
    }

    pub fn layer(&mut self) -> KvLayer {
        KvLayer {
            base: self.pages.as_mut_ptr(),
            cells: self.cells,
            heads: KV_HEADS,
            key_dim: KEY_DIM,
            value_dim: VALUE_DIM,
        }
    }

    /// Softmax over the first `limit` tokens in float64, and a bound for the kernel's error.
    fn exact(&self, q: &[f32], sequence: usize, head: usize, limit: usize) -> (Vec<f64>, f64) {
        self.exact_seen(q, sequence, head, (0..limit, f32::NEG_INFINITY))
    }

    /// Softmax over some tokens and a sink.
    pub fn exact_seen(
        &self,
        q: &[f32],
        sequence: usize,
        head: usize,
        (seen, sink): (Range<usize>, f32),
    ) -> (Vec<f64>, f64) {
        let row = |token: usize, dim: usize| {
            let at = (token * KV_HEADS + head) * dim;
            at..at + dim
        };
        let mut spread = 0f64;
        let scores: Vec<f64> = seen
            .clone()
            .map(|token| {
                let (mut sum, mut norm) = (0.0, 0.0);
                for (&q, &k) in q.iter().zip(&self.keys[sequence][row(token, KEY_DIM)]) {
                    sum += q as f64 * k as f64;
                    norm += (q as f64 * k as f64).abs();
                }
                spread = spread.max((KEY_DIM + 4) as f64 * ROUNDOFF * SCALE as f64 * norm);
                SCALE as f64 * sum
            })
            .collect();
        let sink = sink as f64;
        let peak = scores.iter().copied().fold(sink, f64::max);
        let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
        let total = total + (sink - peak).exp();
        let mut out = vec![0.0; VALUE_DIM];
        let mut largest = 0f64;
        for (token, score) in seen.clone().zip(&scores) {
            let value = &self.values[sequence][row(token, VALUE_DIM)];
            for (out, &v) in out.iter_mut().zip(value) {
                *out += (score - peak).exp() / total * v as f64;
                largest = largest.max(v.abs() as f64);
            }
        }
        // Each weight is off by its score's error and a few roundings of exp, above and below the
        // fraction; then come the roundings of the sums over all tokens.
        let relative =
            2.0 * (2.0 * spread + 8.0 * ROUNDOFF) + 2.0 * (seen.len() + 2) as f64 * ROUNDOFF;
        (out, relative * largest)
    }
}

/// Many rows of one head a task.
pub const TALL: Split = Split { rows: 16, heads: 1 };

pub fn batch(positions: &[i32], sequences: &[i32]) -> Batch {
    Batch {
        positions: positions.as_ptr(),
        sequences: sequences.as_ptr(),
        tables: TABLES.as_ptr(),
        table_width: TABLE_WIDTH,
    }
}

pub fn assert_near(got: &[f32], (want, bound): &(Vec<f64>, f64), what: &str) {
    for (got, want) in got.iter().zip(want) {
        assert!(
            (*got as f64 - want).abs() <= *bound,
            "{what}: {got} for {want}, bound {bound}"
        );
    }
}

#[test]
fn a_tile_of_four_queries_gives_each_the_bits_it_gets_alone() {
    for cells in ALL_CELLS {
        check_tiles(Cache::of(cells, [140, 3]));
    }
}

fn check_tiles(mut cache: Cache) {
    let q = Random::new(8).floats(4 * KEY_DIM);
    let layer = cache.layer();
    let mut scores = [f32::NAN; SCRATCH];
    for limits in [
        [1, 2, 3, 4],
        [62, 63, 64, 65],
        [64, 65, 128, 129],
        [140, 1, 70, 64],
    ] {
        let mut tile = [[f32::NAN; VALUE_DIM]; 4];
        let base = tile.as_mut_ptr();
        let query = |n: usize, out: *mut f32| Query {
            q: q[n * KEY_DIM..].as_ptr(),
            out,
            first: 0,
            limit: limits[n],
            sink: f32::NEG_INFINITY,
        };
        let table = TABLES.as_ptr();
        for head in 0..KV_HEADS {
            let four: [Query; 4] =
                core::array::from_fn(|n| query(n, base.wrapping_add(n) as *mut f32));
            // SAFETY: the table covers the limits; each output is its own.
            unsafe { attend(&four, table, &layer, head, SCALE, scores.as_mut_ptr()) };
            for n in 0..4 {
                let mut alone = [f32::NAN; VALUE_DIM];
                let one = [query(n, alone.as_mut_ptr())];
                // SAFETY: as above.
                unsafe { attend(&one, table, &layer, head, SCALE, scores.as_mut_ptr()) };
                assert_eq!(bits(&tile[n]), bits(&alone), "limits {limits:?}, query {n}");
                let want = cache.exact(&q[n * KEY_DIM..][..KEY_DIM], 0, head, limits[n]);
                assert_near(&alone, &want, "one query");
            }
        }
    }
}

#[test]
fn few_queries_convert_numbers_as_they_read_them_and_many_get_the_same_bits_unpacked() {
    // Whole eights, as direct reading needs them; the second block of the values is a short one.
    const WIDTHS: (usize, usize) = (36, 40);
    const LENGTH: usize = 70;
    const MANY: usize = 5;
    let mut random = Random::new(12);
    for cells in ALL_CELLS {
        let mut layer = KvLayer {
            base: core::ptr::null_mut(),
            cells,
            heads: 1,
            key_dim: WIDTHS.0,
            value_dim: WIDTHS.1,
        };
        let mut pages = vec![0xffu8; 2 * layer.page_bytes()];
        layer.base = pages.as_mut_ptr();
        for token in 0..LENGTH {
            // Some are so small that they are subnormal as halves, some are zero.
            let factor = [1.0, 1e-5, 1.0, 1.0, 0.0][token % 5];
            let mut row = |n| -> Vec<f32> {
                let numbers = random.floats(n);
                numbers.iter().map(|x| x * factor).collect()
            };
            let (key, value) = (row(WIDTHS.0), row(WIDTHS.1));
            let page = (token / 64) as i32;
            // SAFETY: the layer has two pages.
            unsafe {
                layer
                    .key_row(page, 0, token % 64)
                    .store(key.as_ptr(), WIDTHS.0);
                layer
                    .value_row(page, 0, token % 64)
                    .store(value.as_ptr(), WIDTHS.1);
            }
        }
        let moderate = random.floats(MANY * WIDTHS.0);
        // Too large to be multiplied by what halves are read too small by.
        let large: Vec<f32> = moderate.iter().map(|x| x * 3e5).collect();
        for (q, what) in [(moderate, "moderate"), (large, "large")] {
            let run = |queries: core::ops::Range<usize>| {
                let mut out = vec![f32::NAN; queries.len() * WIDTHS.1];
                let mut scratch = [f32::NAN; scratch_floats(WIDTHS.1)];
                let to = out.as_mut_ptr();
                let queries: Vec<Query> = queries
                    .enumerate()
                    .map(|(i, n)| Query {
                        q: q[n * WIDTHS.0..].as_ptr(),
                        out: to.wrapping_add(i * WIDTHS.1),
                        first: 0,
                        limit: LENGTH - n,
                        sink: f32::NEG_INFINITY,
                    })
                    .collect();
                let (table, scratch) = ([0, 1], scratch.as_mut_ptr());
                // SAFETY: the table covers the limits.
                unsafe { attend(&queries, table.as_ptr(), &layer, 0, SCALE, scratch) };
                out
            };
            let many = run(0..MANY);
            assert!(many.iter().all(|x| x.is_finite()), "{cells:?}, {what}");
            for few in 1..=4 {
                let part = run(1..1 + few);
                let want = &many[WIDTHS.1..][..part.len()];
                assert_eq!(bits(&part), bits(want), "{cells:?}, {few} {what} queries");
            }
        }
    }
}

/// Runs all of a split's tasks, in reverse.
fn run(attention: &Attention, split: Split) {
    let mut scores = [f32::NAN; SCRATCH];
    for task in (0..attention.tasks(split)).rev() {
        // SAFETY: the shapes below cover all rows.
        unsafe { attention.run(split, task, scores.as_mut_ptr()) };
    }
}

#[test]
fn rows_of_several_sequences_attend_to_their_own_pages_however_work_is_split() {
    for cells in ALL_CELLS {
        check_splits(Cache::of(cells, [140, 100]));
    }
}

fn check_splits(mut cache: Cache) {
    // A chunk of each sequence, then single rows by turns.
    let positions: Vec<i32> = (120..140).chain(58..70).chain([139, 99, 0, 0]).collect();
    let sequences: Vec<i32> = [0; 20]
        .into_iter()
        .chain([1; 12])
        .chain([0, 1, 0, 1])
        .collect();
    let rows = positions.len();
    let q = Random::new(9).floats(rows * HEADS * KEY_DIM);
    let layer = cache.layer();
    let run_rows = |from: usize, rows: usize, split: Option<Split>, threads: usize| {
        let mut out = vec![f32::NAN; rows * HEADS * VALUE_DIM];
        let attention = Attention {
            q: q[from * HEADS * KEY_DIM..].as_ptr(),
            out: out.as_mut_ptr(),
            heads: HEADS,
            rows,
            scale: SCALE,
            window: 0,
            sinks: core::ptr::null(),
            layer,
            batch: batch(&positions[from..], &sequences[from..]),
        };
        run(
            &attention,
            split.unwrap_or_else(|| attention.split(threads)),
        );
        out
    };
    let whole = run_rows(0, rows, Some(TALL), 1);
    for row in 0..rows {
        for head in 0..HEADS {
            let at = row * HEADS + head;
            let q = &q[at * KEY_DIM..][..KEY_DIM];
            let (sequence, limit) = (sequences[row] as usize, positions[row] as usize + 1);
            let want = cache.exact(q, sequence, head / (HEADS / KV_HEADS), limit);
            assert_near(&whole[at * VALUE_DIM..][..VALUE_DIM], &want, "prefill");
        }
    }
    for per_task in 1..=3 {
        let heads = Split {
            rows: 1,
            heads: per_task,
        };
        assert_eq!(bits(&run_rows(0, rows, Some(heads), 1)), bits(&whole));
    }
    for threads in [1, 4] {
        for count in [1, 3, 8] {
            for from in [0, 18, rows - count] {
                let at = from * HEADS * VALUE_DIM;
                let alone = run_rows(from, count, None, threads);
                assert_eq!(bits(&alone), bits(&whole[at..at + alone.len()]));
            }
        }
    }
}

#[test]
fn scores_that_differ_widely_keep_the_largest() {
    let mut cache = Cache::new([130, 1]);
    // The last key of page 1 outweighs all others by far more than exp can show.
    let q: Vec<f32> = cache.keys[0][127 * KV_HEADS * KEY_DIM..][..KEY_DIM]
        .iter()
        .map(|k| k * 1000.0)
        .collect();
    let mut out = [f32::NAN; VALUE_DIM];
    let mut scores = [f32::NAN; SCRATCH];
    let query = Query {
        q: q.as_ptr(),
        out: out.as_mut_ptr(),
        first: 0,
        limit: 130,
        sink: f32::NEG_INFINITY,
    };
    let layer = cache.layer();
    // SAFETY: the table covers 130 positions.
    unsafe {
        attend(
            &[query],
            TABLES.as_ptr(),
            &layer,
            0,
            SCALE,
            scores.as_mut_ptr(),
        )
    };
    assert_eq!(
        out,
        cache.values[0][127 * KV_HEADS * VALUE_DIM..][..VALUE_DIM]
    );
}

/// Rotates pairs as complex numbers in float64.
fn rotated(x: &[f32], angles: &[f64], interleaved: bool) -> Vec<f64> {
    let mut out: Vec<f64> = x.iter().map(|&x| x as f64).collect();
    for (i, angle) in angles.iter().enumerate() {
        let (a, b) = if interleaved {
            (2 * i, 2 * i + 1)
        } else {
            (i, i + angles.len())
        };
        let (re, im) = (out[a], out[b]);
        out[a] = re * angle.cos() - im * angle.sin();
        out[b] = re * angle.sin() + im * angle.cos();
    }
    out
}

fn table_of(angles: &[f64]) -> Vec<f32> {
    let cosines = angles.iter().map(|a| a.cos() as f32);
    cosines
        .chain(angles.iter().map(|a| a.sin() as f32))
        .collect()
}

#[test]
fn rotation_turns_neighbours_or_halves_and_leaves_the_rest() {
    const DIM: usize = 16;
    let angles: Vec<f64> = (0..DIM / 2).map(|i| 37.0 / 3f64.powi(i as i32)).collect();
    let cos_sin = table_of(&angles);
    for interleaved in [true, false] {
        let x = Random::new(10).floats(KEY_DIM);
        let mut got = x.clone();
        // SAFETY: the head is wider than what is rotated.
        unsafe { rotate(got.as_mut_ptr(), cos_sin.as_ptr(), DIM, interleaved) };
        for (got, want) in got.iter().zip(rotated(&x, &angles, interleaved)) {
            assert!(
                (*got as f64 - want).abs() <= 8.0 * ROUNDOFF,
                "{got} for {want}"
            );
        }
        assert_eq!(got[DIM..], x[DIM..]);
    }
}

#[test]
fn keys_are_normalised_then_rotated_and_written_where_attention_reads() {
    let angles = [[0.0; 4], [1.0, 0.5, 0.25, 0.125]];
    let cos_sin: Vec<f32> = angles.iter().flat_map(|a| table_of(a)).collect();
    let mut random = Random::new(11);
    let norm: Vec<f32> = (0..KEY_DIM).map(|_| 1.5 + random.float()).collect();
    let mut cache = Cache::new([70, 0]);
    let layer = cache.layer();
    let key = random.floats(KEY_DIM);
    let value = random.floats(VALUE_DIM);
    let rotation = Rotation {
        cos_sin: cos_sin.as_ptr(),
        dim: 8,
        interleaved: false,
        q_norm: norm.as_ptr(),
        k_norm: norm.as_ptr(),
        eps: 1e-6,
    };
    // Row 1 is position 67 of sequence 0.
    let (positions, sequences) = ([0, 67], [1, 0]);
    let mut k = key.clone();
    // SAFETY: the table covers position 67.
    unsafe {
        let batch = batch(&positions, &sequences);
        rotation.key_value(k.as_mut_ptr(), value.as_ptr(), 1, 1, &layer, &batch);
    }

    let mean = key.iter().map(|&k| (k as f64).powi(2)).sum::<f64>() / KEY_DIM as f64;
    let normed: Vec<f32> = (0..KEY_DIM)
        .map(|d| (key[d] as f64 / (mean + 1e-6).sqrt() * norm[d] as f64) as f32)
        .collect();
    let want = rotated(&normed, &angles[1], false);
    for (got, want) in k.iter().zip(&want) {
        assert!(
            (*got as f64 - want).abs() <= 64.0 * ROUNDOFF,
            "{got} for {want}"
        );
    }
    let mut q = key;
    // SAFETY: as above.
    unsafe { rotation.query(q.as_mut_ptr(), KEY_DIM, 1) };
    assert_eq!(q, k);

    // Attention sees the new key and value, and all others as they were.
    let at = 67 * KV_HEADS + 1;
    cache.keys[0][at * KEY_DIM..][..KEY_DIM].copy_from_slice(&k);
    cache.values[0][at * VALUE_DIM..][..VALUE_DIM].copy_from_slice(&value);
    for head in 0..KV_HEADS {
        let mut out = [f32::NAN; VALUE_DIM];
        let mut scores = [f32::NAN; SCRATCH];
        let query = Query {
            q: q.as_ptr(),
            out: out.as_mut_ptr(),
            first: 0,
            limit: 70,
            sink: f32::NEG_INFINITY,
        };
        // SAFETY: the table covers 70 positions.
        unsafe {
            attend(
                &[query],
                TABLES.as_ptr(),
                &layer,
                head,
                SCALE,
                scores.as_mut_ptr(),
            )
        };
        assert_near(&out, &cache.exact(&q, 0, head, 70), "after the change");
    }
}
