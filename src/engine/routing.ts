/** What gates chose: packed for those who asked for it, counted for the statistics. */

import type { ExpertTraffic } from "../backend/backend.ts";
import type { RoutedLayerInfo, RoutingStats, TokenRouting } from "./types.ts";

/** The choices of all rows of a step, one array a layer. */
export interface StepRouting {
  /** [rows, topK] each, the best first. */
  readonly experts: readonly Int32Array[];
  /** [rows, topK] each; null where nobody asked. */
  readonly weights: readonly Float32Array[] | null;
}

/** Choices of a token in all layers together. */
export function choicesOf(layers: readonly RoutedLayerInfo[]): number {
  return layers.reduce((sum, { topK }) => sum + topK, 0);
}

/** Collects the routing of up to `capacity` tokens, row by row. */
export class RoutingRows {
  readonly #layers: readonly RoutedLayerInfo[];
  readonly #choices: number;
  readonly #experts: Int32Array;
  readonly #weights: Float32Array;
  #rows = 0;

  constructor(layers: readonly RoutedLayerInfo[], capacity: number) {
    this.#layers = layers;
    this.#choices = choicesOf(layers);
    this.#experts = new Int32Array(capacity * this.#choices);
    this.#weights = new Float32Array(capacity * this.#choices);
  }

  /** Adds row `row` of a step whose weights were read. */
  push({ experts, weights }: StepRouting, row: number): void {
    let at = this.#rows++ * this.#choices;
    for (const [i, { topK }] of this.#layers.entries()) {
      this.#experts.set(experts[i].subarray(row * topK, (row + 1) * topK), at);
      this.#weights.set(weights![i].subarray(row * topK, (row + 1) * topK), at);
      at += topK;
    }
  }

  take(): TokenRouting {
    const length = this.#rows * this.#choices;
    return {
      experts: this.#experts.slice(0, length),
      weights: this.#weights.slice(0, length),
    };
  }
}

/** Counts how often each expert of each layer is chosen. */
export class RoutingCounter {
  readonly #layers: readonly RoutedLayerInfo[];
  /** Float64: a busy server makes 2^32 choices within weeks. */
  readonly #loads: readonly Float64Array[];
  #tokens = 0;

  constructor(layers: readonly RoutedLayerInfo[]) {
    this.#layers = layers;
    this.#loads = layers.map(({ experts }) => new Float64Array(experts));
  }

  add({ experts }: StepRouting, rows: number): void {
    this.#tokens += rows;
    for (const [i, ids] of experts.entries()) {
      const load = this.#loads[i];
      for (let j = 0; j < ids.length; j++) load[ids[j]]++;
    }
  }

  /** The loads as they are now, beside the traffic of each layer. */
  stats(
    { counting, traffic }: { counting: boolean; traffic: readonly ExpertTraffic[] },
  ): RoutingStats {
    const byLayer = new Map(traffic.map(({ layer, ...rest }) => [layer, rest]));
    return {
      counting,
      tokens: this.#tokens,
      layers: this.#layers.map((info, i) => ({
        ...info,
        load: Array.from(this.#loads[i]),
        traffic: byLayer.get(info.layer),
      })),
    };
  }
}

/** How evenly a layer's experts are used. */
export interface LoadSummary {
  /** The busiest expert's load over the mean; 1 is even. Null where nothing was chosen. */
  readonly maxOverMean: number | null;
  /** Of the distribution of choices, in bits: log2(experts) where it is even. Null as above. */
  readonly entropy: number | null;
  /** Experts that were never chosen. */
  readonly dead: number[];
}

export function summariseLoad(load: readonly number[]): LoadSummary {
  const sum = load.reduce((total, count) => total + count, 0);
  const dead = load.flatMap((count, expert) => count === 0 ? [expert] : []);
  if (sum === 0) return { maxOverMean: null, entropy: null, dead };
  let entropy = 0;
  for (const count of load) if (count > 0) entropy -= count / sum * Math.log2(count / sum);
  return { maxOverMean: Math.max(...load) * load.length / sum, entropy, dead };
}
