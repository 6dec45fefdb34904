/** Runs a plan of two backends: the device's stretches, and between them the host's part of each mixture. */

import { NO_EXPERT } from "../backend.ts";
import type { Sides } from "./experts.ts";
import type { HybridPlan, SplitMixture } from "./plan.ts";
import type { HybridCounts } from "./traffic.ts";

export interface RunOptions extends Sides {
  readonly counts: HybridCounts;
  /** Throws where the backend has been lost or closed while the plan waited. */
  readonly checkAlive: () => void;
}

/** Ends when everything has been handed to the device; it may still be computing then. */
export async function runPlan({ stretches }: HybridPlan, options: RunOptions): Promise<void> {
  const { device } = options;
  for (const { before, mixture } of stretches) {
    if (before !== null) device.submit(before);
    if (mixture !== null) await runMixture(mixture, options);
  }
}

async function runMixture(mixture: SplitMixture, options: RunOptions): Promise<void> {
  const { experts, rows, exchange, meanwhile } = mixture;
  const { device, host, counts, checkAlive } = options;
  // One wait for all three, and what is submitted next doesn't delay them.
  const reading = Promise.all([
    device.read(mixture.x, { rows, into: exchange.inputs }),
    device.readIntegers(mixture.expertIds, { rows }),
    device.read(mixture.weights, { rows }),
  ]);
  // Where the submission fails, nobody waits for them.
  reading.catch(() => {});
  if (meanwhile !== null) device.submit(meanwhile);
  const asked = performance.now();
  const [inputs, ids, weights] = await reading;
  counts.waitedMilliseconds += performance.now() - asked;
  checkAlive();
  const missing = ids.map((id) => experts.has(id) ? NO_EXPERT : id);
  const onHost = countExperts(missing);
  counts.mixtures += 1;
  counts.crossings += 1;
  counts.bytesFromDevice += inputs.byteLength + ids.byteLength + weights.byteLength;
  counts.onHost += onHost;
  counts.onDevice += countExperts(ids) - onHost;
  if (onHost === 0) return;
  const began = performance.now();
  const { x, expertIds, weights: factors, out } = exchange.host;
  host.write(x, inputs);
  host.write(expertIds, missing);
  host.write(factors, weights);
  host.write(out, exchange.nothing.subarray(0, inputs.length));
  host.submit(mixture.host);
  const sums = await host.read(out, { rows, into: exchange.outputs });
  counts.hostMilliseconds += performance.now() - began;
  checkAlive();
  device.write(exchange.sums, sums);
  device.submit(mixture.add);
  counts.crossings += 1;
  counts.bytesToDevice += sums.byteLength;
}

function countExperts(ids: Int32Array): number {
  return ids.reduce((count, id) => count + (id === NO_EXPERT ? 0 : 1), 0);
}
