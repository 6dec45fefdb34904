/** Chooses a sequence's tokens: the chain of processors, then the sequence's own generator. */

import type { Candidates } from "./candidates.ts";
import {
  createEdits,
  createFilters,
  type LogitsProcessor,
  type TokenHistory,
} from "./processors.ts";
import { drawSeed, type RandomSource, Xoshiro128 } from "./random.ts";
import type { SamplingParams } from "./types.ts";

export interface SamplerOptions {
  /** Validated parameters (`validateSampling`). */
  readonly params: SamplingParams;
  /** Tokens of the prompt, for the repetition penalty. */
  readonly prompt: readonly number[];
  /** Scratch, which sequences of one thread may share. */
  readonly candidates: Candidates;
}

/** The sampling state of one sequence: its generator and what its penalties count. */
export class Sampler {
  readonly #candidates: Candidates;
  readonly #edits: readonly LogitsProcessor[];
  readonly #filters: readonly LogitsProcessor[];
  readonly #random: RandomSource;
  readonly #seen: Set<number>;
  readonly #answerCounts = new Map<number, number>();
  readonly #history: TokenHistory;

  constructor({ params, prompt, candidates }: SamplerOptions) {
    this.#candidates = candidates;
    this.#edits = createEdits(params);
    this.#filters = createFilters(params);
    this.#random = new Xoshiro128(params.seed ?? drawSeed());
    this.#seen = new Set(params.repetitionPenalty === 1 ? [] : prompt);
    this.#history = { seen: this.#seen, answerCounts: this.#answerCounts };
  }

  /** Whether it always takes the token with the largest logit, the lowest id of equals. */
  get isGreedy(): boolean {
    return this.#edits.length === 0 && this.#filters.length === 0;
  }

  /**
   * Chooses the next token and remembers it. Overwrites `logits`, `[vocabSize]`. Throws FormatError
   * where a logit is NaN or infinite, RequestError where the bias leaves no token.
   */
  sample(logits: Float32Array): number {
    const token = this.#choose(logits);
    this.#seen.add(token);
    this.#answerCounts.set(token, (this.#answerCounts.get(token) ?? 0) + 1);
    return token;
  }

  #choose(logits: Float32Array): number {
    const candidates = this.#candidates;
    const rawBest = candidates.load(logits);
    for (const edit of this.#edits) edit.process(candidates, this.#history);
    if (this.#filters.length === 0) return this.#edits.length === 0 ? rawBest : candidates.best();
    for (const filter of this.#filters) filter.process(candidates, this.#history);
    return candidates.draw(this.#random.next());
  }
}
