/** Faults of a GPU below an engine in a worker: streams end or go on by WASM, and the next one is right. */

import { assert, assertEquals } from "@std/assert";
import { findAdapter } from "../../src/backend/webgpu/device.ts";
import { openEngine } from "../../src/engine/open_engine.ts";
import type { Engine, EngineOptions } from "../../src/engine/types.ts";
import { parseFaults } from "../../src/faults.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { ROOT } from "../support/fixtures.ts";
import { HANG_MS, within } from "./_streams.ts";

const OPTIONS = {
  model: new URL("models/tiny_v3_moe.q4_k_m.gguf", ROOT).pathname,
  backend: "webgpu",
  activations: "f32",
  threads: 1,
  slots: 2,
  chunkTokens: 32,
  contextLength: 128,
} as const satisfies EngineOptions;

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

const ignore = await findAdapter() === null;

Deno.test({
  name: "gpu: a device that is lost ends its streams by name, and the next one is right, by WASM",
  ignore,
  async fn() {
    let expected: number[] = [];
    await withEngine({ backend: "wasm" }, async (engine) => {
      expected = await answer(engine);
    });
    // While the prompt is computed, in the middle of a burst, and between bursts.
    for (const at of [1, 9, 20]) {
      await withEngine({ faults: parseFaults(`gpu:${at}`) }, async (engine) => {
        assertEquals(engine.info.backend, "webgpu");
        const first = await within(
          HANG_MS,
          "the stream",
          answer(engine).catch((error: Error) => error.message),
        );
        if (typeof first === "string") assert(first.includes("on the GPU"), first);
        else assertEquals(first, expected);
        assertEquals(await within(HANG_MS, "the next stream", answer(engine)), expected);
        assertEquals(engine.info.backend, "wasm");
      });
    }
  },
});

Deno.test({
  name: "gpu: a kernel that doesn't compile and memory that is refused are said, or left for WASM",
  ignore,
  async fn() {
    for (const fault of ["shader:3", "gpu:memory:2"]) {
      let message = "";
      try {
        await withEngine({ faults: parseFaults(fault) }, async (engine) => {
          await answer(engine);
        });
      } catch (error) {
        message = (error as Error).message;
      }
      assert(/GPU/.test(message), `${fault}: ${message}`);
    }
  },
});
