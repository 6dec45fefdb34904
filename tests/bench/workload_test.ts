import { assert, assertEquals } from "@std/assert";
import { promptTokens, readWorkload } from "../../src/bench/workload.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { ROOT } from "../support/fixtures.ts";

Deno.test("a workload counts the matrices of all layers once and the output matrix apart", async () => {
  for (
    const [path, outputName] of [
      ["gguf/qwen3/qwen3.q8_0.gguf", "token_embd.weight"],
      ["models/qwen2_tied", "model.embed_tokens.weight"],
      ["gguf/llama3_r1_distill/llama3_r1_distill.q8_0.gguf", "output.weight"],
    ]
  ) {
    const file = new URL(`tests/data/goldens/${path}`, ROOT).pathname;
    const workload = await readWorkload(file);
    const source = await openCheckpoint(file);
    try {
      const layers = [...source.tensors.values()].filter(({ name, shape }) =>
        shape.length === 2 && /^(blk|model\.layers)\./.test(name)
      );
      const output = source.tensors.get(outputName)!;
      assert(layers.length > 0);
      const [vocab, hidden] = output.shape;
      assertEquals(workload.vocabSize, vocab);
      assertEquals(workload.outputMacs, vocab * hidden, path);
      const macs = layers.reduce((sum, { shape }) => sum + shape[0] * shape[1], 0);
      assertEquals(workload.macsPerToken, macs, path);
      const bytes = layers.reduce((sum, { byteLength }) => sum + byteLength, output.byteLength);
      assertEquals(workload.bytesPerToken, bytes, path);
    } finally {
      source.close();
    }
  }
});

Deno.test("prompt tokens are the documented ones, within any vocabulary", () => {
  assertEquals(promptTokens(4, { vocabSize: 49152 }), [300, 8219, 16138, 4057]);
  assert(promptTokens(600, { vocabSize: 512 }).every((id) => id >= 0 && id < 512));
});
