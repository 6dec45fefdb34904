/** An engine on the GPU: what it says of options that it does not follow, and that bursts change no token. */

import { assertEquals } from "@std/assert";
import { openLocalEngine } from "../../../src/engine/open_local_engine.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../../src/sampling/types.ts";
import { answerOf, toyRequest } from "../../engine/toy.ts";
import { TINY_V3 } from "../../support/fixtures.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../../support/gpu.ts";

Deno.test({
  name: `gpu: that nothing is guessed there is said to whoever asks for it${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  async fn() {
    const engine = await openLocalEngine({
      model: TINY_V3,
      ...{ backend: "webgpu", activations: "f32", threads: 1, slots: 1, chunkTokens: 16 },
      ...{ contextLength: 64, speculation: "ngram" },
    });
    assertEquals(engine.info.warnings, [
      "nothing is guessed (--speculate ngram) on the webgpu backend",
    ]);
    await engine.close({ graceMs: 0 });
  },
});

const SAMPLING: readonly Partial<SamplingParams>[] = [
  {},
  { temperature: 1, topP: 0.95 },
  { temperature: 1.5, topK: 50, minP: 0.01, repetitionPenalty: 1.2 },
  { temperature: 0.8, frequencyPenalty: 0.5, presencePenalty: 0.3, logitBias: [[40, 3]] },
];

Deno.test({
  name:
    `gpu: a seed gives the same text in bursts as in single steps, alone and beside others${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  async fn() {
    const engine = await openLocalEngine({
      model: TINY_V3,
      ...{ backend: "webgpu", activations: "f32", threads: 1, slots: 4, chunkTokens: 16 },
      ...{ contextLength: 64, reusePrefixes: false },
    });
    const requests = SAMPLING.map((params, i) =>
      toyRequest([5 + i, 77, 300, 21 * i], {
        maxTokens: 18,
        sampling: { ...NEUTRAL_SAMPLING, ...params, seed: 900 + i },
      })
    );
    const single: number[][] = [];
    for (const request of requests) {
      // Whoever wants log-probabilities gets single steps.
      single.push(await answerOf(engine.generate({ ...request, topLogprobs: 0 })));
    }
    const together = requests.map((request) => answerOf(engine.generate(request)));
    assertEquals(await Promise.all(together), single);
    assertEquals(await answerOf(engine.generate(requests[2])), single[2]);
    assertEquals(new Set(single.map(String)).size, single.length);
    await engine.close({ graceMs: 0 });
  },
});
