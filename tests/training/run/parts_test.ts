/** Parts of phases that need no model. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { CapacityError } from "../../../src/errors.ts";
import { answerMetrics, rewardMetrics } from "../../../src/training/phases/answer_metrics.ts";
import { overlongPenalty, policySequences } from "../../../src/training/phases/grpo.ts";
import { microBatches } from "../../../src/training/phases/micro_batches.ts";
import { firstOf, PackedStream } from "../../../src/training/phases/packed_stream.ts";
import { messageOf, type Prompt } from "../../../src/training/phases/prompts.ts";
import { selectAnswers } from "../../../src/training/phases/rejection.ts";
import { trainingSequences } from "../../../src/training/phases/supervised.ts";
import { addTokens, costLine, NO_COST } from "../../../src/training/run/costs.ts";

const ROLLOUT = { ended: true, logProbs: [], entropies: [], chosen: [] } as const;

function sequence(length: number) {
  const list = (value: number) => new Array(length).fill(value);
  return { inputs: list(1), targets: list(2), weights: list(0.5) };
}

function packed(id: number) {
  return {
    ids: Int32Array.of(id, id, id),
    targets: Uint8Array.of(0, 1, 1),
    samples: Int32Array.of(0, 0, 0),
  };
}

Deno.test("a pass over packed files has every sequence once, in another order each time, from any place", async () => {
  const files = [[0, 1, 2], [3], [4, 5, 6, 7]].map((ids, i) => ({
    ...{ name: `${i}`, count: ids.length, read: () => Promise.resolve(ids.map(packed)) },
  }));
  const pass = async (stream: PackedStream, places: readonly number[]) => {
    const seen: number[] = [];
    for (const place of places) seen.push((await stream.at(place)).ids[0]);
    return seen;
  };
  const places = Array.from({ length: 16 }, (_, i) => i);
  const all = await pass(new PackedStream(files, { seed: "a" }), places);
  const [first, second] = [all.slice(0, 8), all.slice(8)];
  assertEquals([...first].sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  assertEquals([...second].sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  assert(first.join() !== second.join());
  // From the back, as a run that goes on would begin anywhere.
  const back = await pass(new PackedStream(files, { seed: "a" }), places.toReversed());
  assertEquals(back.reverse(), all);
  const other = await pass(new PackedStream(files, { seed: "b" }), places);
  assert(other.join() !== all.join());
});

Deno.test("a cold start may learn the first packed sequences alone", async () => {
  const files = [[0, 1, 2], [3], [4, 5, 6, 7]].map((ids, i) => ({
    ...{ name: `${i}`, count: ids.length, read: () => Promise.resolve(ids.map(packed)) },
  }));
  for (const count of [2, 3, 5, 8, 9]) {
    const stream = new PackedStream(firstOf(files, count), { seed: "a" });
    const expected = [0, 1, 2, 3, 4, 5, 6, 7].slice(0, count);
    assertEquals(stream.length, expected.length);
    const seen: number[] = [];
    for (let place = 0; place < stream.length; place++) seen.push((await stream.at(place)).ids[0]);
    assertEquals(seen.sort(), expected);
  }
});

Deno.test("micro-batches hold what fits, and all of it", () => {
  const shape = { rows: 10, logitRows: 8, sequences: 2 };
  const batches = microBatches([7, 5, 3, 1, 1, 5].map(sequence), shape);
  assertEquals(batches.map((batch) => batch.map(({ inputs }) => inputs.length)), [
    [7, 1],
    [5, 3],
    [1, 5],
  ]);
  assertThrows(
    () => microBatches([sequence(9)], shape),
    CapacityError,
    "a sample has 9 tokens, must have at most 8",
  );
});

Deno.test("of packed samples the answers' tokens share the loss, in pre-training all tokens", () => {
  const both = {
    ids: Int32Array.of(1, 2, 3, 4, 5, 6, 0),
    targets: Uint8Array.of(0, 0, 1, 0, 1, 1, 0),
    samples: Int32Array.of(0, 0, 0, 1, 1, 1, -1),
  };
  const weights = (everyToken: boolean) =>
    trainingSequences([both], { everyToken }).map(({ inputs, targets, weights }) => ({
      inputs: [...inputs as number[]],
      targets: [...targets as number[]],
      weights: [...weights as number[]],
    }));
  assertEquals(weights(false), [
    { inputs: [1, 2], targets: [2, 3], weights: [0, 1 / 3] },
    { inputs: [4, 5], targets: [5, 6], weights: [1 / 3, 1 / 3] },
  ]);
  assertEquals(weights(true).map(({ weights }) => weights), [[0.25, 0.25], [0.25, 0.25]]);
});

Deno.test("an answer's first token is predicted from the prompt's last one", () => {
  const [one] = policySequences([{
    rollout: { ...ROLLOUT, prompt: [5, 6, 7], answer: [8, 9], logProbs: [-1, -2] },
    advantage: 0.5,
    referenceLogProbs: [-3, -4],
  }], { shares: "token", sampling: { temperature: 1, topP: 1, maxTokens: 4 } });
  assertEquals(one, {
    inputs: [5, 6, 7, 8],
    targets: [6, 7, 8, 9],
    weights: [0, 0, 0.5, 0.5],
    policy: {
      oldLogProbs: [0, 0, -1, -2],
      advantages: [0, 0, 0.5, 0.5],
      referenceLogProbs: [0, 0, -3, -4],
    },
  });
});

Deno.test("long answers lose as DAPO has it: nothing up to the margin, then in a line, cut off all", () => {
  const sampling = { temperature: 1, topP: 1, maxTokens: 20 };
  const penalty = (length: number, ended: boolean, overlong: "penalty" | "mask" = "penalty") =>
    overlongPenalty({ answer: new Array(length).fill(1), ended }, {
      ...{ overlong, overlongMargin: 8, sampling },
    });
  assertEquals([penalty(12, true), penalty(14, true), penalty(20, true)], [0, -0.25, -1]);
  assertEquals([penalty(20, false), penalty(20, false, "mask")], [-1, 0]);
});

Deno.test("of sampled answers the best and shortest are kept that differ from each other", () => {
  const answer = (text: string, reward: number) => ({ text, reward });
  const candidates = [
    answer("one two three four five seven", 1),
    answer("one two three four five", 1),
    answer("one two three four five", 1),
    answer("short but of little worth", 0.4),
    answer("something else", 0.9),
  ];
  const texts = (options: { keep: number; maxSimilarity: number }) =>
    selectAnswers(candidates, { minReward: 0.5, ...options }).map(({ text }) => text);
  assertEquals(texts({ keep: 5, maxSimilarity: 0.5 }), [
    "one two three four five",
    "something else",
  ]);
  assertEquals(texts({ keep: 5, maxSimilarity: 0.9 }), [
    "one two three four five",
    "one two three four five seven",
    "something else",
  ]);
  assertEquals(texts({ keep: 1, maxSimilarity: 1 }), ["one two three four five"]);
});

Deno.test("an answer that began within an opened <think> is written down as a corpus has it", () => {
  const prompt = { opened: true } as Prompt;
  assertEquals(messageOf(prompt, "a = b\n</think>\n\nYes."), "<think>\na = b\n</think>\n\nYes.");
  assertEquals(messageOf({ ...prompt, opened: false }, "Yes."), "Yes.");
});

Deno.test("rewards are logged over all answers, within groups and by function", () => {
  const judged = [1, 0, 1, 1].map((reward, i) => ({
    reward,
    values: { right: reward, steps: i === 0 ? 0.5 : null },
  }));
  const metrics = rewardMetrics(judged, { rewards: [1, 0, 1, 1], group: 2 });
  assertAlmostEquals(metrics.reward_std, Math.SQRT1_2 / 2);
  assertEquals(
    [metrics.reward, metrics.frac_reward_zero_std, metrics["rewards/steps/mean"]],
    [0.75, 0.5, 0.5],
  );
  const answers = answerMetrics([
    { ...ROLLOUT, prompt: [1], answer: [1, 2], entropies: [1, 3] },
    { ...ROLLOUT, prompt: [1], answer: [1, 2, 3, 4], ended: false },
  ]);
  assertEquals(answers, {
    "completions/mean_length": 3,
    "completions/min_length": 2,
    "completions/max_length": 4,
    "completions/clipped_ratio": 0.5,
    "completions/mean_terminated_length": 2,
    entropy: 2,
  });
});

Deno.test("operations are two a token and active parameter forward, six trained, and energy is watts by time", () => {
  const cost = addTokens(addTokens(NO_COST, { trained: 10, sampled: 5, activeParameters: 100 }), {
    ...{ evaluated: 3, activeParameters: 100 },
  });
  assertEquals([cost.flops, cost.evaluationFlops], [100 * (60 + 10), 600]);
  const line = costLine(cost, { phase: "x", seconds: 2, watts: 90 });
  assertAlmostEquals(line.gflopsPerSecond, 7600 / 2 / 1e9, 1e-12);
  assertEquals(line.wattHours, 0.05);
});
