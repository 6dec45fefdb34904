/** Loads the generated bindings of the Rust kernels: which build suits the machine, and instances. */

import process from "node:process";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

/** The bindings that wasm-pack generated. */
export type Kernels = typeof import("../../../wasm/relaxed/sluice_kernels.js");

export type Variant = "relaxed" | "simd";

/** Everything another thread needs to join. */
export interface SharedModule {
  readonly variant: Variant;
  /** Names the build by its content. */
  readonly build: string;
  readonly module: WebAssembly.Module;
  /** One for each bank. */
  readonly memories: readonly WebAssembly.Memory[];
}

/**
 * What `serve` returns when the backend closes; anything else is the bank to go on in. Not in thread.ts,
 * since whoever loads that becomes a compute thread.
 */
export const LEAVE = 0xfffffffe;

/** Pages of 64 KiB that a memory may have at most: 4 GiB. */
const MAX_PAGES = 65536;
const STACK_BYTES = 1 << 20;

/** A module of one function with one relaxed multiply-add; it validates where the feature exists. */
const RELAXED_PROBE = new Uint8Array([
  ...[0, 97, 115, 109, 1, 0, 0, 0], // magic, version
  ...[1, 8, 1, 96, 3, 123, 123, 123, 1, 123], // type: (v128, v128, v128) -> v128
  ...[3, 2, 1, 0], // one function of that type
  ...[10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11], // f32x4.relaxed_madd
]);

/** The build for this machine. */
export function chooseVariant(): Variant {
  return WebAssembly.validate(RELAXED_PROBE) ? "relaxed" : "simd";
}

/** Compiles the build and makes the shared memories, which take address space only. */
export async function loadModule(
  variant: Variant,
  options: { banks: number },
): Promise<SharedModule> {
  const url = new URL(`../../../wasm/${variant}/sluice_kernels_bg.wasm`, import.meta.url);
  const response = await fetch(url);
  const binary = await response.arrayBuffer();
  const module = await WebAssembly.compile(binary);
  const memories = Array.from(
    { length: options.banks },
    () => new WebAssembly.Memory({ initial: 32, maximum: MAX_PAGES, shared: true }),
  );
  return { variant, build: digest(new Uint8Array(binary)), module, memories };
}

/** See `Backend.numerics`: the kernels, what the machine leaves open, and the runtime's own functions. */
export function numericsOf(
  { variant, build }: SharedModule,
  { kernels, memory }: { kernels: Kernels; memory: WebAssembly.Memory },
): string {
  const words = kernels.probe_words();
  const at = kernels.allocate(words * 4);
  kernels.probe(at);
  const answers = new Uint8Array(memory.buffer, at, words * 4).slice();
  // Cosines and sines of positions are the runtime's.
  return `wasm ${variant} ${build} ${digest(answers)} ${process.versions.v8}`;
}

/** The first bytes of a SHA-256 as hexadecimal digits. */
function digest(bytes: Uint8Array): string {
  return bytesToHex(sha256(bytes)).slice(0, 16);
}

/** An instance over a bank's memory. The bindings keep one per loaded script, hence the query. */
export async function instantiate(shared: SharedModule, bank: number): Promise<Kernels> {
  const script = shared.variant === "relaxed"
    ? "../../../wasm/relaxed/sluice_kernels.js"
    : "../../../wasm/simd/sluice_kernels.js";
  const url = new URL(script, import.meta.url);
  url.search = `instance=${crypto.randomUUID()}`;
  const kernels: Kernels = await import(url.href);
  kernels.initSync({
    module: shared.module,
    memory: shared.memories[bank],
    thread_stack_size: STACK_BYTES,
  });
  return kernels;
}
