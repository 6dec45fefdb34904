/**
 * Answers on a back end that chooses tokens by itself (`Backend.chooses`): some steps follow each other
 * without the host, which then reads what was chosen. What lies behind a token that ends an answer is
 * computed for nothing.
 */

import { type Buffer, CHOSEN_NONE, CHOSEN_NOT_FINITE, type Plan } from "../../backend/backend.ts";
import { Choosing } from "../../engine/choosing.ts";
import type { Evaluator } from "../../model/evaluate.ts";
import type { Model } from "../../model/types.ts";
import { noneLeft, notFinite } from "../../sampling/candidates.ts";
import type { TapeBackend } from "../tape/mod.ts";
import type { RolloutOptions, Running } from "./rollout.ts";

/** Tokens of an answer that are chosen without the host: many beside a wait, few beside an answer. */
const TURNS = 16;
/** Steps have one of so many numbers of rows, since each needs a recording of its own. */
const SHAPES = 8;

/** What is read of a step. */
interface Turn {
  readonly logProbs: Float32Array;
  readonly entropies: Float32Array;
  /** By gate, `[rows, topK]`. */
  readonly experts: readonly { readonly topK: number; readonly ids: Int32Array }[];
}

export class RolloutBursts {
  readonly #tape: TapeBackend;
  readonly #model: Model;
  readonly #evaluator: Evaluator;
  readonly #slots: number;
  readonly #choosing: Choosing;
  /** f32 [slots, vocabulary]: choosing leaves nothing of the logits. */
  readonly #logits: Buffer;
  readonly #ids: Buffer;
  readonly #logProbs: Buffer;
  readonly #entropies: Buffer;
  readonly #plans = new Map<string, Plan>();

  constructor(
    { tape, model, evaluator, slots }: {
      tape: TapeBackend;
      model: Model;
      evaluator: Evaluator;
      slots: number;
    },
  ) {
    const { inner } = tape;
    this.#tape = tape;
    this.#model = model;
    this.#evaluator = evaluator;
    this.#slots = slots;
    this.#ids = tape.located(evaluator.inputs.ids);
    const create = (width: number) => inner.createBuffer({ kind: "f32", rows: slots, width });
    this.#logits = create(model.logits.width);
    this.#logProbs = create(1);
    this.#entropies = create(1);
    this.#choosing = new Choosing({
      ...{ backend: inner, slots, turns: TURNS, ids: this.#ids },
      logits: tape.located(model.logits),
      sequences: tape.located(evaluator.inputs.batch.sequences),
    });
  }

  /**
   * Continues all open answers of a wave, which are equally long, by some tokens or to their end. Throws
   * FormatError where a logit is not finite.
   */
  async advance(wave: readonly Running[], options: RolloutOptions): Promise<void> {
    const open = wave.filter(({ ended }) => !ended);
    const turns = Math.min(TURNS, options.maxTokens - open[0].answer.length);
    const rows = this.#rowsOf(wave, open);
    const steps = rows.map(({ slot, prompt, answer }) => ({
      ...{ sequence: slot, slot, wantsLogits: true, token: answer.at(-1)! },
      position: prompt.length + answer.length - 1,
    }));
    const own = new Map(rows.map((running) => [running.slot, running]));
    const burst = {
      rows: Array.from({ length: turns }, () => steps).flat(),
      turns: Array.from(
        { length: turns },
        (_, turn) => steps.map((_, t) => turn * steps.length + t),
      ),
    };
    const samples = this.#choosing.prepare(burst, (slot) => own.get(slot)!.sampler);
    const slots = rows.map(({ slot }) => slot);
    const plan = this.#plan({ rows: rows.length, samples, options });
    const read: Promise<Turn>[] = [];
    for (let turn = 0; turn < turns; turn++) {
      this.#evaluator.submitNext(slots, turn === 0 ? steps.map(({ token }) => token) : undefined);
      this.#choosing.begin(turn);
      this.#tape.inner.submit(plan);
      // Copies what the step has left before the next one is submitted; nobody waits here.
      read.push(this.#read(rows.length, options));
    }
    const [chosen, ...done] = await Promise.all([this.#choosing.read(burst.turns), ...read]);
    for (const [turn, step] of done.entries()) {
      for (const [t, running] of open.entries()) {
        if (!running.ended) {
          take(running, { step, t, token: chosen[turn * rows.length + t], options });
        }
      }
    }
  }

  /** The open answers, then some that have ended, which are computed again from their beginning. */
  #rowsOf(wave: readonly Running[], open: readonly Running[]): Running[] {
    const step = Math.ceil(this.#slots / SHAPES);
    const count = Math.min(wave.length, Math.ceil(open.length / step) * step);
    const filling = wave.filter(({ ended }) => ended).slice(0, count - open.length);
    for (const { slot } of filling) this.#evaluator.truncate(slot, 0);
    return [...open, ...filling];
  }

  /** What follows the forward pass of a step. */
  #plan(
    { rows, samples, options: { scores = false, temperature } }: {
      rows: number;
      samples: boolean;
      options: RolloutOptions;
    },
  ): Plan {
    const shape = `${rows} ${samples} ${scores} ${temperature}`;
    let plan = this.#plans.get(shape);
    if (plan === undefined) {
      const choice = this.#choosing.params({ rows, samples });
      plan = this.#tape.inner.recordTraining((ops) => {
        if (scores) ops.copy({ from: choice.logits, to: this.#logits, rows });
        ops.choose(choice);
        if (!scores) return;
        ops.tokenLogProbs({
          ...{ logits: this.#logits, targets: this.#ids, temperature, rows },
          ...{ out: this.#logProbs, entropy: this.#entropies },
        });
      });
      this.#plans.set(shape, plan);
    }
    return plan;
  }

  async #read(
    rows: number,
    { scores = false, routing = false }: RolloutOptions,
  ): Promise<Turn> {
    const { inner } = this.#tape;
    const floats = (buffer: Buffer) =>
      scores ? inner.read(buffer, { rows }) : Promise.resolve(new Float32Array(0));
    const layers = routing ? this.#model.routedLayers : [];
    const [logProbs, entropies, ...chosen] = await Promise.all([
      floats(this.#logProbs),
      floats(this.#entropies),
      ...layers.map(({ expertIds }) => this.#tape.readIntegers(expertIds, { rows })),
    ]);
    const experts = layers.map(({ topK }, gate) => ({ topK, ids: chosen[gate] }));
    return { logProbs, entropies, experts };
  }
}

/** Appends what a step has chosen to the answer in row `t`. */
function take(
  running: Running,
  { step, t, token, options }: { step: Turn; t: number; token: number; options: RolloutOptions },
): void {
  if (token === CHOSEN_NOT_FINITE || token === CHOSEN_NONE) {
    throw token === CHOSEN_NONE ? noneLeft() : notFinite();
  }
  running.sampler.take(token);
  running.answer.push(token);
  running.ended = options.endTokens.includes(token);
  for (const [gate, { topK, ids }] of step.experts.entries()) {
    running.chosen[gate].push(...ids.subarray(t * topK, (t + 1) * topK));
  }
  if (options.scores !== true) return;
  running.logProbs.push(step.logProbs[t]);
  running.entropies.push(step.entropies[t]);
}
