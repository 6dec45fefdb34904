/**
 * Replays recorded routing against eviction policies, as a store would live through it: a layer's
 * distinct chosen experts are looked up, those that are there stay pinned while the layer runs, those
 * that are missing are read one after the other, each in a victim's place. Counts, no clock.
 *
 * Where fewer experts fit than a layer's rows chose together, the layer runs piece by piece: once
 * everything in memory is pinned, what the layer has already used may go.
 */

import { CapacityError } from "../errors.ts";
import { Oracle, type RoutingEvent } from "./oracle.ts";
import { createPolicy, type EvictionPolicy, type PolicyName } from "./policy.ts";
import type { Trace, TraceStep } from "./trace.ts";

/** Lookups of one phase: a chosen expert counts once a step and layer, however many rows chose it. */
export interface Tally {
  readonly hits: number;
  readonly misses: number;
  /** hits / (hits + misses); null where nothing was looked up. */
  readonly hitRate: number | null;
  /** Misses that the trace's `predicted` had foreseen, which reading ahead would have hidden. */
  readonly foreseen: number;
}

export interface ReplayResult {
  readonly decode: Tally;
  readonly prefill: Tally;
}

export interface ReplayOptions {
  readonly policy: PolicyName;
  /** Experts that fit in memory, of all layers together. */
  readonly residents: number;
}

/** The replayed part of a trace: its documents one after the other, with what stays in memory between. */
export interface ReplayTrace extends Pick<Trace, "layers" | "experts" | "documents"> {}

/** Runs the trace from an empty memory. Throws CapacityError for no residents. */
export function replay(trace: ReplayTrace, options: ReplayOptions): ReplayResult {
  const size = { layers: trace.layers.length, experts: trace.experts };
  const policy = createPolicy(options.policy, size);
  return run(trace, { policy, residents: options.residents });
}

/** The most hits that are possible, of decode and of prefill, each as if only they counted. */
export function replayOracle(trace: ReplayTrace, options: { residents: number }): ReplayResult {
  const size = { layers: trace.layers.length, experts: trace.experts };
  const events = routingEvents(trace);
  const best = (goal: "decode" | "prefill") => {
    const policy = new Oracle(events, { ...size, goal });
    return run(trace, { policy, residents: options.residents })[goal];
  };
  return { decode: best("decode"), prefill: best("prefill") };
}

/** The misses of all phases together at their fewest. */
export function fewestMisses(trace: ReplayTrace, options: { residents: number }): number {
  const size = { layers: trace.layers.length, experts: trace.experts };
  const policy = new Oracle(routingEvents(trace), { ...size, goal: "all" });
  const { decode, prefill } = run(trace, { policy, residents: options.residents });
  return decode.misses + prefill.misses;
}

function run(
  trace: ReplayTrace,
  options: { policy: EvictionPolicy; residents: number },
): ReplayResult {
  const { policy, residents } = options;
  if (!Number.isInteger(residents) || residents < 1) {
    throw new CapacityError(`cannot replay: the experts in memory are ${residents}, must be some`);
  }
  const memory = new Memory(policy, residents);
  const counts = { decode: new Count(), prefill: new Count() };
  for (const step of stepsOf(trace)) {
    policy.beginStep({ prefill: step.prefill });
    const count = step.prefill ? counts.prefill : counts.decode;
    for (let layer = 0; layer < trace.layers.length; layer++) {
      policy.enterLayer(layer);
      const keys = chosenKeys(step.experts[layer], layer * trace.experts);
      const missing = memory.run(keys);
      count.hits += keys.length - missing.length;
      count.misses += missing.length;
      const foreseen = step.predicted?.[layer];
      if (foreseen === undefined) continue;
      for (const key of missing) {
        if (foreseen.includes(key - layer * trace.experts)) count.foreseen++;
      }
    }
  }
  return { decode: counts.decode.tally(), prefill: counts.prefill.tally() };
}

class Count {
  hits = 0;
  misses = 0;
  foreseen = 0;

  tally(): Tally {
    const { hits, misses, foreseen } = this;
    return { hits, misses, hitRate: shareOf(hits, hits + misses), foreseen };
  }
}

/** The experts in memory, and what a layer does to them. */
class Memory {
  readonly #policy: EvictionPolicy;
  readonly #capacity: number;
  readonly #residents = new Set<number>();
  readonly #pinned = new Set<number>();

  constructor(policy: EvictionPolicy, capacity: number) {
    this.#policy = policy;
    this.#capacity = capacity;
  }

  /** Looks up a layer's chosen experts, brings in those that are missing and returns them. */
  run(keys: Int32Array): number[] {
    const policy = this.#policy;
    this.#pinned.clear();
    const missing: number[] = [];
    for (const key of keys) {
      if (!this.#residents.has(key)) missing.push(key);
      else {
        this.#pinned.add(key);
        policy.use(key);
      }
    }
    // What is read last stays whatever its worth; with that the soonest needed, the bound is one.
    if (policy instanceof Oracle) missing.sort((a, b) => byNextUse(policy, { a, b }));
    let whole = true;
    for (const key of missing) {
      if (this.#residents.size === this.#capacity) whole = this.#makeRoom() && whole;
      this.#residents.add(key);
      if (whole) this.#pinned.add(key);
      policy.admit(key);
      policy.use(key);
    }
    return missing;
  }

  /** Gives one expert up; false where it had to be one that the layer was to keep. */
  #makeRoom(): boolean {
    const free = this.#policy.victim((key) => this.#pinned.has(key));
    if (free === undefined) this.#pinned.clear();
    const victim = free ?? this.#policy.victim(() => false) as number;
    this.#residents.delete(victim);
    this.#policy.remove(victim);
    return free !== undefined;
  }
}

/** Orders keys by their next use, the latest first; never-used ones are equals. */
function byNextUse(oracle: Oracle, { a, b }: { a: number; b: number }): number {
  const [first, second] = [oracle.nextUse(a), oracle.nextUse(b)];
  return first === second ? a - b : first > second ? -1 : 1;
}

/** Distinct keys, ascending, of a layer whose expert 0 has the key `first`. */
function chosenKeys(ids: readonly number[], first: number): Int32Array {
  return Int32Array.from(new Set(ids), (id) => first + id).sort();
}

function* stepsOf(trace: ReplayTrace): Iterable<TraceStep> {
  for (const { steps } of trace.documents) yield* steps;
}

function routingEvents(trace: ReplayTrace): RoutingEvent[] {
  const events: RoutingEvent[] = [];
  for (const { prefill, experts } of stepsOf(trace)) {
    for (let layer = 0; layer < experts.length; layer++) {
      const keys = chosenKeys(experts[layer], layer * trace.experts);
      events.push({ prefill, keys });
    }
  }
  return events;
}

/** How good a trace's predictions were, over the layers for which there were any. */
export interface PredictionReport {
  /** Of the experts foreseen for a layer, the share that it chose; null without predictions. */
  readonly precision: number | null;
  /** Of the experts that a layer chose, the share that had been foreseen. */
  readonly recall: number | null;
}

/** Holds the predictions of decode or of prefill against what was chosen. */
export function evaluatePredictions(
  trace: ReplayTrace,
  options: { prefill: boolean },
): PredictionReport {
  let foreseen = 0;
  let chosen = 0;
  let right = 0;
  for (const { prefill, experts, predicted } of stepsOf(trace)) {
    if (prefill !== options.prefill || predicted === undefined) continue;
    for (const [layer, ids] of predicted.entries()) {
      if (ids.length === 0) continue;
      const actual = new Set(experts[layer]);
      const guessed = new Set(ids);
      foreseen += guessed.size;
      chosen += actual.size;
      right += actual.intersection(guessed).size;
    }
  }
  return { precision: shareOf(right, foreseen), recall: shareOf(right, chosen) };
}

function shareOf(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole;
}
