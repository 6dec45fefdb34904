/**
 * Drives several sequences side by side through bare steps, one token of each a step, and counts the
 * experts they choose. Arguments as those of `sluice.ts`, then the most sequences of a request.
 *
 * Every sequence has the request's prompt turned to another beginning, and is fed the same tokens in
 * another order rather than its own answers: random weights answer different prompts alike before
 * long, which would leave fewer experts to read.
 */

import type { StepEntry } from "../../model/evaluate.ts";
import { serveDriver } from "./_serve.ts";
import { openSteps, type Steps } from "./_steps.ts";

await serveDriver(async () => {
  const sequences = Number(Deno.args[4]);
  const steps = await openSteps(Deno.args, { sequences });
  const { backend, evaluator } = steps;
  /** What each sequence holds at its beginning, for the next request. */
  const prompts: string[] = [];
  return {
    version: `sluice steps, ${backend.name}, ${backend.activations}`,
    async run({ prompt, generate, sequences = 1 }) {
      const token = (sequence: number, i: number) =>
        prompt[(i + sequence * Math.ceil(prompt.length / sequences)) % prompt.length];
      const start = performance.now();
      for (let sequence = 0; sequence < sequences; sequence++) {
        const ids = prompt.map((_, i) => token(sequence, i));
        evaluator.truncate(sequence, ids.length);
        if (prompts[sequence] === ids.join()) continue;
        await fill(steps, { sequence, ids });
        prompts[sequence] = ids.join();
      }
      const first = performance.now();
      let decodeMs = 0;
      let experts = 0;
      for (let i = 1; i < generate; i++) {
        const entries: StepEntry[] = Array.from({ length: sequences }, (_, sequence) => ({
          sequence,
          ids: [token(sequence, i * 5)],
        }));
        const before = performance.now();
        await evaluator.step(entries, { logits: "last" });
        decodeMs += performance.now() - before;
        experts += await expertsOfStep(steps, { rows: sequences });
      }
      return {
        promptTokens: prompt.length * sequences,
        prefillSeconds: (first - start) / 1000,
        firstSeconds: (first - start) / 1000,
        decodeTokens: (generate - 1) * sequences,
        decodeSeconds: decodeMs / 1000,
        expertsRead: experts / (generate - 1),
      };
    },
  };
});

/** Evaluates a sequence's prompt from scratch. */
async function fill(
  { evaluator, chunk }: Steps,
  { sequence, ids }: { sequence: number; ids: readonly number[] },
): Promise<void> {
  evaluator.truncate(sequence, 0);
  for (let start = 0; start < ids.length; start += chunk) {
    const entry = { sequence, ids: ids.slice(start, start + chunk) };
    await evaluator.step([entry], { logits: "none" });
  }
}

/** Different experts that the last step chose, on average over the layers; 0 in a dense model. */
async function expertsOfStep(
  { backend, model }: Steps,
  { rows }: { rows: number },
): Promise<number> {
  let chosen = 0;
  for (const { expertIds } of model.routedLayers) {
    chosen += new Set(await backend.readIntegers(expertIds, { rows })).size;
  }
  return chosen / Math.max(1, model.routedLayers.length);
}
