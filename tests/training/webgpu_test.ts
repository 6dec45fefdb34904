/** Training on the GPU, or on a software adapter; skipped where there is none. */

import { createWebGpuTrainingBackend } from "../../src/backend/webgpu/training/mod.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";
import { trainingConformance } from "./conformance.ts";

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`training on webgpu (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  trainingConformance({ name: "webgpu", open: () => createWebGpuTrainingBackend() });
}
