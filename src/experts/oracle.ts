/**
 * Belady's policy (1966): gives up the expert whose next use is farthest away, which needs the future
 * and so exists for recorded traces only. No policy has fewer misses, so it bounds them all.
 */

import type { EvictionPolicy, PolicySize } from "./policy.ts";

/** One layer of one step: the distinct experts that some row chose. */
export interface RoutingEvent {
  readonly prefill: boolean;
  /** Keys as in policy.ts, ascending. */
  readonly keys: Int32Array;
}

/**
 * Which hits the oracle makes as many as possible of. Decode's bound takes that prefill's reads cost
 * nothing: an expert that prefill will bring in anyway need not be kept till then.
 */
export type Goal = "all" | "decode" | "prefill";

export class Oracle implements EvictionPolicy {
  readonly #events: readonly RoutingEvent[];
  /** For each event, when each of its keys is next used by an event that counts; else infinity. */
  readonly #nextUses: readonly Float64Array[];
  /** The same by key, as of the present event. */
  readonly #next: Float64Array;
  readonly #residents = new Set<number>();
  #event = -1;

  /** `events` in the order in which they will be entered. */
  constructor(events: readonly RoutingEvent[], options: PolicySize & { readonly goal: Goal }) {
    const { layers, experts, goal } = options;
    this.#events = events;
    this.#next = new Float64Array(layers * experts).fill(Infinity);
    const coming = this.#next.slice();
    const nextUses: Float64Array[] = new Array(events.length);
    for (let i = events.length - 1; i >= 0; i--) {
      const { prefill, keys } = events[i];
      nextUses[i] = Float64Array.from(keys, (key) => coming[key]);
      const counts = goal === "all" || (goal === "prefill") === prefill;
      for (const key of keys) coming[key] = counts ? i : Infinity;
    }
    this.#nextUses = nextUses;
  }

  /** When the expert is next needed, in events from the trace's start; infinity where never. */
  nextUse(key: number): number {
    return this.#next[key];
  }

  beginStep(): void {}

  enterLayer(): void {
    const nextUses = this.#nextUses[++this.#event];
    this.#events[this.#event].keys.forEach((key, i) => this.#next[key] = nextUses[i]);
  }

  use(): void {}

  admit(key: number): void {
    this.#residents.add(key);
  }

  victim(pinned: (key: number) => boolean): number | undefined {
    let farthest: number | undefined;
    for (const key of this.#residents) {
      if (farthest !== undefined && this.#next[key] <= this.#next[farthest]) continue;
      if (!pinned(key)) farthest = key;
    }
    return farthest;
  }

  remove(key: number): void {
    this.#residents.delete(key);
  }
}
