/** Times each kernel of the plans that are submitted, by the GPU's own clock. For benchmarks. */

import { type Command, type GpuPlan, runPlans } from "./plan.ts";
import type { Work } from "./work.ts";

/** What a kernel has taken in all plans so far. */
export interface KernelTime {
  /** The kernel's label. */
  readonly label: string;
  readonly dispatches: number;
  readonly seconds: number;
  /** Of all dispatches together; null where it is not known of one. */
  readonly work: Work | null;
}

/** Queries that a set may have. */
const MOST_QUERIES = 4096;
/** A tick of a timestamp, in seconds. */
const TICK = 1e-9;

const NOTHING = { dispatches: 0, seconds: 0, work: { bytes: 0, operations: 0 } };

export class Profiler {
  /** Where it is not, plans run as they do without a profiler. */
  active = true;
  readonly #times = new Map<string, Omit<KernelTime, "label">>();
  #pending: Promise<void>[] = [];

  /**
   * Runs plans, each dispatch in a pass of its own, which costs some microseconds more than it would
   * alone. The device must have the feature `timestamp-query`.
   */
  run(plans: readonly GpuPlan[], device: GPUDevice): void {
    if (this.active) { for (const plan of plans) this.#runTimed(plan, device); }
    else runPlans(plans, device);
  }

  #runTimed({ commands }: GpuPlan, device: GPUDevice): void {
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
      this.#pending.push(
        this.#collect(staging, part).finally(() => {
          for (const item of [querySet, resolved, staging]) item.destroy();
        }),
      );
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

  async #collect(staging: GPUBuffer, commands: readonly Command[]): Promise<void> {
    await staging.mapAsync(GPUMapMode.READ);
    const ticks = new BigUint64Array(staging.getMappedRange().slice());
    for (const [i, { label, work }] of commands.entries()) {
      const { dispatches, seconds, work: sum } = this.#times.get(label) ?? NOTHING;
      this.#times.set(label, {
        dispatches: dispatches + 1,
        seconds: seconds + Number(ticks[2 * i + 1] - ticks[2 * i]) * TICK,
        work: sum && work && {
          bytes: sum.bytes + work.bytes,
          operations: sum.operations + work.operations,
        },
      });
    }
  }
}
