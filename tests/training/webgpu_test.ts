import { createWebGpuTrainingBackend } from "../../src/backend/webgpu/training/mod.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";
import { trainingConformance } from "./conformance.ts";

trainingConformance({
  name: `webgpu${SKIP_NOTE}`,
  open: () => createWebGpuTrainingBackend(),
});
