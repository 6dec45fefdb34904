/** Loads the generated bindings of the Rust kernels: which build suits the machine, and instances. */

import { CapacityError } from "../../errors.ts";

/** The bindings that wasm-pack generated. */
export type Kernels = typeof import("../../../wasm/relaxed/sluice_kernels.js");

export type Variant = "relaxed" | "simd";

/** Everything another thread needs to join. */
export interface SharedModule {
  readonly variant: Variant;
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
}

const PAGE_BYTES = 65536;
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

/** Compiles the build and makes the shared memory. */
export async function loadModule(variant: Variant): Promise<SharedModule> {
  const url = new URL(`../../../wasm/${variant}/sluice_kernels_bg.wasm`, import.meta.url);
  const response = await fetch(url);
  const module = await WebAssembly.compile(await response.arrayBuffer());
  const memory = new WebAssembly.Memory({
    initial: 32,
    maximum: MAX_PAGES,
    shared: true,
  });
  return { variant, module, memory };
}

/** An instance over the shared memory. The bindings keep one per loaded script, hence the query. */
export async function instantiate(shared: SharedModule): Promise<Kernels> {
  const script = shared.variant === "relaxed"
    ? "../../../wasm/relaxed/sluice_kernels.js"
    : "../../../wasm/simd/sluice_kernels.js";
  const url = new URL(script, import.meta.url);
  url.search = `instance=${crypto.randomUUID()}`;
  const kernels: Kernels = await import(url.href);
  kernels.initSync({
    module: shared.module,
    memory: shared.memory,
    thread_stack_size: STACK_BYTES,
  });
  return kernels;
}

/** Hands out zeroed regions of the shared memory, 64-byte aligned; nothing is given back. */
export class Arena {
  readonly #memory: WebAssembly.Memory;
  #at = 0;
  #end = 0;
  #used = 0;

  constructor(memory: WebAssembly.Memory) {
    this.#memory = memory;
  }

  /** Bytes handed out. */
  get used(): number {
    return this.#used;
  }

  /** Address of `bytes` zeroed bytes for `purpose`; throws CapacityError beyond 4 GiB. */
  allocate(bytes: number, purpose: string): number {
    const size = Math.ceil(Math.max(bytes, 1) / 64) * 64;
    if (this.#at + size > this.#end) {
      const pages = Math.ceil(Math.max(size, 1 << 20) / PAGE_BYTES);
      let first: number;
      try {
        first = this.#memory.grow(pages);
      } catch {
        const held = this.#memory.buffer.byteLength;
        throw new CapacityError(
          `cannot allocate ${purpose}: ${size} bytes are asked for and ${held} held, ` +
            `must be at most ${MAX_PAGES * PAGE_BYTES} together`,
        );
      }
      // Whoever else grew the memory in between owns the pages between, so only adjoining ones merge.
      if (first * PAGE_BYTES !== this.#end) this.#at = first * PAGE_BYTES;
      this.#end = (first + pages) * PAGE_BYTES;
    }
    const at = this.#at;
    this.#at += size;
    this.#used += size;
    return at;
  }
}
