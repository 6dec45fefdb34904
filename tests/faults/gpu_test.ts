/** Faults of a GPU below an engine in a worker: streams end or go on by WASM, and the next one is right. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { openEngine } from "../../src/engine/open_engine.ts";
import type { Engine, EngineOptions } from "../../src/engine/types.ts";
import { CapacityError } from "../../src/errors.ts";
import { parseFaults } from "../../src/faults.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { ROOT } from "../support/fixtures.ts";
import { within } from "./_streams.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";

const OPTIONS = {
  model: new URL("models/tiny_v3_moe.q4_k_m.gguf", ROOT).pathname,
  backend: "webgpu",
  activations: "f32",
  threads: 1,
  slots: 2,
  chunkTokens: 32,
  contextLength: 128,
} as const satisfies EngineOptions;

/** Software adapters take long to compile kernels for the first time. */
const HANG_MS = 180_000;

const PROMPT = [5, 12, 19, 26, 33, 40];

async function answer(engine: Engine): Promise<number[]> {
  const tokens: number[] = [];
  const request = {
    ...{ tokens: PROMPT, sampling: NEUTRAL_SAMPLING, maxTokens: 40, stopTokens: [] },
  };
  for await (const event of engine.generate(request)) {
    if (event.type === "token") tokens.push(event.token);
  }
  return tokens;
}

async function withEngine(
  options: Partial<EngineOptions>,
  body: (engine: Engine) => Promise<void>,
): Promise<void> {
  const engine = await openEngine({ ...OPTIONS, ...options });
  try {
    await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

const ignore = GPU_SKIPPED !== undefined;

/** What the WASM kernels answer. */
async function wasmAnswer(): Promise<number[]> {
  let tokens: number[] = [];
  await withEngine({ backend: "wasm" }, async (engine) => {
    tokens = await answer(engine);
  });
  return tokens;
}

Deno.test({
  name:
    `gpu: a device that is lost ends its stream by name, and the next one is right, by WASM${SKIP_NOTE}`,
  ignore,
  async fn() {
    const expected = await wasmAnswer();
    // While the prompt is computed, in the middle of a burst, and between bursts.
    for (const at of [1, 5, 10]) {
      await withEngine({ faults: parseFaults(`gpu:${at}`) }, async (engine) => {
        assertEquals(engine.info.backend, "webgpu");
        const first = await within(
          HANG_MS,
          "the stream",
          answer(engine).catch((error: Error) => error.message),
        );
        // Nothing had been said of the first one when its device was lost, so it was begun again.
        if (at === 1) assertEquals(first, expected);
        else assert(typeof first === "string" && first.includes("on the GPU"), `${first}`);
        assertEquals(await within(HANG_MS, "the next stream", answer(engine)), expected);
        assertEquals(engine.info.backend, "wasm");
      });
    }
  },
});

Deno.test({
  name:
    `gpu: where a kernel doesn't compile, requests that have not begun go on by WASM${SKIP_NOTE}`,
  ignore,
  async fn() {
    const expected = await wasmAnswer();
    await withEngine({ faults: parseFaults("shader:3") }, async (engine) => {
      assertEquals(await within(HANG_MS, "the stream", answer(engine)), expected);
      assertEquals(engine.info.backend, "wasm");
    });
  },
});

Deno.test({
  name: `gpu: memory that is refused is said where the GPU was asked for by name${SKIP_NOTE}`,
  ignore,
  async fn() {
    await assertRejects(
      () => withEngine({ faults: parseFaults("gpu:memory:2") }, () => Promise.resolve()),
      CapacityError,
      "on the GPU",
    );
    await assertRejects(
      () => withEngine({ gpuBytes: 1 << 20 }, () => Promise.resolve()),
      CapacityError,
      "on the GPU",
    );
  },
});
