/**
 * Drives bare steps of a model whose routed experts are paged, and counts what each answer asked of
 * them. Arguments as those of `sluice.ts`, the model by path or URL, then a `PagingChoice` as JSON.
 */

import type { ExpertTraffic } from "../../backend/backend.ts";
import { argmax } from "../../model/evaluate.ts";
import type { PagingCounts } from "../wire.ts";
import { serveDriver } from "./_serve.ts";
import { openSteps } from "./_steps.ts";

await serveDriver(async () => {
  const paging = JSON.parse(Deno.args[4]);
  const { backend, evaluator, chunk } = await openSteps(Deno.args, { sequences: 1, paging });
  return {
    version: `sluice steps, ${backend.name}, ${backend.activations}`,
    async run({ prompt, generate, stopTokens = [] }) {
      const start = performance.now();
      const tokens = [argmax(await evaluator.prefill(prompt, { chunk }))];
      const before = backend.expertTraffic();
      const first = performance.now();
      while (tokens.length < generate && !stopTokens.includes(tokens.at(-1)!)) {
        const entry = { sequence: 0, ids: [tokens.at(-1)!] };
        const [logits] = await evaluator.step([entry], { logits: "last" });
        tokens.push(argmax(logits));
      }
      const end = performance.now();
      return {
        promptTokens: prompt.length,
        prefillSeconds: (first - start) / 1000,
        firstSeconds: (first - start) / 1000,
        decodeTokens: tokens.length - 1,
        decodeSeconds: (end - first) / 1000,
        ...countsBetween(before, backend.expertTraffic()),
        answer: tokens.reduce((sum, token) => (Math.imul(sum, 31) + token) >>> 0, 0),
      };
    },
  };
});

/** What all layers together have counted from one moment to another. */
function countsBetween(
  before: readonly ExpertTraffic[],
  after: readonly ExpertTraffic[],
): Omit<PagingCounts, "answer"> {
  const sum = (count: (layer: ExpertTraffic) => number) =>
    after.reduce((total, layer, i) => total + count(layer) - count(before[i]), 0);
  return {
    resident: after.reduce((total, { resident }) => total + resident, 0),
    hits: sum(({ hits }) => hits),
    prefetched: sum(({ prefetched }) => prefetched),
    misses: sum(({ misses }) => misses),
    bytesRead: Math.max(0, sum(({ bytesRead }) => bytesRead)),
    predicted: sum(({ predictions }) => predictions.made),
    predictedRight: sum(({ predictions }) => predictions.right),
  };
}
