/** Hands out regions of a shared memory. */

import { CapacityError } from "../../errors.ts";
import { faultDue, type Faults } from "../../faults.ts";

const PAGE_BYTES = 65536;

/** What a WebAssembly memory can hold. */
export const MEMORY_BYTES = 65536 * PAGE_BYTES;

/** Hands out zeroed regions, 64-byte aligned; nothing is given back. */
export class Arena {
  readonly #memory: WebAssembly.Memory;
  readonly #faults: Faults | undefined;
  #at = 0;
  #end = 0;
  #used = 0;

  constructor(memory: WebAssembly.Memory, options: { readonly faults?: Faults } = {}) {
    this.#memory = memory;
    this.#faults = options.faults;
  }

  /** Bytes handed out. */
  get used(): number {
    return this.#used;
  }

  /** Bytes that may still be handed out. */
  get free(): number {
    return MEMORY_BYTES - this.#memory.buffer.byteLength + this.#end - this.#at;
  }

  /** Address of `bytes` zeroed bytes for `purpose`; throws CapacityError where they are not to be had. */
  allocate(bytes: number, purpose: string): number {
    const size = Math.ceil(Math.max(bytes, 1) / 64) * 64;
    if (this.#at + size > this.#end) {
      const pages = Math.ceil(Math.max(size, 1 << 20) / PAGE_BYTES);
      const held = this.#memory.buffer.byteLength;
      const first = held + size > MEMORY_BYTES ? undefined : this.#grow(pages);
      if (first === undefined) {
        throw new CapacityError(
          `cannot allocate ${purpose}: ${size} bytes are asked for and ${held} held, ` +
            `must be at most ${MEMORY_BYTES} together`,
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

  /** The first new page, or undefined where the runtime gives none. */
  #grow(pages: number): number | undefined {
    if (faultDue(this.#faults, "grow")) return undefined;
    try {
      return this.#memory.grow(pages);
    } catch {
      return undefined;
    }
  }
}
