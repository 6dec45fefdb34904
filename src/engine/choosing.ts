/**
 * What a backend that chooses tokens by itself (`Backend.chooses`) chooses them by: keeps the buffers of
 * `Ops.choose` and brings to them what they lack of a sequence's sampler.
 */

import type { Backend, Buffer, ChooseParams } from "../backend/backend.ts";
import type { RandomBits } from "../sampling/random.ts";
import { RULE_WORDS, ruleWords, type SamplingRule } from "../sampling/rule.ts";
import type { StepRow } from "./schedule.ts";

/** What of a sequence's `Sampler` is read here. */
export interface Choices {
  readonly rule: SamplingRule;
  readonly isGreedy: boolean;
  readonly promptTokens: number;
  readonly tallies: ReadonlyMap<number, number>;
  readonly biases: ReadonlyMap<number, number>;
  /** What the answer's tokens from the `first` one on are drawn with. */
  bitsFrom(first: number, count: number): RandomBits[];
}

/** The steps of a burst, as indices of its rows (`turnsOf`). */
export type Turns = readonly (readonly number[])[];

export interface ChoosingOptions {
  readonly backend: Backend;
  readonly slots: number;
  /** Tokens of a sequence in one burst at most. */
  readonly turns: number;
  readonly logits: Buffer;
  /** What a step's rows are: i32 [rows, 1] each. */
  readonly ids: Buffer;
  readonly sequences: Buffer;
}

export class Choosing {
  readonly #options: ChoosingOptions;
  readonly #params: Omit<ChooseParams, "rows" | "sampling">;
  readonly #sampling: NonNullable<ChooseParams["sampling"]>;
  /** By slot: whose rule is there, and how many tokens of its answer the tallies there have counted. */
  readonly #known: ({ readonly choices: Choices; readonly tallied: number } | undefined)[];
  /** Of one slot, by token. */
  readonly #scratch: { readonly tallies: Int32Array; readonly biases: Float32Array };

  constructor(options: ChoosingOptions) {
    const { backend, slots, turns, logits, ids, sequences } = options;
    const { width: vocabSize } = logits;
    const integers = (rows: number, width: number) =>
      backend.createBuffer({ kind: "i32", rows, width });
    this.#options = options;
    this.#params = {
      ...{ logits, ids, sequences, stride: slots },
      latest: integers(slots, 1),
      history: integers(turns * slots, 1),
      turn: integers(1, 1),
    };
    this.#sampling = {
      rules: integers(slots, RULE_WORDS),
      draws: integers(turns * slots, 2),
      tallies: integers(slots * vocabSize, 1),
      biases: backend.createBuffer({ kind: "f32", rows: slots * vocabSize, width: 1 }),
    };
    this.#known = new Array(slots).fill(undefined);
    this.#scratch = { tallies: new Int32Array(vocabSize), biases: new Float32Array(vocabSize) };
  }

  /** The op's parameters for steps of so many rows; `samples` unless all of them are greedy. */
  params({ rows, samples }: { rows: number; samples: boolean }): ChooseParams {
    return { ...this.#params, rows, ...(samples && { sampling: this.#sampling }) };
  }

  /**
   * Brings what a burst's rows are chosen by, when those before it have been submitted and it has not.
   * Returns whether any of them is more than greedy.
   */
  prepare(
    { rows, turns }: { rows: readonly StepRow[]; turns: Turns },
    choicesOf: (sequence: number) => Choices,
  ): boolean {
    const first = turns[0].map((index) => rows[index]);
    const choices = first.map(({ sequence }) => choicesOf(sequence));
    if (choices.every(({ isGreedy }) => isGreedy)) return false;
    const { slots, backend } = this.#options;
    const draws = new Int32Array(turns.length * slots * 2);
    for (const [t, own] of choices.entries()) {
      const { slot, position } = first[t];
      const count = turns.filter(({ length }) => length > t).length;
      const before = position + 1 - own.promptTokens;
      this.#bring(slot, { choices: own, before, count });
      if (!own.rule.draws) continue;
      for (const [turn, { high, low }] of own.bitsFrom(before, count).entries()) {
        draws.set([high, low], (turn * slots + t) * 2);
      }
    }
    backend.write(this.#sampling.draws, draws);
    return true;
  }

  /** The next step is this turn of a burst. */
  begin(turn: number): void {
    this.#options.backend.write(this.#params.turn, Int32Array.of(turn));
  }

  /** What was chosen in the burst that was submitted last, by row; later bursts don't change it. */
  async read(turns: Turns): Promise<Int32Array> {
    const { backend, slots } = this.#options;
    const read = await backend.readIntegers(this.#params.history, { rows: turns.length * slots });
    const chosen = new Int32Array(turns.reduce((sum, { length }) => sum + length, 0));
    for (const [turn, indices] of turns.entries()) {
      for (const [t, index] of indices.entries()) chosen[index] = read[turn * slots + t];
    }
    return chosen;
  }

  /** A slot's rule, and its tallies and biases where that edits; `count` tokens follow the `before` ones. */
  #bring(
    slot: number,
    { choices, before, count }: { choices: Choices; before: number; count: number },
  ): void {
    const { backend, logits: { width: vocabSize } } = this.#options;
    const known = this.#known[slot];
    const isNew = known?.choices !== choices;
    if (isNew) backend.write(this.#sampling.rules, ruleWords(choices.rule), slot);
    if (choices.rule.edits) {
      const { tallies, biases } = this.#scratch;
      if (isNew) {
        biases.fill(0);
        for (const [token, bias] of choices.biases) biases[token] = bias;
        backend.write(this.#sampling.biases, biases, slot * vocabSize);
      }
      // Tokens of single steps are counted by the sampler alone.
      if (known?.choices !== choices || known.tallied !== before) {
        tallies.fill(0);
        for (const [token, tally] of choices.tallies) tallies[token] = tally;
        backend.write(this.#sampling.tallies, tallies, slot * vocabSize);
      }
    }
    this.#known[slot] = { choices, tallied: before + count };
  }
}
