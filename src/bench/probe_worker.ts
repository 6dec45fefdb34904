/** A thread that measures its ceilings when asked; see ceilings.ts. */

/// <reference lib="deno.worker" />

import type { ProbeRequest, ProbeResult } from "./ceilings.ts";
import { BYTES_PER_TURN, instantiateProbe, MACS_PER_TURN } from "./probe_module.ts";

const PAGE_BYTES = 65536;
/** Turns of the multiplying loop between two looks at the clock: some 10 ms. */
const TURNS = 6_000_000;

const scope = globalThis as unknown as DedicatedWorkerGlobalScope;

scope.onmessage = async ({ data: bytes }: MessageEvent<number>) => {
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE_BYTES) });
  // Pages never written are all one page of zeros, which stays in the cache.
  new Uint8Array(memory.buffer).fill(1);
  const probe = await instantiateProbe(memory);
  // Short calls first: the optimising compiler replaces a function between calls, not within one.
  for (let i = 0; i < 50; i++) {
    probe.read(Math.min(BYTES_PER_TURN * 10_000, bytes));
    probe.dot?.(10_000);
  }
  scope.onmessage = ({ data }: MessageEvent<ProbeRequest>) => {
    const { dot } = probe;
    const work = data.what === "read"
      ? () => (probe.read(bytes), bytes)
      : dot && (() => (dot(TURNS), TURNS * MACS_PER_TURN));
    scope.postMessage(work === undefined ? null : measure(work, data));
  };
  scope.postMessage(null);
};

/** Repeats `work`, which returns how much it did, from a given moment on for a given time. */
function measure(work: () => number, { startAt, milliseconds }: ProbeRequest): ProbeResult {
  while (performance.timeOrigin + performance.now() < startAt);
  const start = performance.now();
  let done = 0;
  let end = start;
  while (end - start < milliseconds) {
    done += work();
    end = performance.now();
  }
  return { perSecond: done / (end - start) * 1000 };
}
