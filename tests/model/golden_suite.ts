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

/** How a backend is opened for a case, and what it is called in the tests' names: "wasm f32, 2 threads". */
export interface Opener {
  readonly name: string;
  open(golden: Golden): Promise<Backend>;
}

export interface GoldenSuite extends Opener {
  /** A backend that differs in threads only and must give the same bits. */
  readonly twin?: Opener;
  /** Tokens of the chunks that must give the bits of the whole; 1, 7 and 64 by default. */
  readonly chunks?: readonly number[];
  /** Which cases; all by default. */
  readonly only?: (golden: Golden) => boolean;
}

const MAX_ROWS = 128;
const CHUNKS = [1, 7, 64];

interface Opened {
  readonly model: Model;
  readonly evaluator: Evaluator;
}

/** Loads a case's checkpoint on a fresh backend and closes both afterwards. */
async function withGolden(
  golden: Golden,
  options: { opener: Opener; body: (opened: Opened) => Promise<void> },
): Promise<void> {
  const source = await openCheckpoint(golden.path);
  const backend = await options.opener.open(golden);
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
  const { name, twin, chunks = CHUNKS, only = () => true } = suite;
  const also = twin === undefined ? "" : `, with the bits of ${twin.name}`;
  for (const golden of goldens().filter(only)) {
    Deno.test(`${name}: ${golden.id} gives the recorded logits, hidden states, routing and greedy tokens${also}`, async () => {
      let whole: readonly Float32Array[] = [];
      const body = async (opened: Opened) => {
        whole = await checkExact(golden, { ...opened, chunks });
      };
      await withGolden(golden, { opener: suite, body });
      if (twin !== undefined) await checkTwin(golden, { twin, whole });
    });
  }
}

/** The logits of all sequences must have the same bits on the twin. */
async function checkTwin(
  golden: Golden,
  { twin, whole }: { twin: Opener; whole: readonly Float32Array[] },
): Promise<void> {
  const body = async ({ evaluator }: Opened) => {
    const logits = await evaluator.allLogits(golden.sequences, { chunk: 32 });
    logits.forEach((there, i) => assertSameBits(there, whole[i], `sequence ${i} on ${twin.name}`));
  };
  await withGolden(golden, { opener: twin, body });
}

/** Returns the logits of the sequences, each evaluated whole. */
async function checkExact(
  golden: Golden,
  { evaluator, model, chunks }: Opened & { chunks: readonly number[] },
): Promise<Float32Array[]> {
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
  for (const chunk of chunks) {
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
  return whole;
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
 * Declares the tests of a backend that rounds activations: the same bits in chunks, in a batch and on
 * its twin; and the geometric mean, over the cases with quantised weights, of its rms error relative to
 * llama.cpp's on the same file.
 */
export function roundedGoldenTests(
  suite: Opener & { readonly twin: Opener; readonly atMost: number },
): void {
  const { name, twin, atMost } = suite;
  /** By case; those of the sequences, each evaluated whole. */
  const known = new Map<string, readonly Float32Array[]>();
  const wholeLogits = async (golden: Golden, { evaluator }: Opened) => {
    const whole = await evaluator.allLogits(golden.sequences, { chunk: MAX_ROWS });
    known.set(golden.id, whole);
    return whole;
  };

  for (const golden of goldens()) {
    Deno.test(`${name}: ${golden.id} has the same bits in chunks, in a batch and on ${twin.name}`, async () => {
      let whole: readonly Float32Array[] = [];
      const body = async (opened: Opened) => {
        whole = await wholeLogits(golden, opened);
        await checkParts(golden, { ...opened, whole });
      };
      await withGolden(golden, { opener: suite, body });
      await checkTwin(golden, { twin, whole });
    });
  }

  Deno.test(`${name}: the rms error of logits is at most ${atMost} of llama.cpp's`, async () => {
    const ratios: number[] = [];
    for (const golden of goldens().filter(({ llamaCppRms }) => llamaCppRms > 0)) {
      // The tests above have left them, but where only some tests are run.
      if (!known.has(golden.id)) {
        const body = async (opened: Opened) => void await wholeLogits(golden, opened);
        await withGolden(golden, { opener: suite, body });
      }
      ratios.push(rmsError(golden, known.get(golden.id)!) / golden.llamaCppRms);
    }
    const logs = ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0);
    const mean = Math.exp(logs / ratios.length);
    assert(mean <= atMost, `the geometric mean of the ratios is ${mean}: ${ratios.join(", ")}`);
  });
}

/** The longer sequences in chunks and side by side must have the bits of the whole. */
async function checkParts(
  golden: Golden,
  { evaluator, model, whole }: Opened & { whole: readonly Float32Array[] },
): Promise<void> {
  const [, short, long] = golden.sequences;
  for (const chunk of CHUNKS) {
    const [chunked] = await evaluator.allLogits([long], { chunk });
    assertSameBits(chunked, whole[2], `chunks of ${chunk}`);
  }
  evaluator.truncate(0, 0);
  const entries = [short, long].map((ids, sequence) => ({ sequence, ids }));
  const together = await evaluator.step(entries, { logits: "all" });
  assertSameBits(together[0], whole[1], "the first of the batch");
  assertSameBits(together[1], whole[2], "the second of the batch");
  assertEquals(whole[2].length, long.length * model.config.vocabSize);
}

/** As the fixtures' generator measures it: the mean of the two longer sequences' mean squares. */
function rmsError(golden: Golden, whole: readonly Float32Array[]): number {
  const results = golden.results();
  const exact = [1, 2].map((i) => results.get(golden.logitsName(i), "F32"));
  return Math.sqrt((meanSquare(whole[1], exact[0]) + meanSquare(whole[2], exact[1])) / 2);
}

function meanSquare(actual: Float32Array, expected: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < expected.length; i++) sum += (actual[i] - expected[i]) ** 2;
  return sum / expected.length;
}
