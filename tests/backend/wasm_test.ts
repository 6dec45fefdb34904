/** The whole suite on the shipped kernels: every activation precision, on one thread and on two. */

import type { ActivationPrecision } from "../../src/backend/backend.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { conformance } from "./conformance.ts";

for (const activations of ["q8", "q16", "f32"] as const satisfies ActivationPrecision[]) {
  conformance({
    name: `wasm ${activations}`,
    open: () => createWasmBackend({ threads: 1, activations }),
    openTwin: () => createWasmBackend({ threads: 2, activations }),
  });
}

conformance({
  name: "wasm q8 without relaxed SIMD, 2 threads",
  open: () => createWasmBackend({ threads: 2, activations: "q8", variant: "simd" }),
  openTwin: () => createWasmBackend({ threads: 1, activations: "q8", variant: "simd" }),
});
