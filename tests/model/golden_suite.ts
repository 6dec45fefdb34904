/**
 * Recorded logits against a backend. Exact backends (float activations) must agree within the stated
 * tolerance of every case; rounded ones are judged by their rms error over all cases together.
 */

import { assert, assertEquals } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { argmax, Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import type { Model } from "../../src/model/types.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { type Golden, goldens } from "./_goldens.ts";
import { assertSameRouting } from "./_routing.ts";

export interface GoldenSuite {
  /** For the tests' names: "wasm f32, 2 threads". */
  readonly name: string;
  open(): Promise<Backend>;
}

const MAX_ROWS = 128;

interface Opened {
  readonly model: Model;
  readonly evaluator: Evaluator;
}

/** Loads a case's checkpoint on a fresh backend and closes both afterwards. */
async function withGolden(
  golden: Golden,
  options: { suite: GoldenSuite; body: (opened: Opened) => Promise<void> },
): Promise<void> {
  const source = await openCheckpoint(golden.path);
  const backend = await options.suite.open();
  try {
    const rows = { maxRows: MAX_ROWS, maxLogitRows: MAX_ROWS };
    const model = await loadModel({ source, backend, ...rows, keepHidden: true });
    const evaluator = new Evaluator({
      model,
      backend,
      maxRows: MAX_ROWS,
      sequences: 2,
      tokens: MAX_ROWS,
    });
    await options.body({ model, evaluator });
  } finally {
    backend.close();
    source.close();
  }
}

/** Declares the tests of a backend with float activations. */
export function exactGoldenTests(suite: GoldenSuite): void {
  for (const golden of goldens()) {
    Deno.test(`${suite.name}: ${golden.id} gives the recorded logits, hidden states, routing and greedy tokens`, async () => {
      await withGolden(golden, { suite, body: (opened) => checkExact(golden, opened) });
    });
  }
}

async function checkExact(golden: Golden, { evaluator, model }: Opened): Promise<void> {
  const results = golden.results();
  const { sequences, tolerance } = golden;
  const vocab = model.config.vocabSize;
  const recorded = (name: string) => results.get(name, "F32");
  const whole: Float32Array[] = [];
  for (const [i, ids] of sequences.entries()) {
    const [logits] = await evaluator.allLogits([ids], { chunk: MAX_ROWS });
    whole.push(logits);
    const [what, whatElse] = [`sequence ${i}: a logit`, `sequence ${i}: a hidden state`];
    assertClose(logits, recorded(golden.logitsName(i)), { tolerance, what });
    // Hidden states are of the size of logits, or smaller; they are held to the same tolerance.
    for (const [layer, state] of (await evaluator.hidden()).entries()) {
      const name = `seq${i}.hidden.${layer}`;
      if (!results.has(name)) continue;
      assertClose(state, recorded(name), { tolerance, what: `${whatElse} before layer ${layer}` });
    }
    await checkRouting(golden, { evaluator, sequence: i });
  }
  for (const chunk of [1, 7, 64]) {
    const [chunked] = await evaluator.allLogits([sequences[2]], { chunk });
    assertSameBits(chunked, whole[2], `sequence 2 in chunks of ${chunk}`);
  }
  if (golden.extend !== undefined) {
    const { prefill, logits } = golden.extend;
    evaluator.truncate(0, 0);
    await evaluator.step([{ sequence: 0, ids: sequences[2].slice(0, prefill) }], {
      logits: "none",
    });
    const rest = { sequence: 0, ids: sequences[2].slice(prefill) };
    const [extended] = await evaluator.step([rest], { logits: "all" });
    assertClose(extended, recorded(logits), {
      tolerance,
      what: "a logit of the extended sequence",
    });
    assertSameBits(extended, whole[2].slice(prefill * vocab), "the extended sequence");
  }
  const batch = golden.batch ?? [sequences[1], sequences[2].slice(0, 29)];
  batch.forEach((_, sequence) => evaluator.truncate(sequence, 0));
  const entries = batch.map((ids, sequence) => ({ sequence, ids }));
  const together = await evaluator.step(entries, { logits: "all" });
  for (const [i, ids] of batch.entries()) {
    assertSameBits(together[i], whole[i + 1].slice(0, ids.length * vocab), `batch row ${i}`);
  }
  for (const [i, ids] of sequences.entries()) {
    await checkGreedy(evaluator, { ids, expected: golden.greedy[i], tolerance });
  }
}

/** Each layer with experts must have chosen those that are recorded. */
async function checkRouting(
  golden: Golden,
  { evaluator, sequence }: { evaluator: Evaluator; sequence: number },
): Promise<void> {
  const layers = await evaluator.routing();
  assertEquals(layers.length > 0, golden.mixture);
  const { routingTolerance: tolerance } = golden;
  if (tolerance === undefined) return;
  for (const layer of layers) {
    const expected = golden.routing(sequence, layer.layer);
    assert(expected, `layer ${layer.layer} is recorded`);
    assertSameRouting(layer, expected, {
      tolerance,
      what: `sequence ${sequence}, layer ${layer.layer}`,
    });
  }
}

/** Follows the recorded answer; where ours differs, the two tokens must be too close to tell apart. */
async function checkGreedy(
  evaluator: Evaluator,
  options: { ids: readonly number[]; expected: readonly number[]; tolerance: number },
): Promise<void> {
  const { ids, expected, tolerance } = options;
  evaluator.truncate(0, 0);
  let [logits] = await evaluator.step([{ sequence: 0, ids }], { logits: "last" });
  for (const [i, token] of expected.entries()) {
    const best = argmax(logits);
    const margin = logits[best] - logits[token];
    assert(margin <= 2 * tolerance, `greedy token ${i} is ${best}, must be ${token} by ${margin}`);
    [logits] = await evaluator.step([{ sequence: 0, ids: [token] }], { logits: "last" });
  }
}

function assertClose(
  actual: Float32Array,
  expected: Float32Array,
  { tolerance, what }: { tolerance: number; what: string },
): void {
  assertEquals(actual.length, expected.length, what);
  let worst = 0;
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i] - expected[i]);
    // Written so that a NaN counts as the worst.
    if (!(error <= worst)) worst = Number.isNaN(error) ? Infinity : error;
  }
  assert(worst <= tolerance, `${what} is off by ${worst}, must be within ${tolerance}`);
}

/**
 * Declares the test of a backend that rounds activations: the geometric mean, over the cases with
 * quantised weights, of its rms error relative to llama.cpp's on the same file.
 */
export function roundedGoldenTests(suite: GoldenSuite & { readonly atMost: number }): void {
  Deno.test(`${suite.name}: the rms error of logits is at most ${suite.atMost} of llama.cpp's`, async () => {
    const ratios: number[] = [];
    for (const golden of goldens().filter(({ llamaCppRms }) => llamaCppRms > 0)) {
      const body = async (opened: Opened) => {
        ratios.push(await rmsError(golden, opened) / golden.llamaCppRms);
      };
      await withGolden(golden, { suite, body });
    }
    const logs = ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0);
    const mean = Math.exp(logs / ratios.length);
    assert(
      mean <= suite.atMost,
      `the geometric mean of the ratios is ${mean}: ${ratios.join(", ")}`,
    );
  });

  for (const golden of goldens()) {
    Deno.test(`${suite.name}: ${golden.id} has the same bits in chunks and in a batch`, async () => {
      await withGolden(golden, {
        suite,
        body: async ({ evaluator, model }) => {
          const [, short, long] = golden.sequences;
          const whole = await evaluator.allLogits([short, long], { chunk: MAX_ROWS });
          for (const chunk of [1, 7, 64]) {
            const [chunked] = await evaluator.allLogits([long], { chunk });
            assertSameBits(chunked, whole[1], `chunks of ${chunk}`);
          }
          evaluator.truncate(0, 0);
          const entries = [short, long].map((ids, sequence) => ({ sequence, ids }));
          const together = await evaluator.step(entries, { logits: "all" });
          assertSameBits(together[0], whole[0], "the first of the batch");
          assertSameBits(together[1], whole[1], "the second of the batch");
          assertEquals(whole[1].length, long.length * model.config.vocabSize);
        },
      });
    });
  }
}

/** Declares the tests that two backends which differ in threads only give the same bits. */
export function twinGoldenTests(suite: GoldenSuite & { readonly twin: GoldenSuite }): void {
  for (const golden of goldens()) {
    Deno.test(`${golden.id} has the same bits on ${suite.name} and on ${suite.twin.name}`, async () => {
      const results: Float32Array[][] = [];
      for (const one of [suite, suite.twin]) {
        const body = async ({ evaluator }: Opened) => {
          results.push(await evaluator.allLogits(golden.sequences, { chunk: 32 }));
        };
        await withGolden(golden, { suite: one, body });
      }
      const [here, there] = results;
      here.forEach((logits, i) => assertSameBits(logits, there[i], `sequence ${i}`));
    });
  }
}

/** As the fixtures' generator measures it: the mean of the two longer sequences' mean squares. */
async function rmsError(golden: Golden, { evaluator }: Opened): Promise<number> {
  const results = golden.results();
  const logits = await evaluator.allLogits(golden.sequences.slice(1, 3), { chunk: MAX_ROWS });
  const exact = [1, 2].map((i) => results.get(golden.logitsName(i), "F32"));
  return Math.sqrt((meanSquare(logits[0], exact[0]) + meanSquare(logits[1], exact[1])) / 2);
}

function meanSquare(actual: Float32Array, expected: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < expected.length; i++) sum += (actual[i] - expected[i]) ** 2;
  return sum / expected.length;
}
