/* tslint:disable */
/* eslint-disable */

/**
 * Bytes of one row of activations in these forms.
 */
export function activation_bytes(cols: number, forms: number, precision: number): number;

/**
 * Forms of activations (a bit set) that a type reads at this precision.
 */
export function activation_forms(kind: number, precision: number): number;

/**
 * Allocates zeroed memory aligned to 64 bytes; 0 where there is none left.
 */
export function allocate(bytes: number): number;

/**
 * Makes the context that threads share; returns its address.
 */
export function create_context(): number;

/**
 * Writes the description of a packed matrix to 16 bytes at `at`.
 */
export function describe_weight(at: number, kind: number, rows: number, cols: number, data: number): void;

/**
 * Lets the threads in `serve` return with `code`.
 */
export function dismiss(context: number, code: number): void;

/**
 * Says that the calling thread has trapped in `serve`, so that the others don't wait for it.
 */
export function fail(context: number): void;

/**
 * Joins the threads of a backend, in its first memory; returns the thread's number.
 */
export function join(context: number): number;

/**
 * Threads that have joined so far, besides the one that runs plans.
 */
export function joined(context: number): number;

/**
 * The number of the form in which this processor multiplies a type fastest; the type's own for most.
 */
export function kernel_kind(kind: number): number;

/**
 * Packs `rows` rows at `src` (file layout) into the groups that start at `dst`; false where a value is
 * NaN or infinite.
 */
export function pack(kind: number, src: number, rows: number, cols: number, dst: number): boolean;

/**
 * Bytes of a packed matrix, or 0 where the type has no kernel or the width isn't whole blocks.
 */
export function packed_bytes(kind: number, rows: number, cols: number): number;

/**
 * Writes what decides the bits of results on this machine to `probe_words` words at `at`.
 */
export function probe(at: number): void;

/**
 * Words that `probe` writes.
 */
export function probe_words(): number;

/**
 * Runs a plan on the first `threads` threads, as thread 0; returns when it is done. The others then
 * leave `serve` with `next`, or wait on where that is `u32::MAX`.
 */
export function run_plan(context: number, plan: number, ops: number, threads: number, next: number): void;

/**
 * Bytes of scratch that each thread needs for matrices up to this width, for the experts of a step with
 * `pairs` choices among `experts`, and for cached rows of up to `cached` numbers (a head's keys or
 * values, or a latent with its key).
 */
export function scratch_bytes(cols: number, pairs: number, experts: number, cached: number): number;

/**
 * Runs every plan that `run_plan` starts in this memory from then on, until the threads are sent
 * elsewhere; returns where.
 */
export function serve(context: number, thread: number): number;

/**
 * Gives each thread `bytes` of scratch from `at` on. No plan may be running.
 */
export function set_scratch(context: number, at: number, bytes: number): void;

/**
 * Sets how many streams decode kernels read side by side, 1, 2 or 4; results are the same. No plan may be
 * running.
 */
export function set_streams(context: number, streams: number): void;

/**
 * Bytes of scratch that each thread needs for the products of a backward pass, and for the attention of
 * sequences of up to `rows` rows where `group` heads read the same keys.
 */
export function training_scratch_bytes(group: number, rows: number): number;

export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
    readonly activation_bytes: (a: number, b: number, c: number) => number;
    readonly activation_forms: (a: number, b: number) => number;
    readonly create_context: () => number;
    readonly describe_weight: (a: number, b: number, c: number, d: number, e: number) => void;
    readonly join: (a: number) => number;
    readonly joined: (a: number) => number;
    readonly pack: (a: number, b: number, c: number, d: number, e: number) => number;
    readonly packed_bytes: (a: number, b: number, c: number) => number;
    readonly probe_words: () => number;
    readonly run_plan: (a: number, b: number, c: number, d: number, e: number) => void;
    readonly scratch_bytes: (a: number, b: number, c: number, d: number) => number;
    readonly serve: (a: number, b: number) => number;
    readonly set_scratch: (a: number, b: number, c: number) => void;
    readonly set_streams: (a: number, b: number) => void;
    readonly training_scratch_bytes: (a: number, b: number) => number;
    readonly dismiss: (a: number, b: number) => void;
    readonly kernel_kind: (a: number) => number;
    readonly probe: (a: number) => void;
    readonly allocate: (a: number) => number;
    readonly fail: (a: number) => void;
    readonly __wbindgen_externrefs: WebAssembly.Table;
    readonly __wbindgen_thread_destroy: (a?: number, b?: number, c?: number) => void;
    readonly __wbindgen_start: (a: number) => void;
}

export type SyncInitInput = BufferSource | WebAssembly.Module;

/**
 * Instantiates the given `module`, which can either be bytes or
 * a precompiled `WebAssembly.Module`.
 *
 * @param {{ module: SyncInitInput, memory?: WebAssembly.Memory, thread_stack_size?: number }} module - Passing `SyncInitInput` directly is deprecated.
 * @param {WebAssembly.Memory} memory - Deprecated.
 *
 * @returns {InitOutput}
 */
export function initSync(module: { module: SyncInitInput, memory?: WebAssembly.Memory, thread_stack_size?: number } | SyncInitInput, memory?: WebAssembly.Memory): InitOutput;

/**
 * If `module_or_path` is {RequestInfo} or {URL}, makes a request and
 * for everything else, calls `WebAssembly.instantiate` directly.
 *
 * @param {{ module_or_path: InitInput | Promise<InitInput>, memory?: WebAssembly.Memory, thread_stack_size?: number }} module_or_path - Passing `InitInput` directly is deprecated.
 * @param {WebAssembly.Memory} memory - Deprecated.
 *
 * @returns {Promise<InitOutput>}
 */
export default function __wbg_init (module_or_path?: { module_or_path: InitInput | Promise<InitInput>, memory?: WebAssembly.Memory, thread_stack_size?: number } | InitInput | Promise<InitInput>, memory?: WebAssembly.Memory): Promise<InitOutput>;
