/** Opens a backend by name. */

import process from "node:process";
import { OptionError } from "../errors.ts";
import type { Faults } from "../faults.ts";
import { BANK_WEIGHT_BYTES } from "../experts/placement.ts";
import type { PolicyName } from "../experts/policy.ts";
import type { ActivationPrecision, Backend } from "./backend.ts";
import type { HybridPlacement } from "./hybrid/placement.ts";
import type { Profiler } from "./webgpu/profiler.ts";
import { type Budgets, refuseBudgets, RUNTIME_BYTES } from "./budget.ts";

/** A backend's name, or whichever suits the machine. */
export type BackendChoice = "auto" | "webgpu" | "hybrid" | "wasm" | "reference";

/** Routed experts are paged where `memoryBytes` is too little for the model as a whole. */
export interface CreateBackendOptions extends Budgets {
  readonly backend: BackendChoice;
  /** Threads of the wasm backend. */
  readonly threads: number;
  /** Those of the reference backend are float32. */
  readonly activations: ActivationPrecision;
  /** Bytes of the model's weights in its file; 0, the default, stands for less than a memory holds. */
  readonly weightBytes?: number;
  /** Which experts are kept. */
  readonly expertPolicy?: PolicyName;
  /** Fetch experts ahead always or never; by default as far as that is measured to pay. */
  readonly lookAhead?: boolean;
  /** Bytes that everything may take on a GPU; unlimited by default. */
  readonly gpuBytes?: number;
  /** Which experts lie on the GPU, for the hybrid backend. */
  readonly placement?: HybridPlacement;
  /** Times the GPU's kernels, for benchmarks. */
  readonly profiler?: Profiler;
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
  const { threads, activations, faults, gpuBytes, profiler } = options;
  const backend = options.backend === "auto" ? await chooseBackend(options) : options.backend;
  switch (backend) {
    case "reference": {
      refuseBudgets(backend, options);
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
    case "webgpu": {
      refuseBudgets(backend, options);
      const { createWebGpuBackend } = await import("./webgpu/mod.ts");
      return await createWebGpuBackend({ maxBytes: gpuBytes, activations, faults, profiler });
    }
    case "hybrid":
      return await openHybrid(options);
    default:
      throw new OptionError(
        `cannot open a backend: its name is ${JSON.stringify(backend)}, ` +
          "must be auto, webgpu, hybrid, wasm or reference",
      );
  }
}

/** The GPU and the WASM kernels as one. */
async function openHybrid(options: CreateBackendOptions): Promise<Backend> {
  const { threads, activations, faults, gpuBytes, profiler, placement } = options;
  if (placement === undefined) {
    throw new OptionError(
      "cannot open the hybrid backend: there is no plan of where experts lie, must be one, " +
        "as start, chat, generate and bench make it",
    );
  }
  const { createWebGpuBackend } = await import("./webgpu/mod.ts");
  const { createWasmBackend } = await import("./wasm/mod.ts");
  const { createHybridBackend } = await import("./hybrid/mod.ts");
  const device = await createWebGpuBackend({ maxBytes: gpuBytes, activations, faults, profiler });
  try {
    const kernels = { threads, activations, banks: banksFor(options), paging: pagingOf(options) };
    const host = await createWasmBackend({ ...kernels, faults, joinLate: true });
    return createHybridBackend({ device, host, placement });
  } catch (error) {
    device.close();
    throw error;
  }
}

/** What "auto" stands for: the GPU where there is one, and nothing is asked for that only WASM does. */
export async function chooseBackend(
  { memoryBytes, expertCacheBytes }: Budgets,
): Promise<"webgpu" | "wasm"> {
  if (memoryBytes !== undefined || expertCacheBytes !== undefined) return "wasm";
  const { findAdapter } = await import("./webgpu/device.ts");
  const adapter = await findAdapter();
  return adapter === null || adapter.info.isFallbackAdapter ? "wasm" : "webgpu";
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
