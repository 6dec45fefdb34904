//! Multi-head latent attention in its absorbed form (DeepSeek-V2, section 2.1.2): all heads of a token
//! read the same row of latent and rotary key, `[latent | ropeKey]`, and average the latents. A page
//! holds 64 such rows, and 64 of their scales where cells have 8 bits. Softmax runs page by page as in `attention`, so a token's result does not depend
//! on its company.

use crate::activations::rms_norm;
use crate::attention::{rescale, rotate, soften, Batch, PAGE};
use crate::cells::{from_cells, from_halves, Cells, Row};
use crate::simd::F32x4;

/// One layer of the cache. Both widths are multiples of 4.
#[derive(Clone, Copy)]
pub struct LatentLayer {
    pub base: *mut u8,
    pub cells: Cells,
    pub latent: usize,
    pub rope: usize,
}

impl LatentLayer {
    fn width(&self) -> usize {
        self.latent + self.rope
    }

    /// Scales of a row: those of the latent, then those of the key.
    fn row_scales(&self) -> usize {
        self.cells.scales(self.latent) + self.cells.scales(self.rope)
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        PAGE * (self.width() * self.cells.bytes() + self.row_scales() * 4)
    }

    #[inline(always)]
    unsafe fn row(&self, page: i32, slot: usize) -> Row {
        let numbers = self.base.add(page as usize * self.page_bytes());
        let scales = numbers.add(PAGE * self.width() * self.cells.bytes()) as *mut f32;
        Row {
            cells: self.cells,
            numbers: numbers.add(slot * self.width() * self.cells.bytes()),
            scales: scales.wrapping_add(slot * self.row_scales()),
            stride: 1,
        }
    }

    /// The first `count` rows of a page as float32, and one more of whatever: where they are, or in `room`.
    unsafe fn read(&self, page: i32, count: usize, room: *mut f32) -> *const f32 {
        let Row {
            numbers, scales, ..
        } = self.row(page, 0);
        let count = count.next_multiple_of(2);
        match self.cells {
            Cells::F32 => return numbers as *const f32,
            Cells::F16 => from_halves(numbers as *const u16, count * self.width(), room),
            Cells::Q8 => from_cells(
                numbers as *const i8,
                scales,
                (count, &[self.latent, self.rope]),
                room,
            ),
        }
        room
    }
}

/// Parameters of `rotateAndCacheLatent`.
#[derive(Clone, Copy)]
pub struct LatentRotation {
    pub q: *mut f32,
    pub heads: usize,
    pub nope: usize,
    /// `[rows, latent + rope]`
    pub kv: *const f32,
    pub norm: *const f32,
    pub eps: f32,
    pub cos_sin: *const f32,
    pub interleaved: bool,
    pub layer: LatentLayer,
    pub batch: Batch,
}

impl LatentRotation {
    /// Rotates the last values of a query head in place.
    ///
    /// # Safety
    /// The pointers cover the row.
    pub unsafe fn query(&self, row: usize, head: usize) {
        let width = self.nope + self.layer.rope;
        let at = self.q.add((row * self.heads + head) * width + self.nope);
        rotate(at, self.angles(row), self.layer.rope, self.interleaved);
    }

    /// Writes the row's normalised latent and its rotated key into the cache.
    ///
    /// # Safety
    /// As for `query`; the page table covers the row's position, `room` holds a row's floats.
    pub unsafe fn key(&self, row: usize, room: *mut f32) {
        let LatentLayer { latent, rope, .. } = self.layer;
        let from = self.kv.add(row * (latent + rope));
        let position = *self.batch.positions.add(row) as usize;
        let page = *self.batch.table(row).add(position / PAGE);
        rms_norm(from, self.norm, latent, self.eps, room);
        let key = room.add(latent);
        core::ptr::copy_nonoverlapping(from.add(latent), key, rope);
        rotate(key, self.angles(row), rope, self.interleaved);
        let to = self.layer.row(page, position % PAGE);
        to.store(room, latent);
        to.after(latent).store(key, rope);
    }

    unsafe fn angles(&self, row: usize) -> *const f32 {
        self.cos_sin.add(row * self.layer.rope)
    }
}

/// Heads that share a load of a cached row.
const TILE: usize = 4;
/// Heads that read a page together.
const MAX_HEADS: usize = 16;

/// Floats of scratch that attention over rows of this width needs.
pub const fn scratch_floats(width: usize) -> usize {
    TILE * PAGE + PAGE * width
}

/// Keys whose rows stay in the nearest cache while values are added.
const KEYS: usize = 16;

/// What latent attention runs over.
#[derive(Clone, Copy)]
pub struct LatentAttention {
    /// `[rows, heads * latent]`
    pub latent_query: *const f32,
    /// `[rows, heads * (nope + rope)]`
    pub q: *const f32,
    pub out: *mut f32,
    pub heads: usize,
    pub nope: usize,
    pub rows: usize,
    pub scale: f32,
    pub layer: LatentLayer,
    pub batch: Batch,
}

#[derive(Clone, Copy)]
struct Head {
    latent: *const f32,
    rope: *const f32,
    out: *mut f32,
    peak: f32,
    total: f32,
}

impl LatentAttention {
    /// Heads of a task: many read a page together, but there must be some tasks for each thread.
    pub fn split(&self, threads: usize) -> usize {
        let mut heads = self.heads.min(MAX_HEADS);
        while heads > TILE && self.tasks(heads) < threads {
            heads = heads.div_ceil(2).next_multiple_of(TILE);
        }
        heads
    }

    pub fn tasks(&self, heads: usize) -> usize {
        self.rows * self.heads.div_ceil(heads)
    }

    /// Runs a task of `split` heads of a row.
    ///
    /// # Safety
    /// All pointers cover what the shapes state; `scratch` has room for `scratch_floats`.
    pub unsafe fn run(&self, split: usize, task: usize, scratch: *mut f32) {
        let parts = self.heads.div_ceil(split);
        // The last rows see most keys: they come first, so that no thread ends late.
        let (row, first) = (self.rows - 1 - task / parts, task % parts * split);
        let latent = self.layer.latent;
        let mut heads: [Head; MAX_HEADS] = core::array::from_fn(|i| {
            let at = row * self.heads + self.heads.min(first + i + 1) - 1;
            Head {
                latent: self.latent_query.add(at * latent),
                rope: self.q.add(at * (self.nope + self.layer.rope) + self.nope),
                out: self.out.add(at * latent),
                peak: f32::NEG_INFINITY,
                total: 0.0,
            }
        });
        let heads = &mut heads[..split.min(self.heads - first)];
        for head in heads.iter() {
            core::ptr::write_bytes(head.out, 0, latent);
        }
        self.attend(heads, row, scratch);
        for head in heads.iter() {
            for d in 0..latent {
                *head.out.add(d) /= head.total;
            }
        }
    }

    unsafe fn attend(&self, heads: &mut [Head], row: usize, scratch: *mut f32) {
        let (scores, room) = (scratch, scratch.add(TILE * PAGE));
        let limit = *self.batch.positions.add(row) as usize + 1;
        let table = self.batch.table(row);
        let mut first = 0;
        while first < limit {
            let count = PAGE.min(limit - first);
            let rows = self.layer.read(*table.add(first / PAGE), count, room);
            for heads in heads.chunks_mut(TILE) {
                match heads.len() {
                    1 => self.attend_page::<1>(heads, rows, count, scores),
                    2 => self.attend_page::<2>(heads, rows, count, scores),
                    3 => self.attend_page::<3>(heads, rows, count, scores),
                    _ => self.attend_page::<4>(heads, rows, count, scores),
                }
            }
            first += PAGE;
        }
    }

    #[inline(always)]
    unsafe fn attend_page<const N: usize>(
        &self,
        heads: &mut [Head],
        rows: *const f32,
        count: usize,
        scores: *mut f32,
    ) {
        for at in (0..count).step_by(2) {
            self.score::<N>(heads, rows, at, scores);
        }
        for n in 0..N {
            let head = &mut heads[n];
            let row = scores.add(n * PAGE);
            let shrink = soften(row, 0..count, (count, 1.0), &mut head.peak, &mut head.total);
            rescale(head.out, self.layer.latent, shrink);
        }
        let mut at = 0;
        while at < count {
            self.add_latents::<N>(heads, rows, at..count.min(at + KEYS), scores);
            at += KEYS;
        }
    }

    /// Scores of two neighbouring keys; the second may lie beyond the last one, within the page.
    #[inline(always)]
    unsafe fn score<const N: usize>(
        &self,
        heads: &[Head],
        rows: *const f32,
        at: usize,
        scores: *mut f32,
    ) {
        let LatentLayer { latent, rope, .. } = self.layer;
        let a = rows.add(at * self.layer.width());
        let b = a.add(self.layer.width());
        let mut acc = [[F32x4::splat(0.0); 2]; N];
        let mut d = 0;
        while d < latent {
            let k = [F32x4::load(a.add(d)), F32x4::load(b.add(d))];
            for n in 0..N {
                let q = F32x4::load(heads[n].latent.add(d));
                acc[n] = [k[0].mul_add(q, acc[n][0]), k[1].mul_add(q, acc[n][1])];
            }
            d += 4;
        }
        let (a, b) = (a.add(latent), b.add(latent));
        d = 0;
        while d < rope {
            let k = [F32x4::load(a.add(d)), F32x4::load(b.add(d))];
            for n in 0..N {
                let q = F32x4::load(heads[n].rope.add(d));
                acc[n] = [k[0].mul_add(q, acc[n][0]), k[1].mul_add(q, acc[n][1])];
            }
            d += 4;
        }
        for n in 0..N {
            let to = scores.add(n * PAGE + at);
            *to = acc[n][0].sum() * self.scale;
            *to.add(1) = acc[n][1].sum() * self.scale;
        }
    }

    /// out += scores x latents, key by key.
    #[inline(always)]
    unsafe fn add_latents<const N: usize>(
        &self,
        heads: &[Head],
        rows: *const f32,
        keys: core::ops::Range<usize>,
        scores: *const f32,
    ) {
        let (latent, width) = (self.layer.latent, self.layer.width());
        let mut d = 0;
        while d + 8 <= latent {
            let mut acc: [[F32x4; 2]; N] = core::array::from_fn(|n| {
                let out = heads[n].out.add(d);
                [F32x4::load(out), F32x4::load(out.add(4))]
            });
            let mut key = keys.start;
            while key + 4 <= keys.end {
                let p: [F32x4; N] =
                    core::array::from_fn(|n| F32x4::load(scores.add(n * PAGE + key)));
                for i in 0..4 {
                    let v = rows.add((key + i) * width + d);
                    let v = [F32x4::load(v), F32x4::load(v.add(4))];
                    for n in 0..N {
                        let p = p[n].splat_lane(i);
                        acc[n] = [v[0].mul_add(p, acc[n][0]), v[1].mul_add(p, acc[n][1])];
                    }
                }
                key += 4;
            }
            while key < keys.end {
                let v = rows.add(key * width + d);
                let v = [F32x4::load(v), F32x4::load(v.add(4))];
                for n in 0..N {
                    let p = F32x4::load_splat(scores.add(n * PAGE + key));
                    acc[n] = [v[0].mul_add(p, acc[n][0]), v[1].mul_add(p, acc[n][1])];
                }
                key += 1;
            }
            for n in 0..N {
                acc[n][0].store(heads[n].out.add(d));
                acc[n][1].store(heads[n].out.add(d + 4));
            }
            d += 8;
        }
        if d < latent {
            for (n, head) in heads.iter().enumerate() {
                let mut acc = F32x4::load(head.out.add(d));
                for key in keys.clone() {
                    let p = F32x4::load_splat(scores.add(n * PAGE + key));
                    acc = F32x4::load(rows.add(key * width + d)).mul_add(p, acc);
                }
                acc.store(head.out.add(d));
            }
        }
    }
}
