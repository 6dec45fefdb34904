/**
 * The GPU backend in a browser, whose compiler of kernels and whose checks are stricter than Deno's:
 * Chromium with its software adapter, and no more than WebGPU demands of every adapter.
 */

import { assert, assertEquals } from "@std/assert";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { EngineOptions, GenerateRequest } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { LEAST_LIMITS, suiteKernels } from "../backend/_kernels.ts";
import { ROOT } from "../support/fixtures.ts";
import { BROWSER_SKIPPED, OpenPage } from "./_chromium.ts";

const MODEL = "models/tiny_v3_moe.q4_k_m.gguf";

/**
 * Of the suite, what tries every kind of kernel with every type of weights; comparing bits takes as many
 * kernels again. Of some tests each so-manieth step is taken: a second or more goes into each kernel.
 */
const TRIED: readonly (readonly [name: RegExp, every: number])[] = [
  [/embed gives/, 1],
  [/rmsNorm is right/, 1],
  [/gatherRows copies/, 1],
  [/linear is right/, 1],
  [/gatedLinear is right/, 3],
  [/experts add/, 3],
  [/one expert serves many rows/, 1],
  [/the gate chooses/, 2],
  [/: attention is right over paged/, 3],
  [/latent attention is right over paged/, 3],
  [/pages of .* in q8 come back/, 1],
  [/the largest logit is chosen/, 1],
  [/ties at every border go by id/, 1],
];

async function inPage(
  t: Deno.TestContext,
  body: (page: OpenPage, t: Deno.TestContext) => Promise<void>,
): Promise<void> {
  const page = await OpenPage.open();
  try {
    await body(page, t);
  } finally {
    await page.close();
  }
}

function test(name: string, body: Parameters<typeof inPage>[1]): void {
  const note = BROWSER_SKIPPED === undefined ? "" : ` (skipped: ${BROWSER_SKIPPED})`;
  Deno.test({
    name: `browser: ${name}${note}`,
    ignore: BROWSER_SKIPPED !== undefined,
    fn: (t) => inPage(t, body),
  });
}

test("its compiler has nothing against any kernel of the suite", async (page) => {
  assert(await page.call("adapter") !== null);
  assertEquals(await page.call("faultsOf", await suiteKernels()), []);
});

test("kernels of every op and type are right", async (page, t) => {
  const names = await page.call("declare", LEAST_LIMITS);
  for (const [pattern, every] of TRIED) {
    for (const name of names.filter((name) => pattern.test(name))) {
      await t.step(
        name,
        async () => assertEquals((await page.call("run", name, every)).errors, []),
      );
    }
  }
});

test("an engine gives the tokens that the WASM kernels give in Deno", async (page) => {
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
