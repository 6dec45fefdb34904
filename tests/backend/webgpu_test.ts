/** The whole suite on the GPU, or on a software adapter; skipped where there is none. */

import { findAdapter } from "../../src/backend/webgpu/device.ts";
import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { conformance } from "./conformance.ts";

if (await findAdapter() === null) {
  Deno.test.ignore(
    "webgpu: no adapter here (a software one comes with mesa-vulkan-drivers)",
    () => {},
  );
} else {
  conformance({ name: "webgpu", open: () => createWebGpuBackend() });
}
