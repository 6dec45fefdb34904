/** Answers on a trainer's weights, on both back ends that train on any machine. */

import { assert, assertEquals } from "@std/assert";
import { createReferenceTrainingBackend } from "../../../src/backend/reference/training/mod.ts";
import type { TrainingBackend } from "../../../src/backend/training.ts";
import { createWasmTrainingBackend } from "../../../src/backend/wasm/training/mod.ts";
import type { TrainingSequence } from "../../../src/training/batch.ts";
import { GrpoWork, policySequences } from "../../../src/training/phases/grpo.ts";
import type { Prompt } from "../../../src/training/phases/prompts.ts";
import { RolloutEngine } from "../../../src/training/phases/rollout.ts";
import type { Scorer } from "../../../src/training/phases/scorer.ts";
import type { GrpoPhase } from "../../../src/training/run/phase_recipe.ts";
import { TapeBackend } from "../../../src/training/tape/mod.ts";
import { Trainer, type TrainerOptions } from "../../../src/training/trainer.ts";
import { assertSameBits } from "../../backend/_harness.ts";
import { MIXTURE, randomSequences, tinyModel } from "../_tiny.ts";
import { readRecipe, shortRecipe } from "./_run.ts";

const BACKENDS: Readonly<Record<string, () => Promise<TrainingBackend>>> = {
  reference: () => Promise.resolve(createReferenceTrainingBackend()),
  "reference that chooses": () =>
    Promise.resolve(createReferenceTrainingBackend({ chooses: true })),
  wasm: () => createWasmTrainingBackend({ threads: 1 }),
};

const TEMPERATURE = 0.7;

async function open(inner: TrainingBackend, options: Partial<TrainerOptions> = {}) {
  const tape = new TapeBackend(inner);
  const shape = { rows: 96, logitRows: 96, sequences: 12 };
  const model = await tinyModel(MIXTURE, { tape, maxRows: shape.rows });
  const trainer = new Trainer({ tape, model }, {
    objective: {
      ...{ kind: "policy", temperature: TEMPERATURE },
      ...{ clipLow: 0.2, clipHigh: 0.28, klCoefficient: 0 },
    },
    ...{ shape, maxNorm: 1, rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 } },
    parameters: { weightDecay: 0 },
    ...options,
  });
  const engine = new RolloutEngine({ tape, model }, { sequences: 4, tokens: 64, maxRows: 24 });
  return { tape, model, trainer, engine };
}

const REQUESTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11], [12, 13], [14, 15, 16]].map((prompt, i) => ({
  ...{ prompt, seed: 100 + i },
}));
const OPTIONS = { temperature: TEMPERATURE, topP: 1, maxTokens: 12, endTokens: [1, 2, 3] };

for (const [name, create] of Object.entries(BACKENDS)) {
  Deno.test(`${name}: answers have the log-probabilities that the trainer finds, to the bit, and its ratios are 1`, async () => {
    for (const replayRouting of [false, true]) {
      const inner = await create();
      const { trainer, engine } = await open(inner, { replayRouting });
      // Away from the weights that were uploaded.
      const policy = (sequence: TrainingSequence) => ({
        ...sequence,
        policy: { oldLogProbs: sequence.inputs, advantages: sequence.weights },
        ...(replayRouting && {
          chosen: [0, 1].map(() => Array.from(sequence.inputs).flatMap(() => [0, 1])),
        }),
      });
      trainer.step([randomSequences([9, 12], { seed: 3 }).map(policy)], { rate: 1e-2 });
      const rollouts = await engine.answer(REQUESTS, {
        ...{ ...OPTIONS, scores: true, routing: replayRouting },
      });
      const sequences = policySequences(
        rollouts.map((rollout) => ({ rollout, advantage: 1 })),
        { shares: "token", sampling: { ...OPTIONS } },
      );
      trainer.begin();
      trainer.accumulate(sequences);
      const rolled = Float32Array.from(rollouts.flatMap(({ logProbs }) => logProbs));
      const trained = await inner.read(trainer.buffers.logProbs, { rows: rolled.length });
      assertSameBits(rolled, trained, `${name}, ${replayRouting}`);
      const totals = await trainer.totals();
      assertEquals([totals.ratio, totals.clipFraction, totals.tokens], [1, 0, rolled.length]);
      inner.close();
    }
  });

  Deno.test(`${name}: answers are those of their seeds, whoever is beside them, and end where they must`, async () => {
    const inner = await create();
    const { engine, trainer } = await open(inner);
    const all = await engine.answer(REQUESTS, { ...OPTIONS, scores: true });
    const alone = await engine.answer([REQUESTS[4]], { ...OPTIONS, scores: true });
    assertEquals(alone[0].answer, all[4].answer);
    assertEquals(alone[0].logProbs, all[4].logProbs);
    const other = await engine.answer([{ ...REQUESTS[4], seed: 7 }], OPTIONS);
    assert(other[0].answer.join() !== all[4].answer.join());
    for (const { answer, ended } of all) {
      const ends = answer.map((token) => OPTIONS.endTokens.includes(token));
      assertEquals(ends.slice(0, -1).includes(true), false);
      assertEquals([ended, ended || answer.length === OPTIONS.maxTokens], [ends.at(-1), true]);
    }
    // Scored from scratch, many tokens a step.
    const ids = all.map(({ prompt, answer }) => [...prompt, ...answer]);
    const scores = await engine.score(
      ids.map((own) => ({ inputs: own.slice(0, -1), targets: own.slice(1) })),
      { temperature: TEMPERATURE },
    );
    all.forEach(({ prompt, logProbs }, i) =>
      assertEquals(scores[i].slice(prompt.length - 1), [...logProbs])
    );
    assertEquals(trainer.model.routedLayers.length, 2);
    inner.close();
  });
}

Deno.test("answers are the same whether the host or the back end chooses their tokens", async () => {
  const answers = await Promise.all([false, true].map(async (chooses) => {
    const { engine } = await open(createReferenceTrainingBackend({ chooses }));
    const options = { ...OPTIONS, maxTokens: 40, scores: true, routing: true };
    const sampled = await engine.answer(REQUESTS, options);
    const greedy = await engine.answer(REQUESTS, { ...options, temperature: 0, scores: false });
    return { sampled, greedy };
  }));
  assertEquals(answers[1], answers[0]);
});

/** Rewards answers by the share of their tokens below 15; learnable at once. */
const SMALL_TOKENS: Scorer = {
  score: (samples) =>
    Promise.resolve(samples.map(({ completion }) => {
      const ids = completion.split(" ").map(Number);
      const reward = ids.filter((id) => id < 15).length / ids.length;
      return { reward, values: { small: reward } };
    })),
};

const PROMPTS = [3, 4, 5, 6, 7, 8].map((id): Prompt => ({
  ...{ id: `${id}`, family: "toy", text: `${id}`, ids: [id, id + 1], opened: false, reference: {} },
}));

function grpoPhase(changes: Partial<GrpoPhase>): GrpoPhase {
  const phase = readRecipe(shortRecipe()).phases[1] as GrpoPhase;
  return {
    ...{ ...phase, group: 6, prompts: 4, steps: 30 },
    sampling: { temperature: TEMPERATURE, topP: 1, maxTokens: 8 },
    update: { ...phase.update, rate: 0.01, warmup: 0, decay: "constant" },
    ...changes,
  };
}

async function learn(changes: Partial<GrpoPhase>, steps: number, scorer = SMALL_TOKENS) {
  const inner = await createWasmTrainingBackend({ threads: 1 });
  const { engine, trainer } = await open(inner, { replayRouting: changes.replayRouting ?? false });
  const phase = grpoPhase(changes);
  const work = new GrpoWork({
    ...{ phase, trainer, engine, reference: null, prompts: PROMPTS, scorer, endTokens: [1, 2] },
    ...{ decode: (ids) => ids.join(" "), seed: "test" },
  });
  const metrics: Record<string, number>[] = [];
  for (let step = 0; step < steps; step++) metrics.push((await work.step(step)).metrics!);
  inner.close();
  return metrics;
}

Deno.test("GRPO raises what is rewarded, with any share of the loss, and with routing replayed", async () => {
  const variants: Partial<GrpoPhase>[] = [
    { shares: "token" },
    { shares: "sequence", scale: "population", updates: 2 },
    { shares: "length", scale: "none" },
    { replayRouting: true },
  ];
  for (const variant of variants) {
    const metrics = await learn(variant, 14);
    const [first, last] = [metrics[0].reward, metrics[13].reward];
    assert(last > first + 0.2, `${JSON.stringify(variant)}: from ${first} to ${last}`);
  }
});

Deno.test("groups that are all rewarded alike teach nothing, and are left out", async () => {
  const alike: Scorer = {
    score: (samples) => Promise.resolve(samples.map(() => ({ reward: 1, values: {} }))),
  };
  const [metrics] = await learn({}, 1, alike);
  assertEquals([metrics.kept, metrics.frac_reward_zero_std, metrics.loss], [0, 1, undefined]);
  const [kept] = await learn({ dropEqual: false }, 1, alike);
  assert(kept.kept === 1 && kept.grad_norm < 1e-9, `${kept.grad_norm}`);
});

Deno.test("answers that were cut off stay out of the loss where the recipe masks them", async () => {
  const [metrics] = await learn({ overlong: "mask" }, 1);
  const clipped = metrics["completions/clipped_ratio"];
  assert(clipped > 0.1 && clipped < 1, `${clipped}`);
  assert(metrics.kept <= 1 - clipped + 1e-9, `${metrics.kept}`);
});
