//! Rotary embedding, the paged KV cache, and causal attention over it.
//!
//! A page holds 64 tokens. For each KV head it has the keys by fours, `[16][keyDim][4]`, so that lanes
//! are keys, then the values `[64][valueDim]`, so that lanes are dimensions. Softmax runs page by page
//! with a running maximum (Milakov & Gimelshein 2018; Dao et al. 2022), always from page 0 and always
//! in whole pages, so that a query's result does not depend on which other queries it goes with.

use crate::activations::rms_norm;
use crate::math::exp;
use crate::simd::F32x4;

pub const PAGE: usize = 64;

/// One layer of the cache.
#[derive(Clone, Copy)]
pub struct KvLayer {
    pub base: *mut f32,
    pub heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
}

impl KvLayer {
    /// Keys of a page and head; its values follow them.
    #[inline(always)]
    unsafe fn keys(&self, page: i32, head: usize) -> *mut f32 {
        let head_floats = PAGE * (self.key_dim + self.value_dim);
        self.base
            .add((page as usize * self.heads + head) * head_floats)
    }
}

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
    for i in 0..half {
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
        let keys = layer.keys(*batch.table(row).add(position / PAGE), head);
        let slot = position % PAGE;
        let lane = keys.add(slot / 4 * 4 * layer.key_dim + slot % 4);
        for d in 0..layer.key_dim {
            *lane.add(d * 4) = *k.add(d);
        }
        let values = keys.add(layer.key_dim * PAGE + slot * layer.value_dim);
        core::ptr::copy_nonoverlapping(v, values, layer.value_dim);
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

/// Floats of scratch that `attend` needs.
pub const SCRATCH: usize = 4 * PAGE;

/// Attention of N queries of one sequence and KV head.
///
/// # Safety
/// The table covers the largest limit; `scores` has room for SCRATCH floats.
pub unsafe fn attend<const N: usize>(
    queries: [Query; N],
    table: *const i32,
    layer: &KvLayer,
    head: usize,
    scale: f32,
    scores: *mut f32,
) {
    let (key_dim, value_dim) = (layer.key_dim, layer.value_dim);
    let mut peak = [f32::NEG_INFINITY; N];
    let mut total = [0f32; N];
    let mut furthest = 0;
    let mut first = usize::MAX;
    for query in &queries {
        core::ptr::write_bytes(query.out, 0, value_dim);
        furthest = furthest.max(query.limit);
        first = first.min(query.first / PAGE * PAGE);
    }
    while first < furthest {
        let keys = layer.keys(*table.add(first / PAGE), head);
        let count = PAGE.min(furthest - first);
        score_page(&queries, keys, key_dim, count, scale, scores);
        for n in 0..N {
            let seen = queries[n].first.saturating_sub(first).min(PAGE)
                ..queries[n].limit.saturating_sub(first).min(PAGE);
            if seen.is_empty() {
                core::ptr::write_bytes(scores.add(n * PAGE), 0, PAGE);
                continue;
            }
            let row = scores.add(n * PAGE);
            let shrink = soften(row, seen, count, &mut peak[n], &mut total[n]);
            rescale(queries[n].out, value_dim, shrink);
        }
        let values = keys.add(key_dim * PAGE);
        add_values(&queries, values, value_dim, count, scores);
        first += PAGE;
    }
    for n in 0..N {
        let out = queries[n].out;
        let sink = queries[n].sink;
        if sink > f32::NEG_INFINITY {
            let grown = peak[n].max(sink);
            let shrink = exp(F32x4::splat(peak[n] - grown)).lanes()[0];
            total[n] = total[n] * shrink + exp(F32x4::splat(sink - grown)).lanes()[0];
            rescale(out, value_dim, shrink);
        }
        for d in 0..value_dim {
            *out.add(d) /= total[n];
        }
    }
}

/// Scores of the page's first `count` keys, in eights.
#[inline(always)]
unsafe fn score_page<const N: usize>(
    queries: &[Query; N],
    keys: *const f32,
    key_dim: usize,
    count: usize,
    scale: f32,
    scores: *mut f32,
) {
    let mut at = 0;
    while at < count {
        let mut acc = [[F32x4::splat(0.0); 2]; N];
        for d in 0..key_dim {
            let k = keys.add(at * key_dim + d * 4);
            let k = [F32x4::load(k), F32x4::load(k.add(4 * key_dim))];
            for n in 0..N {
                let q = F32x4::load_splat(queries[n].q.add(d));
                acc[n] = [k[0].mul_add(q, acc[n][0]), k[1].mul_add(q, acc[n][1])];
            }
        }
        for n in 0..N {
            for h in 0..2 {
                acc[n][h]
                    .mul(F32x4::splat(scale))
                    .store(scores.add(n * PAGE + at + 4 * h));
            }
        }
        at += 8;
    }
}

/// Turns scores into exp(score - maximum), outside of `seen` into 0, and brings the running maximum and
/// total up to date; returns the factor that earlier sums must take.
///
/// # Safety
/// `row` has room for `count` scores, rounded up to eights.
#[inline(always)]
pub unsafe fn soften(
    row: *mut f32,
    seen: core::ops::Range<usize>,
    count: usize,
    peak: &mut f32,
    total: &mut f32,
) -> f32 {
    for i in (0..seen.start).chain(seen.end..count.next_multiple_of(8)) {
        *row.add(i) = f32::NEG_INFINITY;
    }
    let mut most = F32x4::splat(*peak);
    let mut at = 0;
    while at < count {
        most = most
            .max(F32x4::load(row.add(at)))
            .max(F32x4::load(row.add(at + 4)));
        at += 8;
    }
    let grown = most.max_lane();
    let mut sum = F32x4::splat(0.0);
    at = 0;
    while at < count {
        for h in 0..2 {
            let p = exp(F32x4::load(row.add(at + 4 * h)).sub(F32x4::splat(grown)));
            sum = sum.add(p);
            p.store(row.add(at + 4 * h));
        }
        at += 8;
    }
    let shrink = if *peak == grown {
        1.0
    } else {
        exp(F32x4::splat(*peak - grown)).lanes()[0]
    };
    *peak = grown;
    *total = *total * shrink + sum.sum();
    shrink
}

/// Multiplies `n` values by the factor.
///
/// # Safety
/// `out` points to `n` floats.
#[inline(always)]
pub unsafe fn rescale(out: *mut f32, n: usize, factor: f32) {
    if factor == 1.0 {
        return;
    }
    for d in 0..n {
        *out.add(d) *= factor;
    }
}

/// out += scores x values, key by key.
#[inline(always)]
unsafe fn add_values<const N: usize>(
    queries: &[Query; N],
    values: *const f32,
    value_dim: usize,
    count: usize,
    scores: *const f32,
) {
    let mut d = 0;
    while d + 8 <= value_dim {
        let mut acc: [[F32x4; 2]; N] = core::array::from_fn(|n| {
            let out = queries[n].out.add(d);
            [F32x4::load(out), F32x4::load(out.add(4))]
        });
        for key in 0..count {
            let v = values.add(key * value_dim + d);
            let v = [F32x4::load(v), F32x4::load(v.add(4))];
            for n in 0..N {
                let p = F32x4::load_splat(scores.add(n * PAGE + key));
                acc[n] = [v[0].mul_add(p, acc[n][0]), v[1].mul_add(p, acc[n][1])];
            }
        }
        for n in 0..N {
            acc[n][0].store(queries[n].out.add(d));
            acc[n][1].store(queries[n].out.add(d + 4));
        }
        d += 8;
    }
    while d < value_dim {
        for (n, query) in queries.iter().enumerate() {
            let mut acc = *query.out.add(d);
            for key in 0..count {
                acc += *scores.add(n * PAGE + key) * *values.add(key * value_dim + d);
            }
            *query.out.add(d) = acc;
        }
        d += 1;
    }
}

/// Tasks that attention of `rows` rows is cut into, and how many query heads or rows each takes.
#[derive(Clone, Copy)]
pub enum Split {
    /// One row, `heads` query heads of one KV head: decoding.
    Heads {
        per_task: usize,
        tasks_per_kv_head: usize,
    },
    /// ROWS rows of one query head: prefill.
    Rows,
}

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
    pub fn split(&self, threads: usize) -> Split {
        if self.rows >= 8 {
            return Split::Rows;
        }
        let group = self.heads / self.layer.heads;
        let mut per_task = group.min(4);
        let tasks = |per_task: usize| self.rows * self.layer.heads * group.div_ceil(per_task);
        while per_task > 1 && threads > 1 && tasks(per_task) < 4 * threads {
            per_task -= 1;
        }
        Split::Heads {
            per_task,
            tasks_per_kv_head: group.div_ceil(per_task),
        }
    }

    pub fn tasks(&self, split: Split) -> usize {
        match split {
            Split::Rows => self.heads * self.rows.div_ceil(ROWS),
            Split::Heads {
                tasks_per_kv_head, ..
            } => self.rows * self.layer.heads * tasks_per_kv_head,
        }
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
    /// All pointers cover what the shapes state; `scores` has room for SCRATCH floats.
    pub unsafe fn run(&self, split: Split, task: usize, scores: *mut f32) {
        let group = self.heads / self.layer.heads;
        match split {
            Split::Heads {
                per_task,
                tasks_per_kv_head,
            } => {
                let (rest, part) = (task / tasks_per_kv_head, task % tasks_per_kv_head);
                let (row, kv_head) = (rest / self.layer.heads, rest % self.layer.heads);
                let first = kv_head * group + part * per_task;
                let count = per_task.min(group - part * per_task);
                let table = self.batch.table(row);
                let query = |i: usize| self.query(row, first + i);
                match count {
                    1 => self.attend([query(0)], table, kv_head, scores),
                    2 => self.attend([query(0), query(1)], table, kv_head, scores),
                    3 => self.attend([query(0), query(1), query(2)], table, kv_head, scores),
                    _ => self.attend(
                        [query(0), query(1), query(2), query(3)],
                        table,
                        kv_head,
                        scores,
                    ),
                }
            }
            Split::Rows => {
                let blocks = self.rows.div_ceil(ROWS);
                // The last rows see most keys: they come first, so that no thread ends late.
                let (head, block) = (task % self.heads, blocks - 1 - task / self.heads);
                let end = self.rows.min((block + 1) * ROWS);
                let mut row = block * ROWS;
                while row < end {
                    let same = (1..4).all(|i| {
                        row + i < end
                            && *self.batch.sequences.add(row + i) == *self.batch.sequences.add(row)
                    });
                    let table = self.batch.table(row);
                    if same {
                        let four = core::array::from_fn::<_, 4, _>(|i| self.query(row + i, head));
                        self.attend(four, table, head / group, scores);
                        row += 4;
                    } else {
                        self.attend([self.query(row, head)], table, head / group, scores);
                        row += 1;
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn attend<const N: usize>(
        &self,
        queries: [Query; N],
        table: *const i32,
        kv_head: usize,
        scores: *mut f32,
    ) {
        attend(queries, table, &self.layer, kv_head, self.scale, scores);
    }
}
