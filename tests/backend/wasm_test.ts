/**
 * The whole suite on the shipped kernels: both builds, on one thread and on two. Only linear,
 * gatedLinear, headLinear, experts and what converts their weights are told the precision of
 * activations, so only those are tested with each.
 */

import type { ActivationPrecision } from "../../src/backend/backend.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { conformance, roundedOpsConformance } from "./conformance.ts";
import type { Conformance } from "./_harness.ts";

function relaxed(activations: ActivationPrecision): Conformance {
  return {
    name: `wasm ${activations}`,
    open: () => createWasmBackend({ threads: 1, activations }),
    openTwin: () => createWasmBackend({ threads: 2, activations }),
  };
}

conformance(relaxed("q8"));
roundedOpsConformance(relaxed("q16"));
roundedOpsConformance(relaxed("f32"));

conformance({
  name: "wasm q8 without relaxed SIMD, 2 threads",
  open: () => createWasmBackend({ threads: 2, activations: "q8", variant: "simd" }),
  openTwin: () => createWasmBackend({ threads: 1, activations: "q8", variant: "simd" }),
});
