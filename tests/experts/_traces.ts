/** Random routing with some habit in it: experts recur, as a real gate's do. */

import type { Trace, TraceStep } from "../../src/experts/trace.ts";
import { Xoshiro128 } from "../../src/sampling/random.ts";

export interface RandomTraceOptions {
  readonly seed: number;
  readonly layers: number;
  readonly experts: number;
  readonly topK: number;
  /** Documents, each of one prefill step and some of decode. */
  readonly documents: number;
  readonly decodeSteps: number;
  readonly prefillRows: number;
}

export function randomTrace(options: RandomTraceOptions): Trace {
  const { layers, experts, topK } = options;
  const random = new Xoshiro128(options.seed);
  const below = (bound: number) => Math.floor(random.next() * bound);
  /** Low ids are likelier than high ones. */
  const choose = () => {
    const ids = new Set<number>();
    while (ids.size < topK) ids.add(Math.min(below(experts), below(experts)));
    return [...ids];
  };
  const step = (rows: number, prefill: boolean): TraceStep => ({
    rows,
    prefill,
    experts: Array.from(
      { length: layers },
      () => Array.from({ length: rows }, choose).flat(),
    ),
  });
  return {
    model: { name: "random", fingerprint: "0" },
    layers: Array.from({ length: layers }, (_, i) => i + 1),
    experts,
    topK,
    documents: Array.from({ length: options.documents }, (_, i) => ({
      kind: i % 2 === 0 ? "even" : "odd",
      steps: [
        step(options.prefillRows, true),
        ...Array.from({ length: options.decodeSteps }, () => step(1, false)),
      ],
    })),
  };
}
