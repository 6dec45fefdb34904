//! Kernels of the WASM backend: the whole of a recorded forward pass runs in here, on every thread.
//!
//! JavaScript records plans into the shared memory (`plan`), starts them with `run_plan` on its own
//! thread, and keeps the other threads in `serve`.

#![cfg_attr(target_arch = "wasm32", feature(stdarch_wasm_atomic_wait))]
#![allow(
    clippy::missing_safety_doc,
    clippy::needless_range_loop,
    clippy::should_implement_trait
)]

pub mod activations;
pub mod attention;
pub mod attention_tile;
pub mod cells;
pub mod dot;
pub mod experts;
pub mod gate;
pub mod kv_layer;
pub mod latent;
pub mod linear;
pub mod math;
pub mod output;
pub mod panel;
pub mod plan;
pub mod probe;
pub mod quant;
pub mod simd;
pub mod sync;
pub mod tile;
pub mod training;

use wasm_bindgen::prelude::wasm_bindgen;

use linear::Weight;
use sync::Context;

/// Allocates zeroed memory aligned to 64 bytes; 0 where there is none left.
#[wasm_bindgen]
pub fn allocate(bytes: usize) -> usize {
    let Ok(layout) = std::alloc::Layout::from_size_align(bytes.max(64), 64) else {
        return 0;
    };
    // SAFETY: the layout has a size.
    unsafe { std::alloc::alloc_zeroed(layout) as usize }
}

/// Bytes of a packed matrix, or 0 where the type has no kernel or the width isn't whole blocks.
#[wasm_bindgen]
pub fn packed_bytes(kind: u32, rows: usize, cols: usize) -> f64 {
    match linear::geometry(kind) {
        Some((block, bytes)) if cols.is_multiple_of(block) => {
            rows.div_ceil(quant::GROUP) as f64 * (cols / block) as f64 * bytes as f64
        }
        _ => 0.0,
    }
}

/// Packs `rows` rows at `src` (file layout) into the groups that start at `dst`; false where a value is
/// NaN or infinite.
#[wasm_bindgen]
pub fn pack(kind: u32, src: usize, rows: usize, cols: usize, dst: usize) -> bool {
    // SAFETY: the caller allocated both by the sizes that `packed_bytes` and the type table give.
    unsafe {
        linear::pack(kind, src as *const u8, rows, cols, dst as *mut u8);
        linear::all_finite(kind, dst as *const u8, rows, cols)
    }
}

/// The number of the form in which this processor multiplies a type fastest; the type's own for most.
#[wasm_bindgen]
pub fn kernel_kind(kind: u32) -> u32 {
    match (kind, dot::read_of_bytes()) {
        (8, dot::ReadOfBytes::Unsigned) => 1008,
        _ => kind,
    }
}

/// Forms of activations (a bit set) that a type reads at this precision.
#[wasm_bindgen]
pub fn activation_forms(kind: u32, precision: u32) -> u32 {
    linear::forms(kind, precision_of(precision))
}

/// Bytes of one row of activations in these forms.
#[wasm_bindgen]
pub fn activation_bytes(cols: usize, forms: u32, precision: u32) -> usize {
    activations::Layout::new(cols, forms, precision_of(precision)).bytes
}

/// Bytes of scratch that each thread needs for matrices up to this width, for the experts of a step with
/// `pairs` choices among `experts`, and for cached rows of up to `cached` numbers (a head's keys or
/// values, or a latent with its key).
#[wasm_bindgen]
pub fn scratch_bytes(cols: usize, pairs: usize, experts: usize, cached: usize) -> usize {
    plan::scratch_bytes(cols, pairs, experts, cached)
}

/// Bytes of scratch that each thread needs for the products of a backward pass, and for the attention of
/// sequences of up to `rows` rows where `group` heads read the same keys.
#[wasm_bindgen]
pub fn training_scratch_bytes(group: usize, rows: usize) -> usize {
    4 * training::attention::scratch_floats(group, rows)
}

fn precision_of(precision: u32) -> activations::Precision {
    match precision {
        0 => activations::Precision::Q8,
        1 => activations::Precision::Q16,
        _ => activations::Precision::F32,
    }
}

/// Writes the description of a packed matrix to 16 bytes at `at`.
#[wasm_bindgen]
pub fn describe_weight(at: usize, kind: u32, rows: u32, cols: u32, data: usize) {
    let weight = Weight {
        kind,
        rows,
        cols,
        data: data as *const u8,
    };
    // SAFETY: `at` was allocated for this.
    unsafe { (at as *mut Weight).write(weight) }
}

/// Writes what decides the bits of results on this machine to `probe_words` words at `at`.
#[wasm_bindgen]
pub fn probe(at: usize) {
    // SAFETY: `at` was allocated for this.
    unsafe { probe::probe(at as *mut u32) }
}

/// Words that `probe` writes.
#[wasm_bindgen]
pub fn probe_words() -> usize {
    probe::WORDS
}

/// Makes the context that threads share; returns its address.
#[wasm_bindgen]
pub fn create_context() -> usize {
    let at = allocate(core::mem::size_of::<Context>());
    // SAFETY: freshly allocated, aligned to 64.
    unsafe { (at as *mut Context).write(Context::new()) }
    at
}

/// Gives each thread `bytes` of scratch from `at` on. No plan may be running.
#[wasm_bindgen]
pub fn set_scratch(context: usize, at: usize, bytes: u32) {
    // SAFETY: made by `create_context`; the other threads read it after the next `advance`.
    unsafe {
        let shared = context as *mut Context;
        (*shared).scratch = at as *mut u8;
        (*shared).scratch_bytes = bytes;
    }
}

/// Sets how many streams decode kernels read side by side, 1, 2 or 4; results are the same. No plan may be
/// running.
#[wasm_bindgen]
pub fn set_streams(context: usize, streams: u32) {
    // SAFETY: made by `create_context`; the other threads read it after the next `advance`.
    unsafe { (*(context as *mut Context)).streams = streams }
}

/// Runs a plan on the first `threads` threads, as thread 0; returns when it is done. The others then
/// leave `serve` with `next`, or wait on where that is `u32::MAX`.
#[wasm_bindgen]
pub fn run_plan(context: usize, plan: usize, ops: u32, threads: u32, next: u32) {
    // SAFETY: made by `create_context`; the other threads read it only after `start`.
    unsafe {
        let shared = context as *mut Context;
        (*shared).plan = plan as *const u32;
        (*shared).plan_ops = ops;
        (*shared).start(threads, next);
        plan::run(&*shared, plan as *const u32, ops, 0);
    }
}

/// Threads that have joined so far, besides the one that runs plans.
#[wasm_bindgen]
pub fn joined(context: usize) -> u32 {
    // SAFETY: made by `create_context`.
    unsafe { (*(context as *const Context)).joined() }
}

/// Joins the threads of a backend, in its first memory; returns the thread's number.
#[wasm_bindgen]
pub fn join(context: usize) -> u32 {
    // SAFETY: made by `create_context`.
    unsafe { (*(context as *const Context)).join() }
}

/// Runs every plan that `run_plan` starts in this memory from then on, until the threads are sent
/// elsewhere; returns where.
#[wasm_bindgen]
pub fn serve(context: usize, thread: u32) -> u32 {
    // SAFETY: made by `create_context`.
    let context = unsafe { &*(context as *const Context) };
    context.serve(thread, || {
        // SAFETY: the plan stays as it is until all threads have passed its last barrier.
        unsafe { plan::run(context, context.plan, context.plan_ops, thread) };
    })
}

/// Says that the calling thread has trapped in `serve`, so that the others don't wait for it.
#[wasm_bindgen]
pub fn fail(context: usize) {
    // SAFETY: made by `create_context`.
    unsafe { (*(context as *const Context)).fail() }
}

/// Lets the threads in `serve` return with `code`.
#[wasm_bindgen]
pub fn dismiss(context: usize, code: u32) {
    // SAFETY: made by `create_context`; no plan is running.
    unsafe { (*(context as *mut Context)).dismiss(code) }
}
