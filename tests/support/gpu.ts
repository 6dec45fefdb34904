/** Whether tests of the GPU run here, and how many of them. */

import { findAdapter } from "../../src/backend/webgpu/device.ts";

/**
 * What may be tried on a software adapter, which takes about a second to compile a kernel: with `software`
 * types and shapes in turn, with `all` each with each.
 */
const VARIABLE = "SLUICE_GPU_TESTS";

const adapter = await findAdapter();
const isSoftware = adapter?.info.isFallbackAdapter ?? false;
const allowed = Deno.env.get(VARIABLE);

/** Why nothing is tried on software adapters; undefined where they are asked for. */
export const SOFTWARE_SKIPPED: string | undefined = allowed === "software" || allowed === "all"
  ? undefined
  : `a software adapter only, which takes minutes: ${VARIABLE}=software, or =all`;

/** Why tests of the GPU are skipped; undefined where they run. */
export const GPU_SKIPPED: string | undefined = adapter === null
  ? "no adapter; a software one comes with mesa-vulkan-drivers"
  : isSoftware
  ? SOFTWARE_SKIPPED
  : undefined;

/** For `Conformance.sparse`. */
export const GPU_SPARSE: boolean = isSoftware && allowed !== "all";

/** Put behind the names of tests that are ignored for it. */
export const SKIP_NOTE = GPU_SKIPPED === undefined ? "" : ` (skipped: ${GPU_SKIPPED})`;

/** Whether kernels have numbers of type f16 here. */
export const HAS_HALVES = adapter?.features.has("shader-f16") ?? false;
