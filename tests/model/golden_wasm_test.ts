/** The recorded logits on the shipped kernels, on two threads and with the same bits on one. */

import type { ActivationPrecision } from "../../src/backend/backend.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { exactGoldenTests, roundedGoldenTests } from "./golden_suite.ts";

function on(threads: number, activations: ActivationPrecision) {
  return {
    name: `wasm ${activations}, ${threads} thread${threads === 1 ? "" : "s"}`,
    open: () => createWasmBackend({ threads, activations }),
  };
}

exactGoldenTests({ ...on(2, "f32"), twin: on(1, "f32") });

// llama.cpp rounds activations to 8 bits too; the high and the low byte lose next to nothing. A mixture
// may choose another expert at a near tie, so that single cases vary; the mean does not.
roundedGoldenTests({ ...on(2, "q8"), twin: on(1, "q8"), atMost: 1.2 });
roundedGoldenTests({ ...on(2, "q16"), twin: on(1, "q16"), atMost: 0.05 });
