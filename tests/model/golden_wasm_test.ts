/** The recorded logits on the shipped kernels. */

import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { exactGoldenTests, roundedGoldenTests, twinGoldenTests } from "./golden_suite.ts";

for (const threads of [1, 2]) {
  exactGoldenTests({
    name: `wasm f32, ${threads} thread${threads === 1 ? "" : "s"}`,
    open: () => createWasmBackend({ threads, activations: "f32" }),
  });
}

// llama.cpp rounds activations to 8 bits too; the high and the low byte lose next to nothing. A mixture
// may choose another expert at a near tie, so that single cases vary; the mean does not.
for (
  const { activations, atMost } of [
    { activations: "q8", atMost: 1.2 },
    { activations: "q16", atMost: 0.05 },
  ] as const
) {
  roundedGoldenTests({
    name: `wasm ${activations}, 2 threads`,
    open: () => createWasmBackend({ threads: 2, activations }),
    atMost,
  });
}

for (const activations of ["q8", "q16", "f32"] as const) {
  const on = (threads: number) => ({
    name: `wasm ${activations}, ${threads} thread${threads === 1 ? "" : "s"}`,
    open: () => createWasmBackend({ threads, activations }),
  });
  twinGoldenTests({ ...on(1), twin: on(2) });
}
