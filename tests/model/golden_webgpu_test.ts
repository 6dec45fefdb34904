/** The recorded logits on the GPU, or a software adapter; skipped where there is none. */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { exactGoldenTests } from "./golden_suite.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`golden webgpu (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  exactGoldenTests({ name: "webgpu", open: () => createWebGpuBackend() });
}
