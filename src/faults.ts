/**
 * Faults on purpose, for tests of what follows them: `worker:7,grow:3` crashes a compute thread in the
 * seventh plan of the process and fails its third growth of a memory. Whoever could fail asks `faultDue`
 * before each call; without faults that is one comparison. `kv:slow:200` makes each call to the prefix
 * cache's database take 200 ms longer, `kv:gone` fails all of them.
 */

import { OptionError } from "./errors.ts";

/**
 * What can be made to fail, and what is counted to its n-th time:
 * - `worker`: a compute thread traps in the middle of a plan (the only thread where there is one);
 * - `vanish`: a compute thread stops in the middle of a plan and says nothing;
 * - `grow`: a memory of the WASM backend doesn't grow;
 * - `gpu`: the GPU is lost before a plan;
 * - `gpu:memory`: a buffer on the GPU is refused;
 * - `gpu:limit`: the device is asked for a buffer that is larger than its largest;
 * - `shader`: a kernel of the GPU doesn't compile;
 * - `kv`: a call to the prefix cache's database fails.
 */
export const FAULT_KINDS = [
  "worker",
  "vanish",
  "grow",
  "gpu",
  "gpu:memory",
  "gpu:limit",
  "shader",
  "kv",
] as const;
export type FaultKind = typeof FAULT_KINDS[number];

/** Plain data, so that it reaches workers in messages; all that hold it count together. */
export interface Faults {
  readonly list: readonly { readonly kind: FaultKind; readonly at: number }[];
  /** How often each kind could have failed so far, in the order of FAULT_KINDS. */
  readonly counts: Int32Array<SharedArrayBuffer>;
  /** Milliseconds that each call to the prefix cache's database takes longer. */
  readonly kvSlowMs: number;
  /** Every call to it fails. */
  readonly kvGone: boolean;
}

/** What `parseFaults` takes, to complete "must be". */
export const FAULTS_FORM = `a list such as worker:7,grow:3 of ${
  FAULT_KINDS.join(", ")
} with a number from 1 on, of kv:slow:MS and of kv:gone`;

/** The faults of a text; throws OptionError where it is none. */
export function parseFaults(text: string): Faults {
  const list: { kind: FaultKind; at: number }[] = [];
  let [kvSlowMs, kvGone] = [0, false];
  for (const entry of text.split(",").map((word) => word.trim())) {
    const [, word, number] = /^([a-z:]+):([1-9]\d{0,8})$/.exec(entry) ?? [];
    const kind = FAULT_KINDS.find((kind) => kind === word);
    if (kind !== undefined) list.push({ kind, at: Number(number) });
    else if (word === "kv:slow") kvSlowMs = Number(number);
    else if (entry === "kv:gone") kvGone = true;
    else {
      const shown = JSON.stringify(entry.slice(0, 60));
      throw new OptionError(`cannot inject faults: an entry is ${shown}, must be ${FAULTS_FORM}`);
    }
  }
  const counts = new Int32Array(new SharedArrayBuffer(4 * FAULT_KINDS.length));
  return { list, counts, kvSlowMs, kvGone };
}

/** Counts something that can fail; true where this time it is to. */
export function faultDue(faults: Faults | undefined, kind: FaultKind): boolean {
  if (faults === undefined) return false;
  const time = 1 + Atomics.add(faults.counts, FAULT_KINDS.indexOf(kind), 1);
  return faults.list.some((fault) => fault.kind === kind && fault.at === time);
}
