/**
 * Answers from a model that is being trained: many sequences side by side over the cache of keys and
 * values, on the trainer's back end and weights. Tokens are chosen by the engine's sampler; their
 * log-probabilities are computed by the trainer's own op, and so have the bits that the trainer finds.
 */

import type { Buffer, Plan } from "../../backend/backend.ts";
import { Evaluator, type LayerRouting } from "../../model/evaluate.ts";
import type { Model } from "../../model/types.ts";
import { Candidates } from "../../sampling/candidates.ts";
import { Sampler } from "../../sampling/sampler.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../sampling/types.ts";
import type { TapeBackend } from "../tape/mod.ts";
import { RolloutBursts } from "./rollout_bursts.ts";

export interface RolloutRequest {
  readonly prompt: readonly number[];
  /** Of the sequence's own generator. */
  readonly seed: number;
}

export interface RolloutOptions {
  /** 0 is greedy. */
  readonly temperature: number;
  readonly topP: number;
  /** Tokens of an answer at most. */
  readonly maxTokens: number;
  /** Tokens that end an answer, and belong to it. */
  readonly endTokens: readonly number[];
  /** Compute log-probabilities and entropies at this temperature. */
  readonly scores?: boolean;
  /** Keep the experts that the gates chose. */
  readonly routing?: boolean;
  readonly onProgress?: (done: number) => void;
}

export interface Rollout {
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
  /** False where it was cut off. */
  readonly ended: boolean;
  /** Of the answer's tokens; empty without `scores`. */
  readonly logProbs: readonly number[];
  readonly entropies: readonly number[];
  /** [gate][token * topK + rank] for all tokens that were read; empty without `routing`. */
  readonly chosen: readonly (readonly number[])[];
}

/** Tokens to score: `targets[t]` is what follows `inputs[t]`. */
export interface ScoreRequest {
  readonly inputs: readonly number[];
  readonly targets: readonly number[];
}

/** An answer that is being written. */
export interface Running {
  readonly slot: number;
  readonly prompt: readonly number[];
  readonly sampler: Sampler;
  readonly answer: number[];
  readonly logProbs: number[];
  readonly entropies: number[];
  readonly chosen: number[][];
  ended: boolean;
}

export interface RolloutShape {
  /** Sequences side by side. */
  readonly sequences: number;
  /** Tokens that a sequence may hold, prompt and answer. */
  readonly tokens: number;
  /** Rows of a step at most: what the model was loaded with. */
  readonly maxRows: number;
}

export class RolloutEngine {
  readonly shape: RolloutShape;
  readonly #tape: TapeBackend;
  readonly #model: Model;
  readonly #evaluator: Evaluator;
  readonly #candidates: Candidates;
  readonly #targets: Buffer;
  readonly #logProbs: Buffer;
  readonly #entropies: Buffer;
  readonly #scorePlans = new Map<string, Plan>();
  /** Null where the host chooses tokens. */
  readonly #bursts: RolloutBursts | null;

  constructor({ tape, model }: { tape: TapeBackend; model: Model }, shape: RolloutShape) {
    const { sequences, tokens, maxRows } = shape;
    this.shape = shape;
    this.#tape = tape;
    this.#model = model;
    this.#evaluator = new Evaluator({ model, backend: tape, maxRows, sequences, tokens });
    this.#candidates = new Candidates(model.config.vocabSize);
    const create = (kind: Buffer["kind"]) =>
      tape.inner.createBuffer({ kind, rows: maxRows, width: 1 });
    this.#targets = create("i32");
    this.#logProbs = create("f32");
    this.#entropies = create("f32");
    const evaluator = this.#evaluator;
    this.#bursts = tape.chooses
      ? new RolloutBursts({ tape, model, evaluator, slots: sequences })
      : null;
  }

  /** Answers all prompts, in their order. Throws FormatError where a logit is not finite. */
  async answer(
    requests: readonly RolloutRequest[],
    options: RolloutOptions,
  ): Promise<Rollout[]> {
    const rollouts: Rollout[] = [];
    const { sequences } = this.shape;
    for (let from = 0; from < requests.length; from += sequences) {
      rollouts.push(...await this.#wave(requests.slice(from, from + sequences), options));
      options.onProgress?.(rollouts.length);
    }
    return rollouts;
  }

  /** The log-probability of each target, sequence by sequence. */
  async score(
    requests: readonly ScoreRequest[],
    { temperature }: { temperature: number },
  ): Promise<number[][]> {
    const scores: number[][] = [];
    for (const group of this.#groups(requests.map(({ inputs }) => inputs.length))) {
      const entries = group.map((at, slot) => {
        this.#evaluator.truncate(slot, 0);
        return { sequence: slot, ids: requests[at].inputs };
      });
      await this.#evaluator.step(entries, { logits: "all" });
      const targets = group.flatMap((at) => requests[at].targets);
      const { logProbs } = await this.#score(targets, temperature);
      let from = 0;
      for (const at of group) {
        const to = from + requests[at].targets.length;
        scores.push(Array.from(logProbs.subarray(from, to)));
        from = to;
      }
    }
    return scores;
  }

  async #wave(
    requests: readonly RolloutRequest[],
    options: RolloutOptions,
  ): Promise<Rollout[]> {
    const all = requests.map((request, slot) => this.#start(request, { slot, options }));
    for (const group of this.#groups(all.map(({ prompt }) => prompt.length))) {
      await this.#step(group.map((at) => ({ running: all[at], ids: all[at].prompt })), options);
    }
    while (true) {
      const open = all.filter(({ ended, answer }) => !ended && answer.length < options.maxTokens);
      if (open.length === 0) break;
      if (this.#bursts !== null) {
        await this.#bursts.advance(all, options);
        continue;
      }
      await this.#step(
        open.map((running) => ({ running, ids: [running.answer.at(-1)!] })),
        options,
      );
    }
    return all;
  }

  #start(
    { prompt, seed }: RolloutRequest,
    { slot, options }: { slot: number; options: RolloutOptions },
  ): Running {
    this.#evaluator.truncate(slot, 0);
    const { temperature, topP } = options;
    const params: SamplingParams = { ...NEUTRAL_SAMPLING, temperature, topP, seed };
    const sampler = new Sampler({ params, prompt, candidates: this.#candidates });
    const chosen = options.routing === true ? this.#model.routedLayers.map((): number[] => []) : [];
    return {
      ...{ slot, prompt, sampler, chosen, ended: false },
      ...{ answer: [], logProbs: [], entropies: [] },
    };
  }

  async #step(
    entries: readonly { running: Running; ids: readonly number[] }[],
    options: RolloutOptions,
  ): Promise<void> {
    const { scores = false, routing = false, temperature, endTokens } = options;
    const logits = await this.#evaluator.step(
      entries.map(({ running, ids }) => ({ sequence: running.slot, ids })),
      { logits: "last" },
    );
    if (routing) keepRouting(entries, await this.#evaluator.routing());
    const tokens = entries.map(({ running }, i) => running.sampler.sample(logits[i]));
    const scored = scores ? await this.#score(tokens, temperature) : null;
    for (const [i, { running }] of entries.entries()) {
      running.answer.push(tokens[i]);
      running.ended = endTokens.includes(tokens[i]);
      if (scored === null) continue;
      running.logProbs.push(scored.logProbs[i]);
      running.entropies.push(scored.entropies[i]);
    }
  }

  /** Scores the targets of the logits that the last step left, row by row. */
  async #score(
    targets: readonly number[],
    temperature: number,
  ): Promise<{ logProbs: Float32Array; entropies: Float32Array }> {
    const { inner } = this.#tape;
    const rows = targets.length;
    inner.write(this.#targets, Int32Array.from(targets));
    const shape = `${rows} ${temperature}`;
    let plan = this.#scorePlans.get(shape);
    if (plan === undefined) {
      const logits = this.#tape.located(this.#model.logits);
      plan = inner.recordTraining((ops) =>
        ops.tokenLogProbs({
          ...{ logits, targets: this.#targets, temperature, rows },
          ...{ out: this.#logProbs, entropy: this.#entropies },
        })
      );
      this.#scorePlans.set(shape, plan);
    }
    inner.submit(plan);
    return {
      logProbs: await inner.read(this.#logProbs, { rows }),
      entropies: await inner.read(this.#entropies, { rows }),
    };
  }

  /** Neighbours that fit into a step together. */
  #groups(lengths: readonly number[]): number[][] {
    const groups: number[][] = [];
    let rows = Infinity;
    for (const [at, length] of lengths.entries()) {
      const full = rows + length > this.shape.maxRows ||
        groups.at(-1)?.length === this.shape.sequences;
      if (full) {
        groups.push([]);
        rows = 0;
      }
      groups.at(-1)!.push(at);
      rows += length;
    }
    return groups;
  }
}

function keepRouting(
  entries: readonly { running: Running; ids: readonly number[] }[],
  layers: readonly LayerRouting[],
): void {
  for (const [gate, { topK, experts }] of layers.entries()) {
    let from = 0;
    for (const { running, ids } of entries) {
      const to = from + ids.length * topK;
      running.chosen[gate].push(...experts.subarray(from, to));
      from = to;
    }
  }
}
