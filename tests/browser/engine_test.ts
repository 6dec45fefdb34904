/** What a browser's compiler says of all kernels, and an engine in a page. */

import { assert, assertEquals } from "@std/assert";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { EngineOptions, GenerateRequest } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { suiteKernels } from "../backend/_kernels.ts";
import { ROOT } from "../support/fixtures.ts";
import { pageTest } from "./_chromium.ts";

const MODEL = "tests/data/models/tiny_v3_moe.q4_k_m.gguf";

pageTest("its compiler has nothing against any kernel of the suite", async (page) => {
  assert(await page.call("adapter") !== null);
  assertEquals(await page.call("faultsOf", await suiteKernels()), []);
});

pageTest("an engine gives the tokens that the WASM kernels give in Deno", async (page) => {
  const options = {
    ...{ backend: "webgpu", activations: "f32", threads: 1, slots: 1 },
    ...{ chunkTokens: 8, contextLength: 128 },
  } as const satisfies Partial<EngineOptions>;
  const request: GenerateRequest = {
    tokens: [5, 12, 19, 26, 33, 40, 47, 54],
    sampling: NEUTRAL_SAMPLING,
    maxTokens: 32,
    stopTokens: [],
  };
  const answer = await page.call("answer", { ...options, model: page.url + MODEL }, request);
  const model = new URL(MODEL, ROOT).pathname;
  const engine = await openLocalEngine({ ...options, model, backend: "wasm" });
  const expected: number[] = [];
  for await (const event of engine.generate(request)) {
    if (event.type === "token") expected.push(event.token);
  }
  await engine.close();
  assertEquals(answer, expected);
});
