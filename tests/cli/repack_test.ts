import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { main } from "../../src/cli/repack.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
import { parseGgufHeader } from "../../src/formats/gguf/header.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type { TensorInfo, TensorSource } from "../../src/formats/tensor_source.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { buildGguf, type KeyValue } from "../formats/_gguf_builder.ts";
import { sharedFolder } from "../support/fixtures.ts";
import { recordedIo, TINY_MODEL } from "./_io.ts";

const shared = sharedFolder();

/** Runs `test` with a path in a folder of its own. */
async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function bytesOf(source: TensorSource, tensor: TensorInfo): Promise<Uint8Array> {
  const bytes = new Uint8Array(tensor.byteLength);
  await source.read(tensor, 0, bytes);
  return bytes;
}

/** A file of two layers' experts, with a bias each, and other tensors around them. */
function smallModel(count = 3, downCount = count): Uint8Array {
  const keyValues: KeyValue[] = [
    { key: "general.architecture", type: "string", value: "toy" },
    { key: "tokens", type: "array", elementType: "string", value: ["a", "b"] },
    { key: "split.count", type: "uint16", value: 0 },
  ];
  const stack = (name: string, ne: number[]) => ({
    name,
    ne,
    typeId: 0,
    byteLength: ne.reduce((a, b) => a * b) * 4,
  });
  return buildGguf({
    keyValues,
    tensors: [
      stack("blk.1.ffn_down_exps.weight", [2, 4, downCount]),
      stack("blk.1.ffn_gate_exps.weight", [4, 2, count]),
      stack("blk.1.ffn_up_exps.weight", [4, 2, count]),
      stack("first.weight", [3]),
      stack("blk.0.ffn_up_exps.bias", [2, count]),
      stack("blk.0.ffn_up_exps.weight", [4, 2, count]),
      stack("last.weight", [4, 4]),
    ],
  });
}

Deno.test("repack lays each expert's tensors side by side and changes no value", async () => {
  await withFolder(async (folder) => {
    await Deno.writeFile(`${folder}/in.gguf`, smallModel());
    const io = recordedIo();
    const args = ["--model", `${folder}/in.gguf`, "--out", `${folder}/out.gguf`];
    assertEquals(await main(args, io), 0);
    assertStringIncludes(io.out(), "out.gguf: 15 experts' tensors apart");
    const before = await openCheckpoint(`${folder}/in.gguf`);
    const after = await openCheckpoint(`${folder}/out.gguf`);
    const expert = (layer: number, e: number, names: string[]) =>
      names.map((name) => `blk.${layer}.${name.replace(".", `.${e}.`)}`);
    const [zero, one] = [
      ["ffn_up.weight", "ffn_up.bias"],
      ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"],
    ];
    assertEquals([...after.tensors.keys()], [
      "first.weight",
      "last.weight",
      ...[0, 1, 2].flatMap((e) => expert(0, e, zero)),
      ...[0, 1, 2].flatMap((e) => expert(1, e, one)),
    ]);
    await assertSameValues(before, after);
    assertEquals(after.metadata.get("sluice.experts_adjacent"), true);
    assertEquals(after.metadata.has("split.count"), false);
    assertEquals([...after.metadata.get("tokens") as Iterable<string>], ["a", "b"]);
    // Nothing but padding lies between an expert's tensors.
    const file = await Deno.readFile(`${folder}/out.gguf`);
    const { tensors } = parseGgufHeader(file, { name: "out", size: file.length });
    tensors.forEach(({ offset, byteLength }, i) => {
      const end = Math.ceil((offset + byteLength) / 32) * 32;
      if (i + 1 < tensors.length) assertEquals(tensors[i + 1].offset, end);
    });
    assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
      "in.gguf",
      "out.gguf",
    ]);
    before.close();
    after.close();
  });
});

/** Every tensor of `after` must be one of `before`, or an expert's share of one. */
async function assertSameValues(before: TensorSource, after: TensorSource): Promise<void> {
  let bytes = 0;
  for (const tensor of after.tensors.values()) {
    const found = await bytesOf(after, tensor);
    const split = /^(blk\.\d+\.ffn_[a-z]+)\.(\d+)\.(weight|bias)$/.exec(tensor.name);
    const name = split === null ? tensor.name : `${split[1]}_exps.${split[3]}`;
    const original = before.tensors.get(name);
    assert(original !== undefined, tensor.name);
    assertEquals(tensor.type, original.type);
    let expected = await bytesOf(before, original);
    if (split === null) assertEquals(tensor.shape, original.shape);
    else {
      assertEquals(tensor.shape, original.shape.slice(1));
      const start = Number(split[2]) * tensor.byteLength;
      expected = expected.subarray(start, start + tensor.byteLength);
    }
    assertEquals(found, expected, tensor.name);
    bytes += tensor.byteLength;
  }
  const total = [...before.tensors.values()].reduce((sum, t) => sum + t.byteLength, 0);
  assertEquals(bytes, total);
}

for (
  const file of [
    "deepseek_v3/deepseek_v3.q8_0.gguf",
    "qwen3_moe/qwen3_moe.q8_0.gguf",
    "granite_moe/granite_moe.f16.gguf",
    "mixtral/mixtral.f16.gguf",
    "olmoe/olmoe.q8_0.gguf",
  ]
) {
  Deno.test({
    name: `a repacked ${file} has the same bytes and gives the same logits`,
    ignore: shared === undefined,
    fn: async () => {
      await withFolder(async (folder) => {
        const model = `${shared}/fixtures/gguf/${file}`;
        await main(["--model", model, "--out", `${folder}/out.gguf`], recordedIo());
        const before = await openCheckpoint(model);
        const after = await openCheckpoint(`${folder}/out.gguf`);
        try {
          await assertSameValues(before, after);
          assertEquals(await logitsOf(after), await logitsOf(before));
        } finally {
          before.close();
          after.close();
        }
      });
    },
  });
}

async function logitsOf(source: TensorSource): Promise<Float32Array> {
  const backend = createReferenceBackend();
  const model = await loadModel({ source, backend, maxRows: 8, maxLogitRows: 8 });
  const evaluator = new Evaluator({ model, backend, maxRows: 8, sequences: 1, tokens: 8 });
  return await evaluator.prefill([3, 1, 4, 1, 5, 9], { chunk: 8 });
}

Deno.test("repack refuses models without stacked experts, repacked ones, and itself as output", async () => {
  await withFolder(async (folder) => {
    const [model, out] = [`${folder}/in.gguf`, `${folder}/out.gguf`];
    await Deno.writeFile(model, smallModel());
    const run = (model: string, out: string) =>
      main(["--model", model, "--out", out], recordedIo());
    await assertRejects(() => run(TINY_MODEL, out), OptionError, "no stacked experts");
    await assertRejects(() => run(folder, out), FormatError, "a folder");
    await assertRejects(() => run(model, model), OptionError, "--out is the model itself");
    await assertRejects(() => run(model, `${folder}/no/out.gguf`), OptionError, "--out cannot be");
    await assertRejects(
      () => main(["--model", model], recordedIo()),
      OptionError,
      "--out is missing",
    );
    await run(model, out);
    await assertRejects(() => run(out, `${folder}/again.gguf`), OptionError, "not yet repacked");
    assertEquals(await Deno.readFile(model), smallModel());
  });
});

Deno.test("a repack that fails leaves the old output and nothing else", async () => {
  await withFolder(async (folder) => {
    const [model, out] = [`${folder}/in.gguf`, `${folder}/out.gguf`];
    await Deno.writeFile(model, smallModel(3, 2));
    await Deno.writeTextFile(out, "as it was");
    const run = () => main(["--model", model, "--out", out], recordedIo());
    await assertRejects(run, FormatError, "ffn_down_exps.weight");
    await Deno.writeFile(model, smallModel().subarray(0, 700));
    await assertRejects(run, FormatError);
    assertEquals(await Deno.readTextFile(out), "as it was");
    assertEquals([...Deno.readDirSync(folder)].length, 2);
  });
});
