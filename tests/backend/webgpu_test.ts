/** The whole suite on the GPU, or on a software adapter; skipped where there is none. */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { conformance } from "./conformance.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  conformance({ name: "webgpu", open: () => createWebGpuBackend() });
}
