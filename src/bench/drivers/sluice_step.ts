/**
 * Drives our model without the engine: bare steps on the backend, the largest logit as next token.
 * What the engine adds shows in the difference. Arguments as those of `sluice.ts`.
 */

import { createBackend } from "../../backend/create.ts";
import type { ActivationPrecision } from "../../backend/backend.ts";
import { openCheckpoint } from "../../formats/open.ts";
import { argmax, Evaluator } from "../../model/evaluate.ts";
import { loadModel } from "../../model/registry.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../../text/load.ts";
import { serveDriver } from "./_serve.ts";

const [path, threads, activations, context] = Deno.args;

await serveDriver(async () => {
  const chunk = DEFAULT_ENGINE_OPTIONS.chunkTokens;
  const source = await openCheckpoint(path);
  const backend = await createBackend({
    backend: "wasm",
    threads: Number(threads),
    activations: activations as ActivationPrecision,
  });
  const model = await loadModel({ source, backend, maxRows: chunk, maxLogitRows: 1 });
  const tokens = Number(context);
  const evaluator = new Evaluator({ model, backend, maxRows: chunk, sequences: 1, tokens });
  return {
    version: `sluice steps, ${backend.name}, ${activations}`,
    async run({ prompt, generate }) {
      const start = performance.now();
      let next = argmax(await evaluator.prefill(prompt, { chunk }));
      const first = performance.now();
      for (let i = 1; i < generate; i++) {
        const [logits] = await evaluator.step([{ sequence: 0, ids: [next] }], { logits: "last" });
        next = argmax(logits);
      }
      const end = performance.now();
      return {
        promptTokens: prompt.length,
        prefillSeconds: (first - start) / 1000,
        firstSeconds: (first - start) / 1000,
        decodeTokens: generate - 1,
        decodeSeconds: (end - first) / 1000,
      };
    },
  };
});
