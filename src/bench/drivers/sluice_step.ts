/**
 * Drives our model without the engine: bare steps on the backend, the largest logit as next token.
 * What the engine adds shows in the difference. Arguments as those of `sluice.ts`.
 */

import { argmax } from "../../model/evaluate.ts";
import { serveDriver } from "./_serve.ts";
import { openSteps } from "./_steps.ts";

await serveDriver(async () => {
  const { backend, evaluator, chunk } = await openSteps(Deno.args, { sequences: 1 });
  return {
    version: `sluice steps, ${backend.name}, ${backend.activations}`,
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
