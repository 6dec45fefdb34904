/** The suite's products on the GPU, or on a software adapter; skipped where there is none. */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { roundedOpsConformance } from "./conformance.ts";
import { GPU_SKIPPED, GPU_SPARSE } from "../support/gpu.ts";

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  roundedOpsConformance({
    name: "webgpu",
    sparse: GPU_SPARSE,
    open: () => createWebGpuBackend(),
  });
}
