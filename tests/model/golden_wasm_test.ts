/** The recorded logits on the shipped kernels. */

import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { exactGoldenTests, roundedGoldenTests, twinGoldenTests } from "./golden_suite.ts";

for (const threads of [1, 2]) {
  exactGoldenTests({
    name: `wasm f32, ${threads} thread${threads === 1 ? "" : "s"}`,
    open: () => createWasmBackend({ threads, activations: "f32" }),
  });
}

// llama.cpp rounds activations to 8 bits too; the high and the low byte lose next to nothing.
roundedGoldenTests({
  name: "wasm q8, 2 threads",
  open: () => createWasmBackend({ threads: 2, activations: "q8" }),
  cases: "all models",
  includes: () => true,
  atMost: 1.2,
});
roundedGoldenTests({
  name: "wasm q16, 2 threads",
  open: () => createWasmBackend({ threads: 2, activations: "q16" }),
  cases: "dense models",
  includes: ({ mixture }) => !mixture,
  atMost: 0.05,
});

for (const activations of ["q8", "q16", "f32"] as const) {
  const on = (threads: number) => ({
    name: `wasm ${activations}, ${threads} thread${threads === 1 ? "" : "s"}`,
    open: () => createWasmBackend({ threads, activations }),
  });
  twinGoldenTests({ ...on(1), twin: on(2) });
}
