/** Opens a backend by name. */

import process from "node:process";
import { OptionError } from "../errors.ts";
import type { Faults } from "../faults.ts";
import { BANK_WEIGHT_BYTES } from "../experts/placement.ts";
import type { PolicyName } from "../experts/policy.ts";
import type { ActivationPrecision, Backend } from "./backend.ts";
import { type Budgets, refuseBudgets, RUNTIME_BYTES } from "./budget.ts";

/** Routed experts are paged where `memoryBytes` is too little for the model as a whole. */
export interface CreateBackendOptions extends Budgets {
  readonly backend: "wasm" | "reference";
  /** Ignored by the reference backend, which has one. */
  readonly threads: number;
  /** Ignored by the reference backend, whose activations are float32. */
  readonly activations: ActivationPrecision;
  /** Bytes of the model's weights in its file; 0, the default, stands for less than a memory holds. */
  readonly weightBytes?: number;
  /** Which experts are kept. */
  readonly expertPolicy?: PolicyName;
  /** Fetch experts ahead always or never; by default as far as that is measured to pay. */
  readonly lookAhead?: boolean;
  /** What is to fail on purpose, for tests. */
  readonly faults?: Faults;
}

/** Packed weights are at most so much larger than the file's, converted types aside. */
const GROWTH = 1.15;

/**
 * Loads the backend's code and starts it. Throws OptionError for a name that is none, and for a budget
 * of memory that the backend cannot keep to.
 */
export async function createBackend(options: CreateBackendOptions): Promise<Backend> {
  const { backend, threads, activations, faults } = options;
  switch (backend) {
    case "reference": {
      refuseBudgets(options);
      const { createReferenceBackend } = await import("./reference/mod.ts");
      return createReferenceBackend();
    }
    case "wasm": {
      const { createWasmBackend } = await import("./wasm/mod.ts");
      const paging = pagingOf(options);
      const banks = banksFor(options);
      return await createWasmBackend({
        ...{ threads, activations, banks, paging, faults },
        joinLate: true,
      });
    }
    default:
      throw new OptionError(
        `cannot open a backend: its name is ${JSON.stringify(backend)}, must be wasm or reference`,
      );
  }
}

/** Experts are paged where a budget asks for it and the model does not fit into it as a whole. */
function pagingOf(options: CreateBackendOptions) {
  const { weightBytes = 0, memoryBytes, expertCacheBytes: cacheBytes, lookAhead } = options;
  const fits = memoryBytes !== undefined &&
    weightBytes * GROWTH + RUNTIME_BYTES <= memoryBytes * 3 / 4;
  if (cacheBytes === undefined && (memoryBytes === undefined || fits)) return undefined;
  const processBytes = () => process.memoryUsage().rss;
  return { cacheBytes, memoryBytes, processBytes, policy: options.expertPolicy, lookAhead };
}

/** Memories that the model may need; unused ones cost address space only. */
function banksFor({ weightBytes = 0, memoryBytes = Infinity }: CreateBackendOptions): number {
  const bytes = Math.min(weightBytes * GROWTH, memoryBytes);
  return bytes <= BANK_WEIGHT_BYTES ? 1 : 1 + Math.ceil(bytes / BANK_WEIGHT_BYTES);
}
