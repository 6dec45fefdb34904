/* tslint:disable */
/* eslint-disable */
export const activation_bytes: (a: number, b: number, c: number) => number;
export const activation_forms: (a: number, b: number) => number;
export const create_context: () => number;
export const describe_weight: (a: number, b: number, c: number, d: number, e: number) => void;
export const join: (a: number) => number;
export const joined: (a: number) => number;
export const kernel_kind: (a: number) => number;
export const pack: (a: number, b: number, c: number, d: number, e: number) => number;
export const packed_bytes: (a: number, b: number, c: number) => number;
export const probe_words: () => number;
export const run_plan: (a: number, b: number, c: number, d: number, e: number) => void;
export const scratch_bytes: (a: number, b: number, c: number, d: number) => number;
export const serve: (a: number, b: number) => number;
export const set_scratch: (a: number, b: number, c: number) => void;
export const set_streams: (a: number, b: number) => void;
export const training_scratch_bytes: (a: number, b: number) => number;
export const dismiss: (a: number, b: number) => void;
export const probe: (a: number) => void;
export const allocate: (a: number) => number;
export const fail: (a: number) => void;
export const __wbindgen_externrefs: WebAssembly.Table;
export const __wbindgen_thread_destroy: (a?: number, b?: number, c?: number) => void;
export const __wbindgen_start: (a: number) => void;
