//! Pages of keys and values: where each number lies, and the ways to read them.
//!
//! A page holds 64 tokens. For each KV head it has the keys by eights, `[8][keyDim][8]`, so that lanes
//! are keys, then the values `[64][valueDim]`, so that lanes are dimensions; 8-bit cells are followed by
//! their scales, `[8][blocks][8]` and `[64][blocks]`.

use crate::cells::{
    eight_cells, eight_shrunk_halves, from_cells, from_halves, from_interleaved_cells, half_mask,
    Cells, Row, BLOCK, SHRUNK_HALF,
};
use crate::simd::{F32x4, I16x8};

pub const PAGE: usize = 64;

/// Keys that lie interleaved.
pub const LANES: usize = 8;

/// One layer of the cache.
#[derive(Clone, Copy)]
pub struct KvLayer {
    pub base: *mut u8,
    pub cells: Cells,
    pub heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
}

/// Keys or values of a page and head.
#[derive(Clone, Copy)]
pub struct Part {
    pub numbers: *mut u8,
    pub scales: *mut f32,
}

impl KvLayer {
    /// Bytes of a page's keys or values, for one head.
    fn part_bytes(&self, dim: usize) -> usize {
        PAGE * (dim * self.cells.bytes() + self.cells.scales(dim) * 4)
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.heads * (self.part_bytes(self.key_dim) + self.part_bytes(self.value_dim))
    }

    /// # Safety
    /// The page and the head are the layer's.
    #[inline(always)]
    pub unsafe fn keys(&self, page: i32, head: usize) -> Part {
        let head_bytes = self.part_bytes(self.key_dim) + self.part_bytes(self.value_dim);
        let numbers = self
            .base
            .add(page as usize * self.page_bytes() + head * head_bytes);
        let scales = numbers.add(PAGE * self.key_dim * self.cells.bytes()) as *mut f32;
        Part { numbers, scales }
    }

    /// # Safety
    /// As for `keys`.
    #[inline(always)]
    pub unsafe fn values(&self, page: i32, head: usize) -> Part {
        let keys = self.keys(page, head).numbers;
        let numbers = keys.add(self.part_bytes(self.key_dim));
        let scales = numbers.add(PAGE * self.value_dim * self.cells.bytes()) as *mut f32;
        Part { numbers, scales }
    }

    /// The first `count` keys as float32 by eights: where they are, or in `room`.
    ///
    /// # Safety
    /// `room` has a page's floats; the keys are this layer's.
    pub unsafe fn unpack_keys(&self, keys: Part, count: usize, room: *mut f32) -> *const f32 {
        let Part { numbers, scales } = keys;
        let groups = count.div_ceil(LANES);
        match self.cells {
            Cells::F32 => return numbers as *const f32,
            Cells::F16 => {
                from_halves(numbers as *const u16, groups * LANES * self.key_dim, room);
            }
            Cells::Q8 => {
                from_interleaved_cells(numbers as *const i8, scales, (groups, self.key_dim), room);
            }
        }
        room
    }

    /// The first `count` values as float32: where they are, or in `room`.
    ///
    /// # Safety
    /// As for `unpack_keys`.
    pub unsafe fn unpack_values(&self, values: Part, count: usize, room: *mut f32) -> *const f32 {
        let Part { numbers, scales } = values;
        let width = self.value_dim;
        match self.cells {
            Cells::F32 => return numbers as *const f32,
            Cells::F16 => {
                let n = (count * width).next_multiple_of(8);
                from_halves(numbers as *const u16, n, room);
            }
            Cells::Q8 => from_cells(numbers as *const i8, scales, (count, &[width]), room),
        }
        room
    }

    /// Where the key of a token goes.
    ///
    /// # Safety
    /// As for `keys`.
    pub unsafe fn key_row(&self, page: i32, head: usize, slot: usize) -> Row {
        let Part { numbers, scales } = self.keys(page, head);
        let (group, lane) = (slot / LANES, slot % LANES);
        let first = group * LANES * self.key_dim + lane;
        let first_scale = group * LANES * self.cells.scales(self.key_dim) + lane;
        Row {
            cells: self.cells,
            numbers: numbers.add(first * self.cells.bytes()),
            scales: scales.wrapping_add(first_scale),
            stride: LANES,
        }
    }

    /// Where the value of a token goes.
    ///
    /// # Safety
    /// As for `keys`.
    pub unsafe fn value_row(&self, page: i32, head: usize, slot: usize) -> Row {
        let Part { numbers, scales } = self.values(page, head);
        Row {
            cells: self.cells,
            numbers: numbers.add(slot * self.value_dim * self.cells.bytes()),
            scales: scales.wrapping_add(slot * self.cells.scales(self.value_dim)),
            stride: 1,
        }
    }
}

/// Keys or values of a page and head, read eight numbers at a time.
pub trait Source: Copy {
    /// A power of two: numbers are read divided by it, so what they meet must be multiplied by it.
    const FACTOR: f32 = 1.0;

    /// Number `d` of the eight keys of a group, of `dim` numbers each.
    ///
    /// # Safety
    /// All of them are the part's.
    unsafe fn keys(&self, group: usize, d: usize, dim: usize) -> [F32x4; 2];

    /// Numbers `d..d + 8` of a value, of `dim` numbers; `d` is a multiple of 8.
    ///
    /// # Safety
    /// As for `keys`.
    unsafe fn value(&self, key: usize, d: usize, dim: usize) -> [F32x4; 2];

    /// Number `d` of a value; only float32 numbers come in widths that need it.
    ///
    /// # Safety
    /// As for `keys`.
    unsafe fn number(&self, _key: usize, _d: usize, _dim: usize) -> f32 {
        unreachable!("values of other widths than eights are unpacked")
    }
}

/// Numbers that are float32 or have been made so.
#[derive(Clone, Copy)]
pub struct Floats(pub *const f32);

impl Source for Floats {
    #[inline(always)]
    unsafe fn keys(&self, group: usize, d: usize, dim: usize) -> [F32x4; 2] {
        let at = self.0.add((group * dim + d) * LANES);
        [F32x4::load(at), F32x4::load(at.add(4))]
    }

    #[inline(always)]
    unsafe fn value(&self, key: usize, d: usize, dim: usize) -> [F32x4; 2] {
        let at = self.0.add(key * dim + d);
        [F32x4::load(at), F32x4::load(at.add(4))]
    }

    #[inline(always)]
    unsafe fn number(&self, key: usize, d: usize, dim: usize) -> f32 {
        *self.0.add(key * dim + d)
    }
}

/// Halves, read 2^112 times too small.
#[derive(Clone, Copy)]
pub struct Halves {
    from: *const i16,
    mask: I16x8,
}

impl Halves {
    pub fn of(part: Part) -> Self {
        Self {
            from: part.numbers as *const i16,
            mask: half_mask(),
        }
    }
}

impl Source for Halves {
    const FACTOR: f32 = SHRUNK_HALF;

    #[inline(always)]
    unsafe fn keys(&self, group: usize, d: usize, dim: usize) -> [F32x4; 2] {
        eight_shrunk_halves(
            I16x8::load(self.from.add((group * dim + d) * LANES)),
            self.mask,
        )
    }

    #[inline(always)]
    unsafe fn value(&self, key: usize, d: usize, dim: usize) -> [F32x4; 2] {
        eight_shrunk_halves(I16x8::load(self.from.add(key * dim + d)), self.mask)
    }
}

/// 8-bit cells with their scales.
#[derive(Clone, Copy)]
pub struct ScaledCells {
    from: *const i8,
    scales: *const f32,
}

impl ScaledCells {
    pub fn of(part: Part) -> Self {
        Self {
            from: part.numbers as *const i8,
            scales: part.scales,
        }
    }
}

impl Source for ScaledCells {
    #[inline(always)]
    unsafe fn keys(&self, group: usize, d: usize, dim: usize) -> [F32x4; 2] {
        let block = group * dim.div_ceil(BLOCK) + d / BLOCK;
        let scale = self.scales.add(block * LANES);
        let [a, b] = eight_cells(self.from.add((group * dim + d) * LANES));
        [a.mul(F32x4::load(scale)), b.mul(F32x4::load(scale.add(4)))]
    }

    #[inline(always)]
    unsafe fn value(&self, key: usize, d: usize, dim: usize) -> [F32x4; 2] {
        let block = key * dim.div_ceil(BLOCK) + d / BLOCK;
        let scale = F32x4::load_splat(self.scales.add(block));
        let [a, b] = eight_cells(self.from.add(key * dim + d));
        [a.mul(scale), b.mul(scale)]
    }
}
