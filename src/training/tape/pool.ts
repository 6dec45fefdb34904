/** Buffers for values, used again by later values, and by later plans. */

import type { Buffer } from "../../backend/backend.ts";
import type { HalfBuffer, TrainingBackend } from "../../backend/training.ts";

interface Shape {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
}

export class BufferPool {
  readonly #backend: TrainingBackend;
  /** Free buffers by kind and width. */
  readonly #free = new Map<string, Buffer[]>();
  readonly #freeHalves = new Map<string, HalfBuffer[]>();

  constructor(backend: TrainingBackend) {
    this.#backend = backend;
  }

  /** A buffer of this width with so many rows or more; what it holds is left of others. */
  take({ kind, rows, width }: Shape): Buffer {
    const free = listIn(this.#free, `${kind} ${width}`);
    return takeFrom(free, rows) ?? this.#backend.createBuffer({ kind, rows, width });
  }

  takeHalf({ rows, width }: Omit<Shape, "kind">): HalfBuffer {
    const free = listIn(this.#freeHalves, `${width}`);
    return takeFrom(free, rows) ?? this.#backend.createHalfBuffer({ rows, width });
  }

  give(buffer: Buffer): void {
    listIn(this.#free, `${buffer.kind} ${buffer.width}`).push(buffer);
  }

  giveHalf(buffer: HalfBuffer): void {
    listIn(this.#freeHalves, `${buffer.width}`).push(buffer);
  }
}

function listIn<T>(lists: Map<string, T[]>, key: string): T[] {
  let list = lists.get(key);
  if (list === undefined) lists.set(key, list = []);
  return list;
}

/** Removes the smallest of those with enough rows. */
function takeFrom<T extends { readonly rows: number }>(free: T[], rows: number): T | undefined {
  let best = -1;
  for (const [i, candidate] of free.entries()) {
    if (candidate.rows < rows) continue;
    if (best < 0 || candidate.rows < free[best].rows) best = i;
  }
  return best < 0 ? undefined : free.splice(best, 1)[0];
}
