/**
 * A real checkpoint against llama.cpp's logits on exactly dequantised weights with float activations.
 * The reference backend needs minutes for what the kernels do in seconds; it does a prompt's beginning.
 */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { argmax, Evaluator, topOf } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { downloadedModel, sharedFolder } from "../support/fixtures.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";

interface SmolCase {
  readonly user: string;
  readonly ids: readonly number[];
  readonly last_top10: readonly (readonly [token: number, logit: number])[];
  readonly next_token_logprobs: readonly number[];
  readonly greedy64_exact_weights_f32_activations: readonly number[];
  readonly logit_std: number;
}

const model = downloadedModel("SmolLM2-135M-Instruct.Q4_1.gguf");
const shared = sharedFolder();
const missing = model === undefined
  ? " (skipped: SmolLM2-135M-Instruct.Q4_1.gguf is not in SLUICE_MODELS)"
  : shared === undefined
  ? " (skipped: smollm2_golden.json is not in SLUICE_SHARED)"
  : "";

/** The largest error of a logit, as a share of the logits' standard deviation. */
const RELATIVE = 5e-3;

function cases(): SmolCase[] {
  return JSON.parse(Deno.readTextFileSync(`${shared}/models/smollm2_golden.json`)).cases;
}

async function withSmollm2(
  backend: Backend,
  body: (evaluator: Evaluator, vocab: number) => Promise<void>,
): Promise<void> {
  const source = await openCheckpoint(model as string);
  try {
    const loaded = await loadModel({ source, backend, maxRows: 64, maxLogitRows: 64 });
    const options = { model: loaded, backend, maxRows: 64, sequences: 4, tokens: 128 };
    await body(new Evaluator(options), loaded.config.vocabSize);
  } finally {
    backend.close();
    source.close();
  }
}

/** The ten most likely tokens are the recorded ones, but for swaps within the tolerance. */
function checkTop10(last: Float32Array, test: SmolCase): void {
  const tolerance = RELATIVE * test.logit_std;
  for (const [token, logit] of test.last_top10) {
    assertAlmostEquals(
      last[token],
      logit,
      tolerance,
      `"${test.user}", token ${token}: ${last[token]}`,
    );
  }
  const least = test.last_top10[9][1];
  for (const [token, logit] of topOf(last, 10)) {
    const known = test.last_top10.some(([recorded]) => recorded === token);
    assert(known || logit <= least + tolerance, `"${test.user}": ${token} is among our ten`);
  }
}

/** Log-probabilities of each next token of the prompt, as far as there are logits. */
function checkLogprobs(logits: Float32Array, { test, vocab }: { test: SmolCase; vocab: number }) {
  test.next_token_logprobs.slice(0, logits.length / vocab).forEach((expected, position) => {
    const row = logits.subarray(position * vocab, (position + 1) * vocab);
    const largest = row[argmax(row)];
    const total = row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
    const logprob = row[test.ids[position + 1]] - largest - Math.log(total);
    assertAlmostEquals(logprob, expected, RELATIVE * test.logit_std, `position ${position}`);
  });
}

/** The recorded logits of four prompts, and the first tokens of their answers, side by side. */
async function checkAnswers(
  evaluator: Evaluator,
  { vocab, count }: { vocab: number; count: number },
): Promise<void> {
  const tests = cases();
  const answers: number[][] = [];
  for (const [sequence, test] of tests.entries()) {
    const [logits] = await evaluator.step([{ sequence, ids: test.ids }], { logits: "all" });
    const last = logits.slice(-vocab);
    checkTop10(last, test);
    checkLogprobs(logits, { test, vocab });
    answers.push([argmax(last)]);
  }
  // Together they read the weights once for all.
  while (answers[0].length < count) {
    const entries = answers.map((answer, sequence) => ({ sequence, ids: [answer.at(-1)!] }));
    const logits = await evaluator.step(entries, { logits: "last" });
    answers.forEach((answer, sequence) => answer.push(argmax(logits[sequence])));
  }
  for (const [sequence, test] of tests.entries()) {
    const expected = test.greedy64_exact_weights_f32_activations.slice(0, count);
    assertEquals(answers[sequence], expected, test.user);
  }
}

Deno.test({
  name:
    `SmolLM2 on wasm f32 gives the recorded logits and 64 greedy tokens of four prompts${missing}`,
  ignore: missing !== "",
  fn: async () => {
    const backend = await createWasmBackend({ threads: 2, activations: "f32" });
    await withSmollm2(backend, (evaluator, vocab) => checkAnswers(evaluator, { vocab, count: 64 }));
  },
});

Deno.test({
  name:
    `SmolLM2 on webgpu gives the recorded logits and 24 greedy tokens of four prompts${missing}${SKIP_NOTE}`,
  ignore: missing !== "" || GPU_SKIPPED !== undefined,
  fn: async () => {
    const backend = await createWebGpuBackend();
    await withSmollm2(backend, (evaluator, vocab) => checkAnswers(evaluator, { vocab, count: 24 }));
  },
});

Deno.test({
  name: `SmolLM2 on the reference backend gives the recorded likelihoods of a prompt${missing}`,
  ignore: missing !== "",
  fn: async () => {
    await withSmollm2(createReferenceBackend(), async (evaluator, vocab) => {
      const [test] = cases();
      const [logits] = await evaluator.allLogits([test.ids.slice(0, 16)], { chunk: 16 });
      assertEquals(logits.length, 16 * vocab);
      checkLogprobs(logits, { test, vocab });
    });
  },
});
