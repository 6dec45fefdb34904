/** Chooses a sequence's tokens: edits of the logits, filters, then the sequence's own generator. */

import type { Candidates } from "./candidates.ts";
import { drawSeed, type RandomBits, Xoshiro128 } from "./random.ts";
import { createRule, editedLogit, type SamplingRule, SEEN } from "./rule.ts";
import type { SamplingParams } from "./types.ts";
import { settled } from "./weights.ts";

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
  readonly rule: SamplingRule;
  /** By token id, of those that have one. */
  readonly biases: ReadonlyMap<number, number>;
  /** Tokens of the prompt. */
  readonly promptTokens: number;
  readonly #candidates: Candidates;
  readonly #random: Xoshiro128;
  /** By token id: SEEN, and occurrences in the answer. */
  readonly #tallies = new Map<number, number>();
  #taken = 0;

  constructor({ params, prompt, candidates }: SamplerOptions) {
    this.rule = createRule(params);
    this.promptTokens = prompt.length;
    this.#candidates = candidates;
    this.#random = new Xoshiro128(params.seed ?? drawSeed());
    const biases = new Map<number, number>();
    for (const [token, bias] of params.logitBias) {
      biases.set(token, settled((biases.get(token) ?? 0) + bias));
    }
    this.biases = biases;
    if (params.repetitionPenalty !== 1) {
      for (const token of prompt) {
        this.#tallies.set(token, SEEN);
      }
    }
  }

  /** Whether it always takes the token with the largest logit, the lowest id of equals. */
  get isGreedy(): boolean {
    return !this.rule.edits && !this.rule.draws;
  }

  /** By token id, of those that occurred: SEEN and how often in the answer. Kept where logits are edited. */
  get tallies(): ReadonlyMap<number, number> {
    return this.#tallies;
  }

  /** Tokens chosen so far. */
  get taken(): number {
    return this.#taken;
  }

  /**
   * Chooses the next token and remembers it. Overwrites `logits`, `[vocabSize]`. Throws FormatError
   * where a logit is NaN or infinite, RequestError where the bias leaves no token.
   */
  sample(logits: Float32Array): number {
    const candidates = this.#candidates;
    const rawBest = candidates.load(logits);
    if (this.rule.edits) this.#edit(logits);
    const best = this.rule.edits ? candidates.best() : rawBest;
    const { rule } = this;
    const token = rule.draws
      ? candidates.choose({ best, rule, bits: this.bitsFrom(this.#taken, 1)[0] })
      : best;
    this.take(token);
    return token;
  }

  /** Remembers a token that somebody else has chosen by the rule with the next of the draws. */
  take(token: number): void {
    this.#taken++;
    if (this.rule.draws) this.#random.draw();
    if (this.rule.edits) {
      this.#tallies.set(token, ((this.#tallies.get(token) ?? 0) | SEEN) + 1);
    }
  }

  /** What the answer's tokens from the `first` one on are drawn with; none of them may be taken already. */
  bitsFrom(first: number, count: number): RandomBits[] {
    return this.#random.peek({ skip: first - this.#taken, count });
  }

  #edit(logits: Float32Array): void {
    const { rule, biases } = this;
    for (const [token, tally] of this.#tallies) {
      const bias = biases.get(token) ?? 0;
      logits[token] = editedLogit(logits[token], { rule, tally, bias });
    }
    for (const [token, bias] of biases) {
      if (this.#tallies.has(token)) continue;
      logits[token] = editedLogit(logits[token], { rule, tally: 0, bias });
    }
  }
}
