/** A recorded forward pass: pipelines and bind groups made once, encoded anew for each submission. */

import type { Plan } from "../backend.ts";
import { type Dispatch, type Kernels, packParams, spread } from "./kernel.ts";
import { type Work, workOf } from "./work.ts";

/** Uniform bindings start at multiples of this. */
const ALIGNMENT = 256;

/** A dispatch that is ready to be encoded. */
export interface Command {
  /** The kernel's. */
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly workgroups: readonly [x: number, y: number];
  /** What it reads and computes; null where that is not known. */
  readonly work: Work | null;
}

export class GpuPlan implements Plan {
  readonly length: number;
  readonly commands: readonly Command[];

  constructor(
    dispatches: readonly Dispatch[],
    { device, kernels, length }: { device: GPUDevice; kernels: Kernels; length: number },
  ) {
    this.length = length;
    const uniforms = uniformsOf(device, dispatches);
    this.commands = dispatches.map((dispatch, i) => {
      const pipeline = kernels.pipelineOf(dispatch);
      const { bindings, params } = dispatch;
      const entries: GPUBindGroupEntry[] = bindings.map(({ buffer, offset, size }, binding) => ({
        binding,
        resource: { buffer, offset, size },
      }));
      const size = packParams(params).byteLength;
      if (size > 0) {
        const resource = { buffer: uniforms, offset: i * ALIGNMENT, size };
        entries.push({ binding: bindings.length, resource });
      }
      const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      const workgroups = spread(dispatch.workgroups);
      return { label: dispatch.label, pipeline, group, workgroups, work: workOf(dispatch) };
    });
  }

  /** Adds the plan's dispatches to a pass. */
  encode(pass: GPUComputePassEncoder): void {
    for (const { pipeline, group, workgroups } of this.commands) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...workgroups);
    }
  }
}

/** Queues plans in one submission, as one pass. */
export function runPlans(plans: readonly GpuPlan[], device: GPUDevice): void {
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const plan of plans) plan.encode(pass);
  pass.end();
  device.queue.submit([encoder.finish()]);
}

/** All dispatches' parameters in one buffer. */
function uniformsOf(device: GPUDevice, dispatches: readonly Dispatch[]): GPUBuffer {
  const bytes = new Uint8Array(Math.max(1, dispatches.length) * ALIGNMENT);
  for (const [i, { params }] of dispatches.entries()) {
    bytes.set(new Uint8Array(packParams(params)), i * ALIGNMENT);
  }
  const buffer = device.createBuffer({
    label: "parameters",
    size: bytes.length,
    usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
  });
  // Mapping would throw where a device is lost and nobody knows yet; this is an event, as all else is.
  device.queue.writeBuffer(buffer, 0, bytes);
  return buffer;
}
