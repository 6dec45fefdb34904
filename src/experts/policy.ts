/**
 * Which resident expert to give up when another one needs its place. A policy only keeps books: it
 * knows neither bytes nor files, so that a recorded trace replays through the same code that a live
 * store asks. Keys are `layerIndex * experts + expert`, layers counted among the routed ones.
 *
 * All policies keep prefill from washing out what decode uses: a prompt touches nearly every expert of
 * every layer once. What prefill brought in and decode has not used since is "cold" and goes first, the
 * layers just passed before the others, for the prompt's next chunk comes to them last. What prefill
 * finds resident keeps its standing.
 */

import { OptionError } from "../errors.ts";

export const POLICY_NAMES = ["lru", "lfu", "least-stale"] as const;

export type PolicyName = (typeof POLICY_NAMES)[number];

export interface EvictionPolicy {
  /** A new step (forward pass over some rows) begins. */
  beginStep(options: { prefill: boolean }): void;
  /** Layer index (among routed layers) whose experts are about to run. */
  enterLayer(layer: number): void;
  /** A resident expert was chosen: once a step and expert, after `admit` where it was missing. */
  use(key: number): void;
  /** An expert became resident, chosen or fetched ahead. */
  admit(key: number): void;
  /**
   * Which resident expert to give up; `pinned` ones may not be; undefined where all are pinned. Does
   * not remove it.
   */
  victim(pinned: (key: number) => boolean): number | undefined;
  /** An expert is no longer resident. */
  remove(key: number): void;
}

export interface PolicySize {
  readonly layers: number;
  /** Experts a layer. */
  readonly experts: number;
}

/** The one with the most hits on recorded traces at every budget; docs/moe.md has them. */
export const DEFAULT_POLICY: PolicyName = "lfu";

/**
 * Decode steps after which a use counts half as much for "lfu". On traces of a trained model's answers
 * 32 to 128 differ by 0.2 percentage points, 8 and 512 lose up to two.
 */
const LFU_HALF_LIFE = 64;

/** Added to the ranks of experts that are not cold; cold ones' stay below. */
const HOT = 2 ** 40;

/** A policy without residents. Throws OptionError for a name that is none. */
export function createPolicy(name: PolicyName, options: PolicySize): EvictionPolicy {
  switch (name) {
    case "lru":
      return new LeastRecentlyUsed(options);
    case "lfu":
      return new LeastFrequentlyUsed(options);
    case "least-stale":
      return new LeastStale(options);
    default:
      throw new OptionError(
        `cannot create an eviction policy: its name is ${JSON.stringify(name)}, must be one of ${
          POLICY_NAMES.join(", ")
        }`,
      );
  }
}

/** The residents, and a scan over their ranks: some microseconds a thousand, against a read from disk. */
abstract class RankedPolicy implements EvictionPolicy {
  protected readonly layers: number;
  protected readonly experts: number;
  protected prefill = false;
  /** Decode steps so far. */
  protected step = 0;
  protected layer = 0;
  /** 1 for residents that no decode step has used since prefill admitted them. */
  readonly #cold: Uint8Array;
  /** Residents in no order, `#count` of them. */
  readonly #keys: Int32Array;
  /** Where a key is in `#keys`; -1 for those that are not resident. */
  readonly #places: Int32Array;
  #count = 0;

  constructor({ layers, experts }: PolicySize) {
    this.layers = layers;
    this.experts = experts;
    this.#cold = new Uint8Array(layers * experts);
    this.#keys = new Int32Array(layers * experts);
    this.#places = new Int32Array(layers * experts).fill(-1);
  }

  beginStep({ prefill }: { prefill: boolean }): void {
    this.prefill = prefill;
    if (!prefill) this.step++;
  }

  enterLayer(layer: number): void {
    this.layer = layer;
  }

  use(key: number): void {
    if (this.prefill) return;
    this.#cold[key] = 0;
    this.touch(key);
  }

  admit(key: number): void {
    if (this.#places[key] >= 0) return;
    this.#places[key] = this.#count;
    this.#keys[this.#count++] = key;
    this.#cold[key] = this.prefill ? 1 : 0;
    this.arrive(key);
  }

  victim(pinned: (key: number) => boolean): number | undefined {
    let best: number | undefined;
    let lowest = Infinity;
    for (let i = 0; i < this.#count; i++) {
      const key = this.#keys[i];
      const rank = this.#cold[key] === 1 ? this.nearness(key) : HOT + this.rank(key);
      // Equals go by key, so that the choice does not depend on the order of arrival.
      const lower = rank < lowest || (rank === lowest && best !== undefined && key < best);
      if (!lower || pinned(key)) continue;
      best = key;
      lowest = rank;
    }
    return best;
  }

  remove(key: number): void {
    const place = this.#places[key];
    if (place < 0) return;
    const last = this.#keys[--this.#count];
    this.#keys[place] = last;
    this.#places[last] = place;
    this.#places[key] = -1;
  }

  protected layerOf(key: number): number {
    return Math.floor(key / this.experts);
  }

  /** 0 for an expert of the layer that runs now, whose next turn is the farthest; `layers - 1` before it. */
  protected nearness(key: number): number {
    return (this.layer - this.layerOf(key) + this.layers) % this.layers;
  }

  /** How much an expert is worth keeping, above -HOT; the lowest goes first. */
  protected abstract rank(key: number): number;

  /** Notes a use by decode. */
  protected abstract touch(key: number): void;

  /** Notes that an expert has become resident. */
  protected arrive(_key: number): void {}
}

/** The one whose last use is longest ago. */
class LeastRecentlyUsed extends RankedPolicy {
  readonly #uses: Float64Array;
  #clock = 0;

  constructor(size: PolicySize) {
    super(size);
    this.#uses = new Float64Array(size.layers * size.experts);
  }

  protected rank(key: number): number {
    return this.#uses[key];
  }

  protected touch(key: number): void {
    this.#uses[key] = ++this.#clock;
  }

  protected override arrive(key: number): void {
    this.#uses[key] = ++this.#clock;
  }
}

/**
 * The one that decode has used least, a use's weight halving every LFU_HALF_LIFE steps. Counts outlive
 * eviction: how often the gate chooses an expert does not depend on where it lies.
 */
class LeastFrequentlyUsed extends RankedPolicy {
  /** Decayed counts as of step `#counted`; the order of keys at any later step is found by decaying on. */
  readonly #counts: Float64Array;
  readonly #counted: Float64Array;

  constructor(size: PolicySize) {
    super(size);
    this.#counts = new Float64Array(size.layers * size.experts);
    this.#counted = new Float64Array(size.layers * size.experts);
  }

  protected rank(key: number): number {
    return this.#counts[key] * 2 ** ((this.#counted[key] - this.step) / LFU_HALF_LIFE);
  }

  protected touch(key: number): void {
    this.#counts[key] = this.rank(key) + 1;
    this.#counted[key] = this.step;
  }
}

/**
 * The one that its layer has passed over most often since it was last used; among equals the one whose
 * layer runs again last, that is, of the layers just passed.
 */
class LeastStale extends RankedPolicy {
  /** Decode runs of each layer, and the run in which a key was last used. */
  readonly #runs: Float64Array;
  readonly #used: Float64Array;

  constructor(size: PolicySize) {
    super(size);
    this.#runs = new Float64Array(size.layers);
    this.#used = new Float64Array(size.layers * size.experts);
  }

  override enterLayer(layer: number): void {
    super.enterLayer(layer);
    if (!this.prefill) this.#runs[layer]++;
  }

  protected rank(key: number): number {
    const stale = this.#runs[this.layerOf(key)] - this.#used[key];
    return this.nearness(key) - stale * this.layers;
  }

  protected touch(key: number): void {
    this.#used[key] = this.#runs[this.layerOf(key)];
  }

  protected override arrive(key: number): void {
    this.#used[key] = this.#runs[this.layerOf(key)];
  }
}
