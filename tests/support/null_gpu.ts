/**
 * A GPU that computes nothing: every number is zero. It keeps the kernels that it is asked to compile, so
 * that they can be looked at on machines without a GPU.
 */

export interface Kernel {
  readonly label: string;
  readonly code: string;
  /** Storage buffers that it sees. */
  readonly buffers: number;
}

/** Those of which kernels make use, so that what needs them is looked at. */
const FEATURES: ReadonlySet<string> = new Set(["shader-f16"]);

/** Runs `body` where this is the only GPU; gives the kernels that were compiled, each once. */
export async function withNullGpu(
  limits: Readonly<Record<string, number>>,
  body: () => Promise<void>,
): Promise<Kernel[]> {
  const kernels = new Map<string, Kernel>();
  const gpu = {
    wgslLanguageFeatures: new Set(["packed_4x8_integer_dot_product"]),
    requestAdapter: () =>
      Promise.resolve({
        limits,
        features: FEATURES,
        info: { description: "none", isFallbackAdapter: true },
        requestDevice: () => Promise.resolve(deviceOf(limits, kernels)),
      }),
  };
  Object.defineProperty(navigator, "gpu", { value: gpu, configurable: true });
  try {
    await body();
  } finally {
    // What lies behind it is the machine's own.
    Reflect.deleteProperty(navigator, "gpu");
  }
  return [...kernels.values()];
}

/** What the backend calls. */
function deviceOf(limits: Readonly<Record<string, number>>, kernels: Map<string, Kernel>) {
  const nothing = () => {};
  const pass = {
    setPipeline: nothing,
    setBindGroup: nothing,
    dispatchWorkgroups: nothing,
    end: nothing,
  };
  const encoder = {
    beginComputePass: () => pass,
    copyBufferToBuffer: nothing,
    finish: () => ({}),
  };
  return {
    limits,
    features: FEATURES,
    lost: new Promise(nothing),
    addEventListener: nothing,
    destroy: nothing,
    createBuffer: ({ size }: { size: number }) => ({
      size,
      mapAsync: () => Promise.resolve(),
      getMappedRange: () => new ArrayBuffer(size),
      unmap: nothing,
      destroy: nothing,
    }),
    createBindGroupLayout: ({ entries }: GPUBindGroupLayoutDescriptor) => entries,
    createPipelineLayout: ({ bindGroupLayouts }: { bindGroupLayouts: unknown[] }) =>
      bindGroupLayouts[0],
    createBindGroup: () => ({}),
    createShaderModule: (module: { label: string; code: string }) => module,
    createComputePipeline({ layout, compute: { module } }: {
      layout: readonly GPUBindGroupLayoutEntry[];
      compute: { module: { label: string; code: string } };
    }) {
      const buffers = layout.filter(({ buffer }) => buffer?.type !== "uniform").length;
      kernels.set(module.code, { ...module, buffers });
      return { getBindGroupLayout: () => layout };
    },
    createCommandEncoder: () => encoder,
    queue: {
      writeBuffer: nothing,
      submit: nothing,
      onSubmittedWorkDone: () => Promise.resolve(),
    },
  };
}
