//! The experts of a step: which tokens chose which, grouped so that each expert's weights are read once
//! however many tokens chose it.

use crate::linear::Weight;

/// One routed expert in shared memory: 64 bytes, written by JavaScript. An expert whose data is null is
/// not in this memory and is passed over.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Expert {
    pub gate: Weight,
    pub up: Weight,
    pub down: Weight,
    /// Of gate, up and down; null for none.
    pub biases: [*const f32; 3],
    pad: u32,
}

impl Expert {
    fn is_here(&self) -> bool {
        !self.gate.data.is_null()
    }
}

/// The choices of a step sorted by expert: expert `active[i]` was chosen by `tokens[starts[i] ..
/// starts[i + 1]]` with the weights at the same places.
#[derive(Clone, Copy)]
pub struct Groups {
    active: *mut u32,
    starts: *mut u32,
    tokens: *mut u32,
    weights: *mut f32,
    pub count: usize,
}

/// Stands for no expert.
pub const NO_EXPERT: i32 = -1;

/// Bytes that `Groups::sort` needs.
pub fn scratch_bytes(pairs: usize, experts: usize) -> usize {
    4 * (2 * (experts + 1) + 2 * pairs + experts)
}

impl Groups {
    /// Sorts the choices by expert, of one expert by token, by counting. Experts that are not here are
    /// left out.
    ///
    /// # Safety
    /// `ids` and `weights` hold `rows * top_k` entries, ids below `experts` or NO_EXPERT; `scratch` has
    /// `scratch_bytes(rows * top_k, experts)` bytes.
    pub unsafe fn sort(
        table: *const Expert,
        experts: usize,
        ids: *const i32,
        weights: *const f32,
        rows: usize,
        top_k: usize,
        scratch: *mut u8,
    ) -> Self {
        let active = scratch as *mut u32;
        let starts = active.add(experts + 1);
        let next = starts.add(experts + 1);
        let tokens = next.add(experts);
        let sorted = tokens.add(rows * top_k) as *mut f32;
        core::ptr::write_bytes(next, 0, experts);
        for pair in 0..rows * top_k {
            if *ids.add(pair) == NO_EXPERT {
                continue;
            }
            let id = *ids.add(pair) as usize;
            assert!(id < experts, "an expert id is out of range");
            *next.add(id) += 1;
        }
        let (mut count, mut start) = (0, 0);
        for e in 0..experts {
            let chosen = *next.add(e);
            if chosen == 0 || !(*table.add(e)).is_here() {
                continue;
            }
            *active.add(count) = e as u32;
            *starts.add(count) = start;
            *next.add(e) = start;
            start += chosen;
            count += 1;
        }
        *starts.add(count) = start;
        for pair in 0..rows * top_k {
            let id = *ids.add(pair) as usize;
            if *ids.add(pair) == NO_EXPERT || !(*table.add(id)).is_here() {
                continue;
            }
            let at = *next.add(id);
            *next.add(id) += 1;
            *tokens.add(at as usize) = (pair / top_k) as u32;
            *sorted.add(at as usize) = *weights.add(pair);
        }
        Self {
            active,
            starts,
            tokens,
            weights: sorted,
            count,
        }
    }

    /// The `i`-th chosen expert.
    ///
    /// # Safety
    /// `i < count`, and the scratch is as `sort` left it.
    pub unsafe fn get(&self, i: usize) -> Group {
        let start = *self.starts.add(i) as usize;
        Group {
            expert: *self.active.add(i) as usize,
            start,
            len: *self.starts.add(i + 1) as usize - start,
            tokens: self.tokens.add(start),
            weights: self.weights.add(start),
        }
    }
}

/// The tokens that chose one expert.
#[derive(Clone, Copy)]
pub struct Group {
    pub expert: usize,
    /// Where its choices begin among all of them.
    pub start: usize,
    pub len: usize,
    pub tokens: *const u32,
    pub weights: *const f32,
}
