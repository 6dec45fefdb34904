/** Opens a backend by name. */

import { OptionError } from "../errors.ts";
import type { ActivationPrecision, Backend } from "./backend.ts";

export interface CreateBackendOptions {
  readonly backend: "wasm" | "reference";
  /** Ignored by the reference backend, which has one. */
  readonly threads: number;
  /** Ignored by the reference backend, whose activations are float32. */
  readonly activations: ActivationPrecision;
}

/** Loads the backend's code and starts it; throws OptionError for a name that is none. */
export async function createBackend(options: CreateBackendOptions): Promise<Backend> {
  const { backend, threads, activations } = options;
  switch (backend) {
    case "reference": {
      const { createReferenceBackend } = await import("./reference/mod.ts");
      return createReferenceBackend();
    }
    case "wasm": {
      const { createWasmBackend } = await import("./wasm/mod.ts");
      return await createWasmBackend({ threads, activations, joinLate: true });
    }
    default:
      throw new OptionError(
        `cannot open a backend: its name is ${JSON.stringify(backend)}, must be wasm or reference`,
      );
  }
}
