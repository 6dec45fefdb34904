/**
 * Drives our own engine as a server does: in its worker, by requests. Arguments: the model's path,
 * threads, activations, tokens of context, and as JSON what else of the engine's options differs from the
 * defaults, the backend for instance.
 */

import { openEngine } from "../../engine/open_engine.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../../text/load.ts";
import type { EngineOptions } from "../../engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../sampling/types.ts";
import { serveDriver } from "./_serve.ts";

const [model, threads, activations, context, options = "{}"] = Deno.args;

await serveDriver(async () => {
  const engine = await openEngine({
    ...DEFAULT_ENGINE_OPTIONS,
    backend: "wasm",
    ...JSON.parse(options) as Partial<EngineOptions>,
    model,
    threads: Number(threads),
    activations: activations as EngineOptions["activations"],
    contextLength: Number(context),
    slots: 1,
    // The same prompt is run again and again, and each time is to be computed.
    reusePrefixes: false,
  });
  return {
    version: `sluice, ${engine.info.backend}, ${engine.info.activations}`,
    async run({ prompt, generate }) {
      const start = performance.now();
      let first = start;
      let last = start;
      let tokens = 0;
      const request = {
        tokens: prompt,
        sampling: NEUTRAL_SAMPLING,
        maxTokens: generate,
        stopTokens: [],
      };
      for await (const event of engine.generate(request)) {
        if (event.type !== "token") continue;
        last = performance.now();
        if (tokens++ === 0) first = last;
      }
      const firstSeconds = (first - start) / 1000;
      return {
        promptTokens: prompt.length,
        prefillSeconds: firstSeconds,
        firstSeconds,
        decodeTokens: tokens - 1,
        decodeSeconds: (last - first) / 1000,
      };
    },
  };
});
