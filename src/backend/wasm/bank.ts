/**
 * One WebAssembly memory with the kernels' instance of the thread that runs plans. A model larger than
 * a memory lies in several banks; an op runs in the bank that holds its weights.
 */

import type { ActivationPrecision } from "../backend.ts";
import type { Faults } from "../../faults.ts";
import { Arena } from "./arena.ts";
import type { Kernels } from "./kernels.ts";

/** Numbers of the precisions in plans. */
export const PRECISIONS: Record<ActivationPrecision, number> = { q8: 0, q16: 1, f32: 2 };

/** What scratch must suffice for. */
interface ScratchNeed {
  readonly cols?: number;
  /** Choices of experts in a step. */
  readonly pairs?: number;
  readonly experts?: number;
  /** Numbers of a cached row: a head's keys or values, or a latent with its key. */
  readonly cached?: number;
  /** Bytes that something else needs. */
  readonly bytes?: number;
}

/** Regions that ops share, each as large as the largest recorded op needs. */
export type Area =
  | "inputs"
  | "expert inputs"
  | "expert activations"
  | "gate logits"
  | "plan"
  // Those of training.
  | "norm factors"
  | "expert order"
  | "expert slopes"
  | "expert gradients"
  | "gate losses"
  | "update norms";

export class Bank {
  readonly index: number;
  readonly memory: WebAssembly.Memory;
  readonly kernels: Kernels;
  /** Address of what the threads share. */
  readonly context: number;
  readonly arena: Arena;
  readonly #threads: number;
  readonly #areas = new Map<Area, { address: number; bytes: number }>();
  #scratch = { cols: 1, pairs: 0, experts: 0, cached: 0, bytes: 0 };

  constructor(
    options: {
      index: number;
      memory: WebAssembly.Memory;
      kernels: Kernels;
      threads: number;
      faults?: Faults;
    },
  ) {
    this.index = options.index;
    this.memory = options.memory;
    this.kernels = options.kernels;
    this.#threads = options.threads;
    this.context = options.kernels.create_context();
    this.arena = new Arena(options.memory, options);
    this.reserveScratch({});
  }

  /** Address of a region of at least `bytes`, which any op may overwrite. */
  area(name: Area, bytes: number): number {
    const known = this.#areas.get(name);
    if (known !== undefined && known.bytes >= bytes) return known.address;
    const address = this.arena.allocate(bytes, name);
    this.#areas.set(name, { address, bytes });
    return address;
  }

  /** Makes each thread's scratch large enough. No plan may be running. */
  reserveScratch(need: ScratchNeed): void {
    const { cols, pairs, experts, cached, bytes } = this.#scratch;
    const wanted = {
      cols: Math.max(cols, need.cols ?? 0),
      pairs: Math.max(pairs, need.pairs ?? 0),
      experts: Math.max(experts, need.experts ?? 0),
      cached: Math.max(cached, need.cached ?? 0),
    };
    const needed = this.kernels.scratch_bytes(
      ...[wanted.cols, wanted.pairs, wanted.experts, wanted.cached] as const,
    );
    const each = Math.ceil(Math.max(needed, need.bytes ?? 0) / 64) * 64;
    if (each > bytes) {
      const address = this.arena.allocate(each * this.#threads, "scratch");
      this.kernels.set_scratch(this.context, address, each);
    }
    // Only now: where there is no memory, what was asked for must not pass for had.
    this.#scratch = { ...wanted, bytes: Math.max(bytes, each) };
  }
}
