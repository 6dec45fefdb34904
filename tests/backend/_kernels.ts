/** The kernels that the suite of all backends has the GPU's compile, without a GPU. */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { declaredBy, outcomeOf } from "../support/declared.ts";
import { type Kernel, withNullGpu } from "../support/null_gpu.ts";
import { conformance, roundedOpsConformance } from "./conformance.ts";

/** What WebGPU demands of every adapter. */
export const LEAST_LIMITS = {
  maxStorageBuffersPerShaderStage: 8,
  maxStorageBufferBindingSize: 2 ** 27,
  maxBufferSize: 2 ** 28,
  maxComputeWorkgroupStorageSize: 16_384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
};

/** Kernels of all ops for every type, and of products with every kind of activations. */
export async function suiteKernels(): Promise<Kernel[]> {
  const suite = (activations: "f32" | "q16" | "q8") => ({
    name: activations,
    sparse: true,
    open: () => createWebGpuBackend({ activations }),
  });
  const tests = declaredBy(() => {
    conformance(suite("f32"));
    roundedOpsConformance(suite("q16"));
    roundedOpsConformance(suite("q8"));
  });
  return await withNullGpu(LEAST_LIMITS, async () => {
    // Nothing that is computed there is right.
    for (const test of tests.values()) await outcomeOf(test);
  });
}
