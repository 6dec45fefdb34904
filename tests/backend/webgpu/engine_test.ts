/** What an engine on the GPU says of options that it does not follow. */

import { assertEquals } from "@std/assert";
import { openLocalEngine } from "../../../src/engine/open_local_engine.ts";
import { ROOT } from "../../support/fixtures.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../../support/gpu.ts";

Deno.test({
  name: `gpu: that nothing is guessed there is said to whoever asks for it${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  async fn() {
    const engine = await openLocalEngine({
      model: new URL("models/tiny_v3_moe.q4_k_m.gguf", ROOT).pathname,
      ...{ backend: "webgpu", activations: "f32", threads: 1, slots: 1, chunkTokens: 16 },
      ...{ contextLength: 64, speculation: "ngram" },
    });
    assertEquals(engine.info.warnings, [
      "nothing is guessed (--speculate ngram) on the webgpu backend",
    ]);
    await engine.close({ graceMs: 0 });
  },
});
