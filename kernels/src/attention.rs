//! Rotary embedding, the paged KV cache, and causal attention over it.
//!
//! Softmax runs page by page with a running maximum (Milakov & Gimelshein 2018; Dao et al. 2022), always
//! from page 0 and always in whole pages, so that a query's result does not depend on which other queries
//! it goes with.

use core::mem::MaybeUninit;

use crate::activations::rms_norm;
use crate::attention_tile::{add_columns, score_groups};
use crate::cells::Cells;
use crate::kv_layer::{Floats, Halves, ScaledCells, Source, LANES};
use crate::math::{exp, exp_below_one};
use crate::simd::F32x4;

pub use crate::kv_layer::{KvLayer, PAGE};

/// Where rows belong; see `BatchBuffers` of the backend seam.
#[derive(Clone, Copy)]
pub struct Batch {
    pub positions: *const i32,
    pub sequences: *const i32,
    pub tables: *const i32,
    pub table_width: usize,
}

impl Batch {
    #[inline(always)]
    pub unsafe fn table(&self, row: usize) -> *const i32 {
        self.tables
            .add(*self.sequences.add(row) as usize * self.table_width)
    }
}

/// Rotates the first `dim` values of a head by the row's cosines and sines.
///
/// # Safety
/// `x` points to a head, `cos_sin` to `dim` floats.
pub unsafe fn rotate(x: *mut f32, cos_sin: *const f32, dim: usize, interleaved: bool) {
    let half = dim / 2;
    let vectors = half / 4 * 4;
    for i in (0..vectors).step_by(4) {
        let c = F32x4::load(cos_sin.add(i));
        let s = F32x4::load(cos_sin.add(half + i));
        if interleaved {
            rotate_pairs(x.add(2 * i), c.low_twice(), s.low_twice());
            rotate_pairs(x.add(2 * i + 4), c.high_twice(), s.high_twice());
        } else {
            let (a, b) = (x.add(i), x.add(i + half));
            let (u, v) = (F32x4::load(a), F32x4::load(b));
            u.mul(c).sub(v.mul(s)).store(a);
            v.mul(c).add(u.mul(s)).store(b);
        }
    }
    for i in vectors..half {
        let (a, b) = if interleaved {
            (2 * i, 2 * i + 1)
        } else {
            (i, i + half)
        };
        let (c, s) = (*cos_sin.add(i), *cos_sin.add(half + i));
        let (u, v) = (*x.add(a), *x.add(b));
        *x.add(a) = u * c - v * s;
        *x.add(b) = v * c + u * s;
    }
}

/// Rotates two neighbours and the two after them.
#[inline(always)]
unsafe fn rotate_pairs(x: *mut f32, c: F32x4, s: F32x4) {
    // Of the first of each pair the other's product is taken away: added with its sign changed.
    const SIGNS: [f32; 4] = [-0.0, 0.0, -0.0, 0.0];
    let pairs = F32x4::load(x);
    let crossed = pairs.swap_neighbours().mul(s).bits();
    let crossed = crossed.flip(F32x4::load(SIGNS.as_ptr()).bits()).as_f32();
    pairs.mul(c).add(crossed).store(x);
}

/// Parameters of `rotate_and_cache`.
#[derive(Clone, Copy)]
pub struct Rotation {
    pub cos_sin: *const f32,
    pub dim: usize,
    pub interleaved: bool,
    /// Per-head norm weights, null for none.
    pub q_norm: *const f32,
    pub k_norm: *const f32,
    pub eps: f32,
}

impl Rotation {
    unsafe fn apply(&self, head: *mut f32, width: usize, norm: *const f32, row: usize) {
        if !norm.is_null() {
            rms_norm(head, norm, width, self.eps, head);
        }
        rotate(
            head,
            self.cos_sin.add(row * self.dim),
            self.dim,
            self.interleaved,
        );
    }

    /// Rotates one query head in place.
    ///
    /// # Safety
    /// `q` is the row's head of `width` floats.
    pub unsafe fn query(&self, q: *mut f32, width: usize, row: usize) {
        self.apply(q, width, self.q_norm, row);
    }

    /// Rotates one key head and writes key and value into their page.
    ///
    /// # Safety
    /// `k` and `v` are the row's heads; the page table covers the row's position.
    pub unsafe fn key_value(
        &self,
        k: *mut f32,
        v: *const f32,
        head: usize,
        row: usize,
        layer: &KvLayer,
        batch: &Batch,
    ) {
        self.apply(k, layer.key_dim, self.k_norm, row);
        let position = *batch.positions.add(row) as usize;
        let page = *batch.table(row).add(position / PAGE);
        let slot = position % PAGE;
        layer.key_row(page, head, slot).store(k, layer.key_dim);
        layer.value_row(page, head, slot).store(v, layer.value_dim);
    }
}

/// One query head of one row.
#[derive(Clone, Copy)]
pub struct Query {
    pub q: *const f32,
    pub out: *mut f32,
    /// Keys it sees: from `first` up to its own position, which is `limit - 1`.
    pub first: usize,
    pub limit: usize,
    /// A score that takes part in the softmax without a value; negative infinity for none.
    pub sink: f32,
}

/// A query under way.
#[derive(Clone, Copy)]
pub struct Running {
    query: Query,
    peak: f32,
    total: f32,
}

impl Running {
    /// # Safety
    /// The query's output has `value_dim` floats.
    unsafe fn start(query: Query, value_dim: usize) -> Self {
        core::ptr::write_bytes(query.out, 0, value_dim);
        let (peak, total) = (f32::NEG_INFINITY, 0.0);
        Self { query, peak, total }
    }

    /// Keys of the page from `first` on that it sees.
    fn seen(&self, first: usize) -> core::ops::Range<usize> {
        self.query.first.saturating_sub(first).min(PAGE)
            ..self.query.limit.saturating_sub(first).min(PAGE)
    }

    unsafe fn finish(&mut self, value_dim: usize) {
        let Query { out, sink, .. } = self.query;
        if sink > f32::NEG_INFINITY {
            let grown = self.peak.max(sink);
            let shrink = exp(F32x4::splat(self.peak - grown)).lanes()[0];
            self.total = self.total * shrink + exp(F32x4::splat(sink - grown)).lanes()[0];
            rescale(out, value_dim, shrink);
        }
        let vectors = value_dim / 4 * 4;
        for d in (0..vectors).step_by(4) {
            let quotient = F32x4::load(out.add(d)).div(F32x4::splat(self.total));
            quotient.store(out.add(d));
        }
        for d in vectors..value_dim {
            *out.add(d) /= self.total;
        }
    }
}

/// Queries that go through the pages together, and how many of them share a load of keys or values.
pub const MAX_QUERIES: usize = 64;
const TILE: usize = 4;

/// Floats of scratch that attention over heads of up to `dim` numbers needs.
pub const fn scratch_floats(dim: usize) -> usize {
    MAX_QUERIES * PAGE + PAGE * dim
}

/// Attention of up to MAX_QUERIES queries of one sequence and KV head.
///
/// # Safety
/// The table covers the largest limit; `scratch` has room for `scratch_floats` of the wider head.
pub unsafe fn attend(
    queries: &[Query],
    table: *const i32,
    layer: &KvLayer,
    head: usize,
    scale: f32,
    scratch: *mut f32,
) {
    let (key_dim, value_dim) = (layer.key_dim, layer.value_dim);
    let (scores, room) = (scratch, scratch.add(MAX_QUERIES * PAGE));
    let mut running = [const { MaybeUninit::<Running>::uninit() }; MAX_QUERIES];
    let mut furthest = 0;
    let mut first = usize::MAX;
    for (to, &query) in running.iter_mut().zip(queries) {
        to.write(Running::start(query, value_dim));
        furthest = furthest.max(query.limit);
        first = first.min(query.first / PAGE * PAGE);
    }
    let running = running.as_mut_ptr() as *mut Running;
    let running = core::slice::from_raw_parts_mut(running, queries.len());
    // One tile converts numbers as it reads them; more share what is unpacked once.
    let direct = running.len() <= TILE && value_dim % 8 == 0;
    let halves =
        direct && key_dim % 4 == 0 && layer.cells == Cells::F16 && enlarge(running, key_dim, room);
    while first < furthest {
        let page = *table.add(first / PAGE);
        let count = PAGE.min(furthest - first);
        let (keys, values) = (layer.keys(page, head), layer.values(page, head));
        let pass = Pass {
            first,
            scale,
            key_dim,
            value_dim,
            scores,
        };
        match layer.cells {
            Cells::F16 if halves => pass.run(running, || Halves::of(keys), || Halves::of(values)),
            Cells::Q8 if direct => pass.run(
                running,
                || ScaledCells::of(keys),
                || ScaledCells::of(values),
            ),
            _ => pass.run(
                running,
                || Floats(layer.unpack_keys(keys, count, room)),
                || Floats(layer.unpack_values(values, count, room)),
            ),
        }
        first += PAGE;
    }
    for running in running {
        running.finish(value_dim);
    }
}

/// Lets queries read what is in `room`: themselves times the factor of halves. False, and all as before,
/// where one would become too large a number.
unsafe fn enlarge(queries: &mut [Running], key_dim: usize, room: *mut f32) -> bool {
    let mut most = F32x4::splat(0.0);
    for (n, running) in queries.iter().enumerate() {
        for d in (0..key_dim).step_by(4) {
            let q = F32x4::load(running.query.q.add(d));
            most = most.larger(q.abs());
            q.mul(F32x4::splat(Halves::FACTOR))
                .store(room.add(n * key_dim + d));
        }
    }
    let most = most.max_lane();
    if most >= f32::MAX / Halves::FACTOR {
        return false;
    }
    for (n, running) in queries.iter_mut().enumerate() {
        running.query.q = room.add(n * key_dim);
    }
    true
}

/// Keys of the page from `first` on up to the last that one of the queries sees; 0 where none sees any.
fn count_of(queries: &[Running], first: usize) -> usize {
    let seen = queries.iter().map(|running| running.seen(first));
    seen.filter(|seen| !seen.is_empty())
        .fold(0, |most, seen| most.max(seen.end))
}

/// Queries over one page.
struct Pass {
    /// Its first position.
    first: usize,
    scale: f32,
    key_dim: usize,
    value_dim: usize,
    /// `[queries][PAGE]`
    scores: *mut f32,
}

impl Pass {
    /// The values are got after the keys are done with: both may be unpacked to one place.
    #[inline(always)]
    unsafe fn run<S: Source>(
        &self,
        queries: &mut [Running],
        keys: impl Fn() -> S,
        values: impl Fn() -> S,
    ) {
        self.score(queries, keys());
        self.add(queries, values());
    }

    /// Scores all keys, softened: what the values must be multiplied by.
    unsafe fn score<S: Source>(&self, queries: &mut [Running], keys: S) {
        for (tile, queries) in queries.chunks_mut(TILE).enumerate() {
            let scores = self.scores.add(tile * TILE * PAGE);
            match queries.len() {
                1 => self.score_tile::<1, S>(queries, keys, scores),
                2 => self.score_tile::<2, S>(queries, keys, scores),
                3 => self.score_tile::<3, S>(queries, keys, scores),
                _ => self.score_tile::<4, S>(queries, keys, scores),
            }
        }
    }

    #[inline(always)]
    unsafe fn score_tile<const N: usize, S: Source>(
        &self,
        queries: &mut [Running],
        keys: S,
        scores: *mut f32,
    ) {
        let count = count_of(queries, self.first);
        if count == 0 {
            return;
        }
        let q: [*const f32; N] = core::array::from_fn(|n| queries[n].query.q);
        let groups = count.div_ceil(LANES);
        score_groups(&q, keys, (groups, self.key_dim), self.scale, scores);
        for (n, running) in queries.iter_mut().enumerate() {
            let seen = running.seen(self.first);
            let row = scores.add(n * PAGE);
            if seen.is_empty() {
                core::ptr::write_bytes(row, 0, PAGE);
                continue;
            }
            let shrink = soften(
                row,
                seen,
                (count, S::FACTOR),
                &mut running.peak,
                &mut running.total,
            );
            rescale(running.query.out, self.value_dim, shrink);
        }
    }

    /// out += scores x values, key by key.
    unsafe fn add<S: Source>(&self, queries: &[Running], values: S) {
        for (tile, queries) in queries.chunks(TILE).enumerate() {
            let scores = self.scores.add(tile * TILE * PAGE);
            match queries.len() {
                1 => self.add_tile::<1, S>(queries, values, scores),
                2 => self.add_tile::<2, S>(queries, values, scores),
                3 => self.add_tile::<3, S>(queries, values, scores),
                _ => self.add_tile::<4, S>(queries, values, scores),
            }
        }
    }

    #[inline(always)]
    unsafe fn add_tile<const N: usize, S: Source>(
        &self,
        queries: &[Running],
        values: S,
        scores: *const f32,
    ) {
        let count = count_of(queries, self.first);
        let outs: [*mut f32; N] = core::array::from_fn(|n| queries[n].query.out);
        add_columns(&outs, values, (count, self.value_dim), scores);
        for d in self.value_dim / 8 * 8..self.value_dim {
            for (n, out) in outs.iter().enumerate() {
                let mut acc = *out.add(d);
                for key in 0..count {
                    acc += *scores.add(n * PAGE + key) * values.number(key, d, self.value_dim);
                }
                *out.add(d) = acc;
            }
        }
    }
}

/// Turns scores into exp(score - maximum), outside of `seen` into 0, and brings the running maximum and
/// total up to date; returns the factor that earlier sums must take. What is written is multiplied by
/// `factor`, a power of two.
///
/// # Safety
/// `row` has room for `count` scores, rounded up to sixteens.
#[inline(never)]
pub unsafe fn soften(
    row: *mut f32,
    seen: core::ops::Range<usize>,
    (count, factor): (usize, f32),
    peak: &mut f32,
    total: &mut f32,
) -> f32 {
    let end = count.next_multiple_of(SOFTENED);
    for i in (0..seen.start).chain(seen.end..end) {
        *row.add(i) = f32::NEG_INFINITY;
    }
    let scores = |at: usize| [0, 4, 8, 12].map(|i| F32x4::load(row.add(at + i)));
    let mut most = [F32x4::splat(*peak); 4];
    for at in (0..end).step_by(SOFTENED) {
        let scores = scores(at);
        most = core::array::from_fn(|i| most[i].larger(scores[i]));
    }
    let grown = most[0].larger(most[1]).larger(most[2].larger(most[3]));
    let grown = grown.larger(grown.swap_neighbours());
    let grown = grown.larger(grown.swap_halves());
    let mut sum = F32x4::splat(0.0);
    for at in (0..end).step_by(SOFTENED) {
        for (i, score) in scores(at).into_iter().enumerate() {
            let p = exp_below_one(score.sub(grown));
            sum = sum.add(p);
            p.mul(F32x4::splat(factor)).store(row.add(at + 4 * i));
        }
    }
    let grown = grown.lanes()[0];
    let shrink = if *peak == grown {
        1.0
    } else {
        exp_below_one(F32x4::splat(*peak - grown)).lanes()[0]
    };
    *peak = grown;
    *total = *total * shrink + sum.sum();
    shrink
}

/// Scores that are softened side by side.
const SOFTENED: usize = 16;

/// Multiplies `n` values by the factor.
///
/// # Safety
/// `out` points to `n` floats.
#[inline(always)]
pub unsafe fn rescale(out: *mut f32, n: usize, factor: f32) {
    if factor == 1.0 {
        return;
    }
    let vectors = n / 4 * 4;
    for d in (0..vectors).step_by(4) {
        let product = F32x4::load(out.add(d)).mul(F32x4::splat(factor));
        product.store(out.add(d));
    }
    for d in vectors..n {
        *out.add(d) *= factor;
    }
}

/// How attention is cut into tasks: some rows of some query heads of one KV head each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    pub rows: usize,
    pub heads: usize,
}

/// Rows of a task: of neighbours of one sequence, all go through a page together.
const ROWS: usize = 16;

/// What attention runs over.
#[derive(Clone, Copy)]
pub struct Attention {
    pub q: *const f32,
    pub out: *mut f32,
    pub heads: usize,
    pub rows: usize,
    pub scale: f32,
    /// Keys a row sees, its own included; 0 for all.
    pub window: usize,
    /// A score per head, see `Query`; null for none.
    pub sinks: *const f32,
    pub layer: KvLayer,
    pub batch: Batch,
}

impl Attention {
    /// Large tasks read a page for many queries; there must be some for each thread, though.
    pub fn split(&self, threads: usize) -> Split {
        let group = self.heads / self.layer.heads;
        let mut split = Split {
            rows: ROWS.min(self.rows),
            heads: group.min(MAX_QUERIES / ROWS.min(self.rows)),
        };
        while threads > 1 && self.tasks(split) < 2 * threads {
            if split.rows > TILE {
                split.rows = split.rows.div_ceil(2);
            } else if split.heads > 1 {
                split.heads = split.heads.div_ceil(2);
            } else {
                break;
            }
        }
        split
    }

    pub fn tasks(&self, split: Split) -> usize {
        let group = self.heads / self.layer.heads;
        self.layer.heads * group.div_ceil(split.heads) * self.rows.div_ceil(split.rows)
    }

    #[inline(always)]
    unsafe fn query(&self, row: usize, head: usize) -> Query {
        let limit = *self.batch.positions.add(row) as usize + 1;
        Query {
            q: self.q.add((row * self.heads + head) * self.layer.key_dim),
            out: self
                .out
                .add((row * self.heads + head) * self.layer.value_dim),
            first: match self.window {
                0 => 0,
                window => limit.saturating_sub(window),
            },
            limit,
            sink: if self.sinks.is_null() {
                f32::NEG_INFINITY
            } else {
                *self.sinks.add(head)
            },
        }
    }

    /// # Safety
    /// All pointers cover what the shapes state; `scratch` has room for `scratch_floats`.
    pub unsafe fn run(&self, split: Split, task: usize, scratch: *mut f32) {
        let group = self.heads / self.layer.heads;
        let parts = group.div_ceil(split.heads);
        let blocks = self.rows.div_ceil(split.rows);
        // The last rows see most keys: they come first, so that no thread ends late.
        let (rest, block) = (
            task % (self.layer.heads * parts),
            blocks - 1 - task / (self.layer.heads * parts),
        );
        let (kv_head, part) = (rest / parts, rest % parts);
        let heads = part * split.heads..group.min((part + 1) * split.heads);
        let end = self.rows.min((block + 1) * split.rows);
        let mut row = block * split.rows;
        while row < end {
            let sequence = *self.batch.sequences.add(row);
            let mut after = row + 1;
            while after < end && *self.batch.sequences.add(after) == sequence {
                after += 1;
            }
            let mut queries = [const { MaybeUninit::<Query>::uninit() }; MAX_QUERIES];
            let mut count = 0;
            for head in heads.clone() {
                for row in row..after {
                    queries[count].write(self.query(row, kv_head * group + head));
                    count += 1;
                }
            }
            let table = self.batch.table(row);
            let queries = core::slice::from_raw_parts(queries.as_ptr() as *const Query, count);
            attend(queries, table, &self.layer, kv_head, self.scale, scratch);
            row = after;
        }
    }
}
