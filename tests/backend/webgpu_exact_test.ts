/** The suite's other ops on the GPU, in a file of their own that runs beside the products'. */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { exactOpsConformance } from "./conformance.ts";
import { GPU_SKIPPED, GPU_SPARSE } from "../support/gpu.ts";

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu, exact ops (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  exactOpsConformance({
    name: "webgpu",
    sparse: GPU_SPARSE,
    open: () => createWebGpuBackend(),
  });
}
