import { assert, assertEquals, assertThrows } from "@std/assert";
import { bytesPerStep, countWork, promptTokens, readWorkload } from "../../src/bench/workload.ts";
import { FormatError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type { MetadataValue, TensorSource } from "../../src/formats/tensor_source.ts";
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
      assertEquals(workload.routed, undefined);
      assertEquals(bytesPerStep(workload, { experts: 0 }), bytes);
      const norms = [...source.tensors.values()].filter(({ shape }) => shape.length === 1)
        .reduce((sum, { shape }) => sum + shape[0], 0);
      const active = macs + vocab * hidden + norms;
      assertEquals(workload.activeParameters, active, path);
      const untied = outputName === "output.weight";
      assertEquals(workload.parameters, active + (untied ? vocab * hidden : 0), path);
    } finally {
      source.close();
    }
  }
});

/** A checkpoint of float32 tensors of these shapes, which can only be counted. */
function source(
  { format, shapes, metadata }: {
    format: TensorSource["format"];
    shapes: Record<string, readonly number[]>;
    metadata: Record<string, MetadataValue>;
  },
): TensorSource {
  const tensors = Object.entries(shapes).map(([name, shape]) =>
    [name, {
      name,
      type: "F32",
      shape,
      byteLength: 4 * shape.reduce((product, n) => product * n, 1),
    }] as const
  );
  return {
    format,
    name: "made up",
    byteLength: 0,
    tensors: new Map(tensors),
    otherTensors: new Map(),
    metadata: new Map(Object.entries(metadata)),
    sidecar: () => Promise.resolve(null),
    read: () => Promise.reject(new Error("nothing is read")),
    close() {},
  };
}

const GGUF_EXPERTS = {
  format: "gguf",
  shapes: {
    "token_embd.weight": [100, 8],
    "output.weight": [100, 8],
    "output_norm.weight": [8],
    "blk.0.attn_k_b.weight": [2, 8, 4],
    "blk.0.ffn_up.weight": [16, 8],
    "blk.1.ffn_gate_inp.weight": [6, 8],
    "blk.1.ffn_up_exps.weight": [6, 4, 8],
    "blk.1.ffn_down_exps.weight": [6, 8, 4],
    "blk.1.ffn_up_exps.bias": [6, 4],
    "blk.1.ffn_up_shexp.weight": [4, 8],
    // Predicts more tokens at once; the model has two layers.
    "blk.2.ffn_up_exps.weight": [6, 4, 8],
  },
  metadata: { "general.architecture": "made", "made.expert_used_count": 2 },
} as const;

Deno.test("a workload counts the chosen experts' share, and of the embeddings one row", () => {
  const work = countWork(source(GGUF_EXPERTS), { layers: 2 });
  const always = 2 * 8 * 4 + 16 * 8 + 6 * 8 + 4 * 8;
  const experts = 6 * 4 * 8 * 2;
  const biases = 6 * 4;
  assertEquals(work.macsPerToken, always + experts / 3);
  assertEquals(work.outputMacs, 800);
  assertEquals(work.bytesPerToken, 4 * (800 + always + experts / 3));
  assertEquals(work.parameters, 1600 + 8 + always + experts + biases);
  assertEquals(work.activeParameters, 800 + 8 + always + (experts + biases) / 3);
  const routed = { layers: 1, experts: 6, topK: 2, bytes: 4 * (experts + biases) };
  assertEquals(work.routed, routed);
});

Deno.test("a step's bytes grow by the experts that it reads beyond one token's", () => {
  const work = { vocabSize: 100, contextLength: 64, fileBytes: 0 };
  const workload = { ...work, ...countWork(source(GGUF_EXPERTS), { layers: 2 }) };
  const { bytesPerToken, routed } = workload;
  assertEquals(bytesPerStep(workload, { experts: 2 }), bytesPerToken);
  assertEquals(bytesPerStep(workload, { experts: 3.5 }), bytesPerToken + routed!.bytes / 4);
});

Deno.test("experts that a file keeps one by one, or fused, are counted as those it stacks", () => {
  const one = Object.fromEntries(
    Array.from({ length: 6 }, (_, i) => [
      [`model.layers.0.mlp.experts.${i}.up_proj.weight`, [4, 8]],
      [`model.layers.0.mlp.experts.${i}.down_proj.weight`, [8, 4]],
    ]).flat(),
  );
  const fused = {
    "model.layers.0.block_sparse_moe.input_linear.weight": [6, 4, 8],
    "model.layers.0.block_sparse_moe.output_linear.weight": [6, 8, 4],
  };
  const shared = { "model.layers.0.mlp.shared_experts.up_proj.weight": [4, 8] };
  for (const shapes of [{ ...one, ...shared }, { ...fused, ...shared }]) {
    const metadata = { num_experts_per_tok: 2 };
    const work = countWork(source({ format: "safetensors", shapes, metadata }), { layers: 1 });
    assertEquals(work.routed, { layers: 1, experts: 6, topK: 2, bytes: 4 * 384 });
    assertEquals(work.macsPerToken, 384 / 3 + 32);
  }
});

Deno.test("a file with experts that doesn't say how many are chosen is refused", () => {
  const metadata = { "general.architecture": "made" };
  assertThrows(
    () => countWork(source({ ...GGUF_EXPERTS, metadata }), { layers: 2 }),
    FormatError,
    '"made.expert_used_count" is missing, must be a number above 0',
  );
});

Deno.test("prompt tokens are the documented ones, within any vocabulary", () => {
  assertEquals(promptTokens(4, { vocabSize: 49152 }), [300, 8219, 16138, 4057]);
  assert(promptTokens(600, { vocabSize: 512 }).every((id) => id >= 0 && id < 512));
});
