/** Finds a GPU and asks it for what large models need. */

import { CapacityError } from "../../errors.ts";

/** A device with what kernels must know about it. */
export interface Gpu {
  readonly device: GPUDevice;
  /** What the adapter calls itself, for people and for the names of cached state. */
  readonly adapter: string;
  /** A software adapter: right, but slower than the CPU's own kernels. */
  readonly software: boolean;
  /** Bytes of a buffer that a kernel can see at once. */
  readonly maxBinding: number;
  /** Whether WGSL has a product of four packed bytes. */
  readonly packedDot: boolean;
  /** Whether kernels may have numbers of type f16. */
  readonly halves: boolean;
}

/** Limits that are raised to whatever the adapter has. */
const RAISED = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
] as const;

export type GpuLimits = Readonly<Partial<Record<typeof RAISED[number], number>>>;

/** Features that are used where they are there. */
const WANTED = ["shader-f16", "subgroups", "timestamp-query"] as const;

const PACKED_DOT = "packed_4x8_integer_dot_product";

/** Bytes beyond which index arithmetic on 32-bit words of a binding is not tried. */
const LARGEST_BINDING = 2 ** 31 - 2 ** 16;

/** What WGSL has here beyond what every browser's has. Deno's types lack it. */
function languageFeatures(): ReadonlySet<string> {
  const { wgslLanguageFeatures } = navigator.gpu as { wgslLanguageFeatures?: ReadonlySet<string> };
  return wgslLanguageFeatures ?? new Set();
}

/** The adapter's name; null where there is no WebGPU or no adapter. Starts nothing. */
export async function findAdapter(): Promise<GPUAdapter | null> {
  const gpu = globalThis.navigator?.gpu;
  if (gpu === undefined) return null;
  return await gpu.requestAdapter({ powerPreference: "high-performance" });
}

/** What an adapter calls itself. */
export function nameOf({ info }: GPUAdapter): string {
  return info.description || info.device || info.vendor || "an adapter without a name";
}

/**
 * Opens a device, with the limits of a smaller adapter where some are given. Throws CapacityError where
 * there is no adapter, or it gives no device.
 */
export async function openGpu(limits: GpuLimits = {}): Promise<Gpu> {
  const adapter = await findAdapter();
  if (adapter === null) {
    throw new CapacityError(
      "cannot open the webgpu backend: no adapter is there, must be at least one",
    );
  }
  const requiredLimits: Record<string, number> = {};
  for (const name of RAISED) requiredLimits[name] = limits[name] ?? adapter.limits[name];
  const requiredFeatures = WANTED.filter((name) => adapter.features.has(name));
  try {
    const device = await adapter.requestDevice({ requiredLimits, requiredFeatures });
    const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
    return {
      device,
      adapter: nameOf(adapter),
      software: adapter.info.isFallbackAdapter,
      packedDot: languageFeatures().has(PACKED_DOT),
      halves: device.features.has("shader-f16"),
      maxBinding: Math.min(maxBufferSize, maxStorageBufferBindingSize, LARGEST_BINDING),
    };
  } catch (error) {
    throw new CapacityError(
      `cannot open the webgpu backend: ${nameOf(adapter)} gives no device (${
        (error as Error).message
      })`,
    );
  }
}
