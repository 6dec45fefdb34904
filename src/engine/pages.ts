/** Which pages of the KV cache are free. */

import { PAGE_TOKENS } from "../backend/backend.ts";

/** Pages that hold `tokens` tokens. */
export function pagesFor(tokens: number): number {
  return Math.ceil(tokens / PAGE_TOKENS);
}

/** The free pages of a cache. */
export class PagePool {
  /** Pages of the cache, free or not. */
  readonly size: number;
  /** A stack: pages that were used last are used next, while they are warm. */
  readonly #free: number[];
  readonly #taken: Uint8Array;

  constructor(size: number) {
    this.size = size;
    this.#free = Array.from({ length: size }, (_, i) => size - 1 - i);
    this.#taken = new Uint8Array(size);
  }

  get free(): number {
    return this.#free.length;
  }

  /** Takes `count` pages, or none and returns null where fewer are free. */
  take(count: number): Int32Array | null {
    if (count > this.#free.length) return null;
    const pages = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      pages[i] = this.#free.pop()!;
      this.#taken[pages[i]] = 1;
    }
    return pages;
  }

  /** Gives back pages that `take` returned; throws RangeError for pages that are free. */
  giveBack(pages: ArrayLike<number>): void {
    for (let i = pages.length - 1; i >= 0; i--) {
      if (this.#taken[pages[i]] !== 1) {
        throw new RangeError(
          `cannot free a page of the KV cache: page ${pages[i]} is free, must be taken`,
        );
      }
      this.#taken[pages[i]] = 0;
      this.#free.push(pages[i]);
    }
  }
}
