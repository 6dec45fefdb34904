//! Latent attention over its paged cache, against softmax in float64.

use sluice_kernels::attention::{Batch, PAGE};
use sluice_kernels::cells::{Cells, Row};
use sluice_kernels::latent::{scratch_floats, LatentAttention, LatentLayer, LatentRotation};

use crate::attention::ALL_CELLS;
use crate::cells::rounded;
use crate::support::{bits, Random, ROUNDOFF};

/// Two tiles of four heads do not divide seven; the widths are not whole eights.
const HEADS: usize = 7;
const NOPE: usize = 12;
const LATENT: usize = 44;
const ROPE: usize = 8;
const WIDTH: usize = LATENT + ROPE;
const SCALE: f32 = 0.35;
const EPS: f32 = 1e-6;
/// Pages of two sequences, out of order; page 3 belongs to nobody.
const TABLES: [i32; 6] = [5, 0, 2, 4, 1, 6];
const PAGES: usize = 7;
const TABLE_WIDTH: usize = 3;

fn batch(positions: &[i32], sequences: &[i32]) -> Batch {
    Batch {
        positions: positions.as_ptr(),
        sequences: sequences.as_ptr(),
        tables: TABLES.as_ptr(),
        table_width: TABLE_WIDTH,
    }
}

/// Two sequences' rows of latent and rotary key, as attention reads them and in the cache; what is not
/// written is NaN.
struct Cache {
    rows: [Vec<f32>; 2],
    pages: Vec<f32>,
    cells: Cells,
}

/// Writes a row: a page has 64 rows of numbers, then 64 rows of scales, the latent's before the key's.
unsafe fn store(cells: Cells, base: *mut u8, (page, slot): (usize, usize), row: &[f32]) {
    let bytes = WIDTH * cells.bytes();
    let scales = cells.scales(LATENT) + cells.scales(ROPE);
    let at = base.add(page * PAGE * (bytes + scales * 4));
    let to = Row {
        cells,
        numbers: at.add(slot * bytes),
        scales: (at.add(PAGE * bytes) as *mut f32).wrapping_add(slot * scales),
        stride: 1,
    };
    to.store(row.as_ptr(), LATENT);
    to.after(LATENT).store(row[LATENT..].as_ptr(), ROPE);
}

impl Cache {
    fn new(lengths: [usize; 2]) -> Self {
        Self::of(Cells::F32, lengths)
    }

    fn of(cells: Cells, lengths: [usize; 2]) -> Self {
        let mut random = Random::new(70);
        let rows = lengths.map(|n| random.floats(n * WIDTH));
        let pages = vec![f32::NAN; PAGES * PAGE * WIDTH];
        let mut cache = Self { rows, pages, cells };
        let LatentLayer { base, .. } = cache.layer();
        for (sequence, rows) in cache.rows.iter_mut().enumerate() {
            for (token, row) in rows.chunks_mut(WIDTH).enumerate() {
                let page = TABLES[sequence * TABLE_WIDTH + token / PAGE] as usize;
                // SAFETY: the tables name pages of the cache.
                unsafe { store(cells, base, (page, token % PAGE), row) };
                rounded(cells, &mut row[..LATENT]);
                rounded(cells, &mut row[LATENT..]);
            }
        }
        cache
    }

    fn layer(&mut self) -> LatentLayer {
        LatentLayer {
            base: self.pages.as_mut_ptr() as *mut u8,
            cells: self.cells,
            latent: LATENT,
            rope: ROPE,
        }
    }

    /// The average of the first `limit` latents for a query `[latent | rope]`, and a bound for the
    /// kernel's error.
    fn exact(&self, q: &[f32], sequence: usize, limit: usize) -> (Vec<f64>, f64) {
        let rows = || self.rows[sequence].chunks(WIDTH).take(limit);
        let mut spread = 0f64;
        let scores: Vec<f64> = rows()
            .map(|row| {
                let products = || row.iter().zip(q).map(|(&k, &q)| k as f64 * q as f64);
                let norm: f64 = products().map(f64::abs).sum();
                spread = spread.max((WIDTH + 4) as f64 * ROUNDOFF * SCALE as f64 * norm);
                SCALE as f64 * products().sum::<f64>()
            })
            .collect();
        let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
        let mut out = vec![0.0; LATENT];
        let mut largest = 0f64;
        for (row, score) in rows().zip(&scores) {
            for (out, &v) in out.iter_mut().zip(row) {
                *out += (score - peak).exp() / total * v as f64;
                largest = largest.max(v.abs() as f64);
            }
        }
        // As for other attention: errors of scores and exp above and below the fraction, then sums.
        let relative = 2.0 * (2.0 * spread + 8.0 * ROUNDOFF) + 2.0 * limit as f64 * ROUNDOFF;
        (out, relative * largest)
    }
}

/// Queries of some rows: what attention takes them from, and where they stand.
struct Queries {
    latent: Vec<f32>,
    q: Vec<f32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
}

impl Queries {
    fn new(positions: Vec<i32>, sequences: Vec<i32>) -> Self {
        let mut random = Random::new(71);
        let rows = positions.len();
        Self {
            latent: random.floats(rows * HEADS * LATENT),
            q: random.floats(rows * HEADS * (NOPE + ROPE)),
            positions,
            sequences,
        }
    }

    /// A head's query as it meets cached rows.
    fn of(&self, row: usize, head: usize) -> Vec<f32> {
        let at = row * HEADS + head;
        let rope = &self.q[at * (NOPE + ROPE) + NOPE..][..ROPE];
        [&self.latent[at * LATENT..][..LATENT], rope].concat()
    }

    /// Runs `count` rows from `from` on as one op, its tasks in reverse.
    fn run(&self, layer: LatentLayer, from: usize, count: usize, threads: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; count * HEADS * LATENT];
        let attention = LatentAttention {
            latent_query: self.latent[from * HEADS * LATENT..].as_ptr(),
            q: self.q[from * HEADS * (NOPE + ROPE)..].as_ptr(),
            out: out.as_mut_ptr(),
            heads: HEADS,
            nope: NOPE,
            rows: count,
            scale: SCALE,
            layer,
            batch: batch(&self.positions[from..], &self.sequences[from..]),
        };
        run(&attention, attention.split(threads));
        out
    }

    /// One head of one row alone.
    fn run_head(&self, layer: LatentLayer, row: usize, head: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; LATENT];
        let at = row * HEADS + head;
        let attention = LatentAttention {
            latent_query: self.latent[at * LATENT..].as_ptr(),
            q: self.q[at * (NOPE + ROPE)..].as_ptr(),
            out: out.as_mut_ptr(),
            heads: 1,
            nope: NOPE,
            rows: 1,
            scale: SCALE,
            layer,
            batch: batch(&self.positions[row..], &self.sequences[row..]),
        };
        run(&attention, attention.split(1));
        out
    }
}

fn run(attention: &LatentAttention, split: usize) {
    let mut scores = [f32::NAN; scratch_floats(WIDTH)];
    for task in (0..attention.tasks(split)).rev() {
        // SAFETY: the tables cover all positions.
        unsafe { attention.run(split, task, scores.as_mut_ptr()) };
    }
}

#[test]
fn each_head_averages_the_latents_it_sees_and_gets_the_same_bits_alone() {
    for cells in ALL_CELLS {
        check_heads(Cache::of(cells, [150, 70]));
    }
}

fn check_heads(mut cache: Cache) {
    // A chunk across a border of pages, then single rows by turns, first and odd positions among them.
    let positions: Vec<i32> = (122..132).chain([0, 69, 1, 63, 149, 64, 16, 15]).collect();
    let sequences: Vec<i32> = [0; 10]
        .into_iter()
        .chain([0, 1, 1, 1, 0, 1, 0, 0])
        .collect();
    let queries = Queries::new(positions, sequences);
    let rows = queries.positions.len();
    let layer = cache.layer();
    let whole = queries.run(layer, 0, rows, 1);
    for row in 0..rows {
        let limit = queries.positions[row] as usize + 1;
        for head in 0..HEADS {
            let got = &whole[(row * HEADS + head) * LATENT..][..LATENT];
            let sequence = queries.sequences[row] as usize;
            let (want, bound) = cache.exact(&queries.of(row, head), sequence, limit);
            for (got, want) in got.iter().zip(want) {
                assert!(
                    (*got as f64 - want).abs() <= bound,
                    "row {row}, head {head}: {got} for {want}, bound {bound}"
                );
            }
            let alone = queries.run_head(layer, row, head);
            assert_eq!(bits(&alone), bits(got), "row {row}, head {head}");
        }
    }
    for count in [1, 2, 5] {
        for from in [0, 9, rows - count] {
            let at = from * HEADS * LATENT;
            let part = queries.run(layer, from, count, 4);
            assert_eq!(bits(&part), bits(&whole[at..at + part.len()]));
        }
    }
}

#[test]
fn scores_that_grow_or_fall_from_page_to_page_keep_the_largest() {
    for peak in [3, 70, 149] {
        let mut cache = Cache::new([150, 0]);
        // One key outweighs all others by far more than exp can show.
        let row = cache.rows[0][peak * WIDTH..][..WIDTH].to_vec();
        let mut queries = Queries::new(vec![149], vec![0]);
        for head in 0..HEADS {
            for (q, k) in queries.latent[head * LATENT..][..LATENT]
                .iter_mut()
                .zip(&row)
            {
                *q = 1000.0 * k;
            }
        }
        let out = queries.run(cache.layer(), 0, 1, 1);
        for head in out.chunks(LATENT) {
            assert_eq!(head, &row[..LATENT], "key {peak}");
        }
    }
}

#[test]
fn latents_are_normalised_and_keys_rotated_into_the_page_of_their_position() {
    let mut random = Random::new(72);
    let norm: Vec<f32> = random.floats(LATENT).iter().map(|x| 1.5 + x).collect();
    // Two rows: position 67 of sequence 0 and position 2 of sequence 1.
    let (positions, sequences) = ([67, 2], [0, 1]);
    let kv = random.floats(2 * WIDTH);
    let angles: Vec<Vec<f64>> = positions
        .iter()
        .map(|&p| {
            (0..ROPE / 2)
                .map(|i| p as f64 / 3f64.powi(i as i32))
                .collect()
        })
        .collect();
    let cos_sin: Vec<f32> = angles
        .iter()
        .flat_map(|row| {
            let sines = row.iter().map(|a| a.sin() as f32);
            row.iter().map(|a| a.cos() as f32).chain(sines)
        })
        .collect();
    let rotated = |x: &[f32], row: usize, interleaved: bool| -> Vec<f64> {
        let mut out: Vec<f64> = x.iter().map(|&x| x as f64).collect();
        for (i, angle) in angles[row].iter().enumerate() {
            let (a, b) = if interleaved {
                (2 * i, 2 * i + 1)
            } else {
                (i, i + ROPE / 2)
            };
            let (re, im) = (out[a], out[b]);
            out[a] = re * angle.cos() - im * angle.sin();
            out[b] = re * angle.sin() + im * angle.cos();
        }
        out
    };
    let near = |got: &[f32], want: &[f64]| {
        for (got, want) in got.iter().zip(want) {
            let bound = 128.0 * ROUNDOFF;
            assert!((*got as f64 - want).abs() <= bound, "{got} for {want}");
        }
    };
    for interleaved in [false, true] {
        let mut cache = Cache::new([100, 40]);
        let before = cache.pages.clone();
        let queries = random.floats(2 * HEADS * (NOPE + ROPE));
        let mut q = queries.clone();
        let rotation = LatentRotation {
            q: q.as_mut_ptr(),
            heads: HEADS,
            nope: NOPE,
            kv: kv.as_ptr(),
            norm: norm.as_ptr(),
            eps: EPS,
            cos_sin: cos_sin.as_ptr(),
            interleaved,
            layer: cache.layer(),
            batch: batch(&positions, &sequences),
        };
        let mut room = [f32::NAN; WIDTH];
        for row in 0..2 {
            // SAFETY: all pointers cover two rows.
            unsafe {
                rotation.key(row, room.as_mut_ptr());
                (0..HEADS).for_each(|head| rotation.query(row, head));
            }
        }
        // Page 0 is the second of sequence 0, page 4 the first of sequence 1.
        let places = [3, 4 * PAGE + 2];
        for (row, place) in places.into_iter().enumerate() {
            let from = &kv[row * WIDTH..][..WIDTH];
            let to = &cache.pages[place * WIDTH..][..WIDTH];
            let squares: f64 = from[..LATENT].iter().map(|&x| (x as f64).powi(2)).sum();
            let inverse = 1.0 / (squares / LATENT as f64 + EPS as f64).sqrt();
            let normed: Vec<f64> = (0..LATENT)
                .map(|d| from[d] as f64 * inverse * norm[d] as f64)
                .collect();
            near(&to[..LATENT], &normed);
            near(&to[LATENT..], &rotated(&from[LATENT..], row, interleaved));
        }
        for (place, (got, was)) in cache
            .pages
            .chunks(WIDTH)
            .zip(before.chunks(WIDTH))
            .enumerate()
        {
            assert!(
                places.contains(&place) || bits(got) == bits(was),
                "row {place} of the cache"
            );
        }
        for (at, (got, was)) in q
            .chunks(NOPE + ROPE)
            .zip(queries.chunks(NOPE + ROPE))
            .enumerate()
        {
            assert_eq!(got[..NOPE], was[..NOPE]);
            near(
                &got[NOPE..],
                &rotated(&was[NOPE..], at / HEADS, interleaved),
            );
        }
    }
}
