/**
 * Keeps the experts on a GPU those that are chosen now: recent choices, of which older ones count less,
 * and from them the few exchanges that are worth their upload. No clock, no backend.
 */

import type { HybridPlacement } from "../backend/hybrid/placement.ts";
import { choiceProbabilities, type LayerCounts } from "./routing_counts.ts";

/** An expert takes the place of another one of its layer. */
export interface ExpertMove {
  readonly layer: number;
  /** Which of the layer's places on the GPU. */
  readonly slot: number;
  /** Who lies there, and who shall. */
  readonly out: number;
  readonly in: number;
}

export interface RebalanceOptions {
  /** Recent choices of all routed layers. */
  readonly counts: readonly LayerCounts[];
  /** Experts a token. */
  readonly topK: number;
  /** Moves at once. */
  readonly most: number;
  /** How much likelier the one that comes must be chosen, as a share of an average expert's probability. */
  readonly hysteresis?: number;
}

/**
 * After the half-life of counts below, an average expert of 256 of which a token takes 8 has been counted
 * often enough that chance alone moves few by half of its probability.
 */
const HYSTERESIS = 0.5;

/** The moves that gain most, the best first; none where nothing gains enough. */
export function rebalance(
  placement: HybridPlacement,
  { counts, topK, most, hysteresis = HYSTERESIS }: RebalanceOptions,
): ExpertMove[] {
  const moves: (ExpertMove & { readonly gain: number })[] = [];
  for (const { layer, resident } of placement.layers) {
    const own = counts.find((counted) => counted.layer === layer)?.counts;
    if (own === undefined) continue;
    const experts = own.length;
    const probabilities = choiceProbabilities({ experts, topK, counts: own });
    const least = hysteresis * topK / experts;
    const here = new Set(resident);
    const coldest = [...resident.entries()]
      .sort(([, a], [, b]) => probabilities[a] - probabilities[b] || b - a);
    const hottest = Array.from(probabilities, (_, id) => id)
      .filter((id) => !here.has(id))
      .sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    for (let i = 0; i < Math.min(coldest.length, hottest.length); i++) {
      const [slot, out] = coldest[i];
      const gain = probabilities[hottest[i]] - probabilities[out];
      if (gain <= least) break;
      moves.push({ layer, slot, out, in: hottest[i], gain });
    }
  }
  moves.sort((a, b) => b.gain - a.gain || a.layer - b.layer || a.slot - b.slot);
  return moves.slice(0, most).map(({ gain: _gain, ...move }) => move);
}

/** The placement after some moves. */
export function moved(placement: HybridPlacement, moves: readonly ExpertMove[]): HybridPlacement {
  return {
    layers: placement.layers.map(({ layer, resident }) => {
      const next = [...resident];
      for (const move of moves) if (move.layer === layer) next[move.slot] = move.in;
      return { layer, resident: next };
    }),
  };
}

/** Tokens after which a choice counts half. */
const HALF_LIFE_TOKENS = 2048;

/** Counts choices; those of earlier tokens fade. */
export class RecentChoices {
  readonly #layers: readonly { readonly layer: number; readonly counts: Float64Array }[];
  /** What a choice adds now: growing instead of all that was counted shrinking. */
  #worth = 1;
  readonly #growth: number;

  constructor(
    layers: readonly { readonly layer: number; readonly experts: number }[],
    { halfLife = HALF_LIFE_TOKENS }: { halfLife?: number } = {},
  ) {
    this.#layers = layers.map(({ layer, experts }) => ({
      layer,
      counts: new Float64Array(experts),
    }));
    this.#growth = 2 ** (1 / halfLife);
  }

  /** Adds the choices of a step's rows, `[rows, topK]` ids a layer. */
  add(ids: readonly ArrayLike<number>[], rows: number): void {
    for (const [i, { counts }] of this.#layers.entries()) {
      for (let j = 0; j < ids[i].length; j++) counts[ids[i][j]] += this.#worth;
    }
    this.#worth *= this.#growth ** rows;
    if (this.#worth > 2 ** 500) this.#rescale();
  }

  /** The counts; a choice of the next token will count one. */
  counts(): LayerCounts[] {
    return this.#layers.map(({ layer, counts }) => ({
      layer,
      counts: counts.map((count) => count / this.#worth),
    }));
  }

  #rescale(): void {
    for (const { counts } of this.#layers) {
      for (let i = 0; i < counts.length; i++) counts[i] /= this.#worth;
    }
    this.#worth = 1;
  }
}
