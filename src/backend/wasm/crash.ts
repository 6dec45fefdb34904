/** Crashes of compute threads on purpose: in which plan, and of which thread. */

import { faultDue, type Faults } from "../../faults.ts";
import { OPCODES, type Segment } from "./plan.ts";

export interface Crash {
  readonly thread: number;
  /** The thread stops without a word instead of trapping. */
  readonly silent: boolean;
}

/** Says which plans are to lose a thread. */
export class CrashChoice {
  readonly #faults: Faults | undefined;
  readonly #threads: number;
  #due: "worker" | "vanish" | null = null;

  constructor(options: { readonly faults?: Faults; readonly threads: number }) {
    this.#faults = options.faults;
    this.#threads = options.threads;
  }

  /** To be asked once for each plan, with the threads that take part in it. */
  next(threads: number): Crash | null {
    for (const kind of ["worker", "vanish"] as const) {
      if (faultDue(this.#faults, kind)) this.#due = kind;
    }
    // Threads may come late; the plan that meets the fault is then the first one that has two.
    if (this.#due === null || (threads === 1 && this.#threads > 1)) return null;
    // A thread alone that stopped would be missed by nobody.
    const silent = this.#due === "vanish" && threads > 1;
    this.#due = null;
    return { thread: threads - 1, silent };
  }
}

/** The segment with a crash before the op in its middle. */
export function withCrash(segment: Segment, { thread, silent }: Crash): Segment {
  const { words, ops } = segment;
  let at = 0;
  for (let op = 0; op < ops >> 1; op++) at += words[at + 1];
  const crash = [OPCODES.fault, 4, thread, silent ? 1 : 0];
  const crashing = Uint32Array.of(...words.subarray(0, at), ...crash, ...words.subarray(at));
  return { ...segment, words: crashing, ops: ops + 1 };
}
