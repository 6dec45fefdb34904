/** Times each kernel of the plans that are submitted, by the GPU's own clock. For benchmarks. */

import type { GpuPlan } from "./plan.ts";

/** What a kernel has taken in all plans so far. */
export interface KernelTime {
  /** The kernel's label. */
  readonly label: string;
  readonly dispatches: number;
  readonly seconds: number;
}

/** Queries that a set may have. */
const MOST_QUERIES = 4096;
/** A tick of a timestamp, in seconds. */
const TICK = 1e-9;

export class Profiler {
  readonly #times = new Map<string, { dispatches: number; seconds: number }>();
  #pending: Promise<void>[] = [];

  /**
   * Runs a plan with each dispatch in a pass of its own, which costs some microseconds more than it
   * would alone. The device must have the feature `timestamp-query`.
   */
  run(plan: GpuPlan, device: GPUDevice): void {
    const { commands } = plan;
    for (let first = 0; first < commands.length; first += MOST_QUERIES / 2) {
      const part = commands.slice(first, first + MOST_QUERIES / 2);
      const count = part.length * 2;
      const querySet = device.createQuerySet({ type: "timestamp", count });
      const create = (usage: number) => device.createBuffer({ size: count * 8, usage });
      const resolved = create(GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC);
      const staging = create(GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      const encoder = device.createCommandEncoder();
      for (const [i, { pipeline, group, workgroups }] of part.entries()) {
        const pass = encoder.beginComputePass({
          timestampWrites: {
            querySet,
            beginningOfPassWriteIndex: 2 * i,
            endOfPassWriteIndex: 2 * i + 1,
          },
        });
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...workgroups);
        pass.end();
      }
      encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, count * 8);
      device.queue.submit([encoder.finish()]);
      this.#pending.push(this.#collect(staging, part.map(({ label }) => label)));
    }
  }

  /** What has been taken since the last call, the longest first. */
  async take(): Promise<KernelTime[]> {
    await Promise.all(this.#pending);
    this.#pending = [];
    const times = [...this.#times].map(([label, time]) => ({ label, ...time }));
    this.#times.clear();
    return times.sort((a, b) => b.seconds - a.seconds);
  }

  async #collect(staging: GPUBuffer, labels: readonly string[]): Promise<void> {
    await staging.mapAsync(GPUMapMode.READ);
    const ticks = new BigUint64Array(staging.getMappedRange().slice());
    staging.destroy();
    for (const [i, label] of labels.entries()) {
      const time = this.#times.get(label) ?? { dispatches: 0, seconds: 0 };
      time.dispatches++;
      time.seconds += Number(ticks[2 * i + 1] - ticks[2 * i]) * TICK;
      this.#times.set(label, time);
    }
  }
}
