/** Whether tests of the GPU run here. */

import { findAdapter } from "../../src/backend/webgpu/device.ts";

/** Set to `software`, it lets a software adapter compile some thousand kernels, for a quarter of an hour. */
const VARIABLE = "SLUICE_GPU_TESTS";

const adapter = await findAdapter();

/** Why tests of the GPU are skipped; undefined where they run. */
export const GPU_SKIPPED: string | undefined = adapter === null
  ? "no adapter; a software one comes with mesa-vulkan-drivers"
  : adapter.info.isFallbackAdapter && Deno.env.get(VARIABLE) !== "software"
  ? `a software adapter only, which takes a quarter of an hour: ${VARIABLE}=software`
  : undefined;

/** Put behind the names of tests that are ignored for it. */
export const SKIP_NOTE = GPU_SKIPPED === undefined ? "" : ` (skipped: ${GPU_SKIPPED})`;

/** Whether kernels have numbers of type f16 here. */
export const HAS_HALVES = adapter?.features.has("shader-f16") ?? false;
