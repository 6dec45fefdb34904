/** The part of the conformance suite about sampling: tokens are those of the CPU's sampler, each of them. */

import { assert, assertEquals } from "@std/assert";
import {
  type Backend,
  type ChooseParams,
  CHOSEN_NONE,
  CHOSEN_NOT_FINITE,
} from "../../src/backend/backend.ts";
import { Candidates } from "../../src/sampling/candidates.ts";
import type { RandomBits } from "../../src/sampling/random.ts";
import { createRule, RULE_WORDS, ruleWords } from "../../src/sampling/rule.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../src/sampling/types.ts";
import { weightOf } from "../../src/sampling/weights.ts";
import { type Conformance, filled, withBackend } from "./_harness.ts";
import { generator, normals } from "./_random.ts";

/** One row of a burst. */
interface Case {
  readonly params: Partial<SamplingParams>;
  readonly prompt?: readonly number[];
  /** Its logits in a turn. */
  readonly logits: (turn: number) => Float32Array;
  /** What it draws with, where that is not its generator's. */
  readonly draws?: readonly RandomBits[];
}

interface Burst {
  readonly width: number;
  readonly turns: number;
  readonly rows: readonly Case[];
}

/** Sequences that are none of the burst's. */
const OTHERS = 2;

function samplerOf({ params, prompt = [] }: Case, index: number, width: number): Sampler {
  return new Sampler({
    params: { ...NEUTRAL_SAMPLING, seed: 100 + index, ...params },
    prompt,
    candidates: new Candidates(width),
  });
}

/** What the host would choose: by row, then by turn. */
function expectedTokens({ rows, turns, width }: Burst): number[][] {
  return rows.map((row, index) => {
    const sampler = samplerOf(row, index, width);
    return Array.from({ length: turns }, (_, turn) => sampler.sample(row.logits(turn).slice()));
  });
}

/** Runs a burst; rows belong to sequences in another order, with unused ones between. */
async function chosenTokens(backend: Backend, burst: Burst): Promise<number[][]> {
  const { rows, turns, width } = burst;
  const count = rows.length;
  const stride = count + 1;
  const sequenceCount = count + OTHERS;
  const sequenceOf = (row: number) => count - 1 - row + OTHERS;
  const rules = new Int32Array(sequenceCount * RULE_WORDS).fill(-1);
  const tallies = new Int32Array(sequenceCount * width).fill(12345);
  const biases = new Float32Array(sequenceCount * width).fill(1e9);
  const draws = new Int32Array(turns * stride * 2);
  for (const [index, row] of rows.entries()) {
    const sampler = samplerOf(row, index, width);
    const sequence = sequenceOf(index);
    rules.set(ruleWords(sampler.rule), sequence * RULE_WORDS);
    if (sampler.rule.edits) {
      const start = sequence * width;
      tallies.fill(0, start, start + width);
      biases.fill(0, start, start + width);
      for (const [token, tally] of sampler.tallies) tallies[start + token] = tally;
      for (const [token, bias] of sampler.biases) biases[start + token] = bias;
    }
    const bits = row.draws ?? sampler.bitsFrom(0, turns);
    for (const [turn, { high, low }] of bits.entries()) {
      draws.set([high, low], (turn * stride + index) * 2);
    }
  }
  const zeros = (rows: number) => filled(backend, 1, new Int32Array(rows));
  const logits = backend.createBuffer({ kind: "f32", rows: count, width });
  const turnBuffer = zeros(1);
  const history = zeros(turns * stride);
  const params: ChooseParams = {
    logits,
    sequences: filled(backend, 1, Int32Array.from(rows, (_, row) => sequenceOf(row))),
    ids: zeros(count),
    latest: zeros(sequenceCount),
    history,
    turn: turnBuffer,
    stride,
    sampling: {
      rules: filled(backend, RULE_WORDS, rules),
      draws: filled(backend, 2, draws),
      tallies: filled(backend, 1, tallies),
      biases: filled(backend, 1, biases),
    },
    rows: count,
  };
  const plan = backend.record((ops) => ops.choose(params));
  for (let turn = 0; turn < turns; turn++) {
    for (const [index, row] of rows.entries()) backend.write(logits, row.logits(turn), index);
    backend.write(turnBuffer, Int32Array.of(turn));
    backend.submit(plan);
  }
  const chosen = await backend.readIntegers(history);
  const ids = await backend.readIntegers(params.ids);
  const latest = await backend.readIntegers(params.latest);
  for (const index of rows.keys()) {
    const last = Math.max(0, chosen[(turns - 1) * stride + index]);
    assertEquals([ids[index], latest[sequenceOf(index)]], [last, last]);
  }
  return rows.map((_, index) =>
    Array.from({ length: turns }, (_, turn) => chosen[turn * stride + index])
  );
}

async function assertSampled(backend: Backend, burst: Burst, what: string): Promise<void> {
  const actual = await chosenTokens(backend, burst);
  const expected = expectedTokens(burst);
  for (const [index, { params }] of burst.rows.entries()) {
    assertEquals(actual[index], expected[index], `${what}: ${JSON.stringify(params)}`);
  }
}

/** Rules whose borders are met differently. */
function filtersFor(width: number): Partial<SamplingParams>[] {
  return [
    {},
    { temperature: 1 },
    { temperature: 0.7, topK: 1 },
    { temperature: 1, topK: 2 },
    { temperature: 1.5, topK: 40 },
    { temperature: 1, topK: width },
    { temperature: 1, topK: 10 * width },
    { temperature: 1, topP: 0 },
    { temperature: 1, topP: 0.5 },
    { temperature: 1.3, topP: 0.95 },
    { temperature: 1, topP: 1 - 1e-9 },
    { temperature: 1, minP: 0.05 },
    { temperature: 1, minP: 1 },
    { temperature: 0.8, topK: 100, topP: 0.9, minP: 0.01 },
    { temperature: 1, topK: 7, topP: 0.99 },
    { temperature: 100, topK: 1000, topP: 0.3 },
    { temperature: 100, topK: 1 },
    { temperature: 1e-300, topP: 0.9 },
  ];
}

export function samplingTests({ name, open }: Conformance): void {
  const test = (what: string, body: (backend: Backend) => Promise<void>) =>
    Deno.test(`${name}: ${what}`, () =>
      withBackend(open, async (backend) => {
        // What other backends say instead is tested with greedy choices.
        if (backend.chooses) await body(backend);
      }));

  test("each filter gives the sampler's tokens, for vocabularies of any size", async (backend) => {
    for (const width of [1, 2, 5, 255, 4096, 4097, 50_021]) {
      for (const spread of [0, 0.0001, 1, 5]) {
        const rows = filtersFor(width).map((params, row) => ({
          params,
          logits: (turn: number) =>
            normals(generator(1000 * row + turn), { length: width, scale: spread }),
        }));
        await assertSampled(
          backend,
          { width, turns: 3, rows },
          `${width} tokens, spread ${spread}`,
        );
      }
    }
  });

  test("ties at every border go by id", async (backend) => {
    const width = 9001;
    const levels = (count: number) => (turn: number) => {
      const random = generator(count + turn);
      return Float32Array.from({ length: width }, () => Math.floor(random() * count) / 2);
    };
    const rows = filtersFor(width).flatMap((params) =>
      [2, 9].map((count) => ({ params, logits: levels(count) }))
    );
    await assertSampled(backend, { width, turns: 4, rows }, "ties");
  });

  test("a draw passes from token to token where the running sum of weights does", async (backend) => {
    const width = 6000;
    const logits = normals(generator(3), { length: width, scale: 2 });
    const most = logits.reduce((a, b) => Math.max(a, b));
    const { scale } = createRule({ ...NEUTRAL_SAMPLING, temperature: 1 });
    let sum = 0n;
    const sums = Array.from(logits, (logit) => {
      const distance = Math.ceil(Math.fround(Math.fround(most - logit) * scale));
      return sum += BigInt(weightOf(distance));
    });
    const tokens = Array.from({ length: 40 }, (_, i) => i * 150 + i % 7);
    const firstBehind = tokens.map((token) => ((sums[token] << 64n) + sum - 1n) / sum);
    const bitsOf = (part: bigint) => ({
      high: Number(part >> 32n),
      low: Number(part & 0xffffffffn),
    });
    const row = { params: { temperature: 1 }, logits: () => logits };
    const rows = [
      { ...row, draws: firstBehind.map((part) => bitsOf(part - 1n)) },
      { ...row, draws: firstBehind.map(bitsOf) },
    ];
    const actual = await chosenTokens(backend, { width, turns: tokens.length, rows });
    assertEquals(actual, [tokens, tokens.map((token) => token + 1)]);
  });

  test("penalties count what a burst has chosen before, and biases exclude", async (backend) => {
    const width = 300;
    const logits = (turn: number) => normals(generator(turn % 2), { length: width, scale: 2 });
    const prompt = Array.from({ length: 80 }, (_, i) => i * 3);
    const odd = Array.from({ length: width / 2 }, (_, i) => [2 * i + 1, -Infinity] as const);
    const edits: Partial<SamplingParams>[] = [
      { repetitionPenalty: 1.3 },
      { repetitionPenalty: 0.7 },
      { frequencyPenalty: 0.37 },
      { presencePenalty: 1.1, frequencyPenalty: -0.21 },
      { repetitionPenalty: 100, presencePenalty: -100, frequencyPenalty: 1e-30 },
      { logitBias: odd },
      { logitBias: [[7, 3.3], [299, 4.7], [8, -1000]], repetitionPenalty: 1.07 },
    ];
    const rows = edits.flatMap((params) =>
      [{}, { temperature: 1 }, { temperature: 0.9, topK: 20, topP: 0.8, minP: 0.02 }].map((
        filters,
      ) => ({ params: { ...params, ...filters }, prompt, logits }))
    );
    const burst = { width, turns: 12, rows };
    await assertSampled(backend, burst, "edits");
    // The penalties must have mattered.
    const plain = expectedTokens({ ...burst, rows: rows.map((row) => ({ ...row, params: {} })) });
    assert(expectedTokens(burst).filter((tokens, i) => `${tokens}` === `${plain[i]}`).length < 3);
  });

  test("logits at the ends of float32's range are sampled as the sampler does", async (backend) => {
    const ends = [3e38, -3e38, 1e-45, -1e-45, 0, -0, 1e-38, -1e-30, 2 ** 60, 2 ** 61, 1, -1, 1e-18];
    const picks = [ends, ends.slice(1, 8), ends.slice(2, 6), ends.slice(4, 7), ends.slice(6)];
    for (const [i, pick] of picks.entries()) {
      const width = pick.length;
      const logits = (turn: number) =>
        Float32Array.from({ length: width }, (_, j) => pick[(j + turn) % width]);
      const rows = [
        ...filtersFor(width),
        { repetitionPenalty: 1.2, logitBias: [[0, 1e-40]] as const },
        { temperature: 1, repetitionPenalty: 1.2, frequencyPenalty: 1e-40 },
      ].map((params) => ({ params, prompt: [0, 1, 2], logits }));
      await assertSampled(backend, { width, turns: 5, rows }, `ends ${i}`);
    }
  });

  test("a row without numbers or without any token left says which, beside others", async (backend) => {
    const width = 5000;
    const fine = (turn: number) => normals(generator(turn), { length: width });
    const broken = (value: number) => (turn: number) => {
      const row = fine(turn);
      if (turn === 1) row[4999] = value;
      return row;
    };
    const none = Array.from({ length: width }, (_, token) => [token, -Infinity] as const);
    const rows: Case[] = [
      { params: { temperature: 1, topP: 0.9 }, logits: fine },
      { params: { temperature: 1, topP: 0.9 }, logits: broken(NaN) },
      { params: {}, logits: broken(Infinity) },
      { params: { temperature: 1, logitBias: [[4999, -Infinity]] }, logits: broken(-Infinity) },
      { params: { temperature: 1, logitBias: none }, logits: fine },
      { params: { logitBias: none }, logits: fine },
    ];
    const actual = await chosenTokens(backend, { width, turns: 2, rows });
    const [good] = expectedTokens({ width, turns: 2, rows: rows.slice(0, 1) });
    assertEquals(actual[0], good);
    assertEquals(actual.slice(1, 4).map(([, second]) => second), Array(3).fill(CHOSEN_NOT_FINITE));
    assertEquals(actual.slice(1, 4).map(([first]) => first >= 0), [true, true, true]);
    assertEquals(actual.slice(4), Array(2).fill([CHOSEN_NONE, CHOSEN_NONE]));
  });
}
