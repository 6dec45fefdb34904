/**
 * A kernel's WGSL with its bindings. The declarations are made from the bindings and parameters that a
 * dispatch is recorded with, so that they cannot disagree; equal text is compiled once.
 */

import { faultDue, type Faults } from "../../faults.ts";

/** A buffer as a kernel sees it. */
export interface Binding {
  /** Name in the kernel's code. */
  readonly name: string;
  readonly buffer: GPUBuffer;
  /** Its WGSL type, `array<f32>` by default. */
  readonly type?: string;
  readonly write?: boolean;
  /** Bytes; the whole buffer by default. */
  readonly offset?: number;
  readonly size?: number;
}

/** A number that differs between dispatches of one kernel: u32, or f32 where it is wrapped. */
export type Parameter = number | { readonly f32: number };

/** One dispatch. The code has an entry point `main` and may use `params.NAME`. */
export interface Dispatch {
  readonly label: string;
  readonly code: string;
  readonly bindings: readonly Binding[];
  readonly params: Readonly<Record<string, Parameter>>;
  /** Workgroups; spread over two dimensions where they are more than one takes, see `WORKGROUP`. */
  readonly workgroups: number;
  /** Whether the code has numbers of type f16, for which the device must have `shader-f16`. */
  readonly halves?: boolean;
}

/** Compiles kernels, each once. */
export class Kernels {
  readonly #device: GPUDevice;
  readonly #faults: Faults | undefined;
  readonly #pipelines = new Map<string, GPUComputePipeline>();

  constructor(device: GPUDevice, faults?: Faults) {
    this.#device = device;
    this.#faults = faults;
  }

  /** The pipeline of a dispatch, compiled now or before. Errors come through the device's events. */
  pipelineOf(dispatch: Dispatch): GPUComputePipeline {
    const code = sourceOf(dispatch);
    let pipeline = this.#pipelines.get(code);
    if (pipeline === undefined) {
      const broken = faultDue(this.#faults, "shader");
      pipeline = this.#compile(broken ? "a kernel fails on purpose" : code, dispatch);
      this.#pipelines.set(code, pipeline);
    }
    return pipeline;
  }

  #compile(code: string, { label, bindings, params }: Dispatch): GPUComputePipeline {
    const device = this.#device;
    const entries: GPUBindGroupLayoutEntry[] = bindings.map(({ write }, binding) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: write ? "storage" : "read-only-storage" },
    }));
    if (Object.keys(params).length > 0) {
      entries.push({
        binding: bindings.length,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: "uniform" },
      });
    }
    const layout = device.createPipelineLayout({
      bindGroupLayouts: [device.createBindGroupLayout({ entries })],
    });
    const module = device.createShaderModule({ label, code });
    return device.createComputePipeline({ label, layout, compute: { module, entryPoint: "main" } });
  }
}

/** A number as WGSL has it, of type f32 where it is no integer type's. */
export function f32Literal(value: number): string {
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}

/** Bytes of a dispatch's parameters. */
export function packParams(params: Dispatch["params"]): ArrayBuffer {
  const values = Object.values(params);
  const bytes = new ArrayBuffer(Math.ceil(values.length / 4) * 16);
  const view = new DataView(bytes);
  for (const [i, value] of values.entries()) {
    if (typeof value === "number") view.setUint32(i * 4, value, true);
    else view.setFloat32(i * 4, value.f32, true);
  }
  return bytes;
}

/** The whole text of a kernel. */
function sourceOf({ code, bindings, params, halves }: Dispatch): string {
  const lines = bindings.map(({ name, type = "array<f32>", write }, i) =>
    `@group(0) @binding(${i}) var<storage, ${write ? "read_write" : "read"}> ${name}: ${type};`
  );
  const fields = Object.entries(params);
  if (fields.length > 0) {
    const members = fields.map(([name, value]) =>
      `${name}: ${typeof value === "number" ? "u32" : "f32"}`
    );
    // Uniform structures are as long as a multiple of sixteen bytes.
    for (let i = fields.length; i % 4 !== 0; i++) members.push(`unused${i}: u32`);
    lines.push(
      `struct Params { ${members.join(", ")} }`,
      `@group(0) @binding(${bindings.length}) var<uniform> params: Params;`,
    );
  }
  // Extensions are enabled before anything else is said.
  if (halves) lines.unshift("enable f16;");
  return `${lines.join("\n")}\n${code}`;
}

/**
 * WGSL for the head of `main`: `workgroup` numbers the workgroup of a dispatch that may be spread over
 * two dimensions; those beyond the count return. The condition is the same for all of a workgroup.
 */
export const WORKGROUP = `let workgroup = wid.x + wid.y * nwg.x;`;

/** Parameters of `main` that WORKGROUP and most kernels read. */
export const BUILTINS = `@builtin(workgroup_id) wid: vec3<u32>, ` +
  `@builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) lane: u32`;

const MAX_PER_DIMENSION = 65535;

/** How many workgroups lie in each dimension; possibly a few more than asked for. */
export function spread(workgroups: number): [x: number, y: number] {
  const y = Math.ceil(workgroups / MAX_PER_DIMENSION);
  return [Math.ceil(workgroups / y), y];
}

/** Code repeated for each index, for loops that a kernel should not have. */
export function unrolled(count: number, text: (i: number) => string, between = "\n"): string {
  return Array.from({ length: count }, (_, i) => text(i)).join(between);
}
