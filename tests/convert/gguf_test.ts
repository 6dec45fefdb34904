/** Exported files against those of llama.cpp's converter, and against the folders they come from. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { loadChatTemplate } from "../../src/chat/mod.ts";
import { main } from "../../src/cli/export.ts";
import { FormatError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type { MetadataValue, TensorSource } from "../../src/formats/tensor_source.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { recordedIo } from "../cli/_io.ts";
import { withFolder } from "../training/data/_corpus.ts";
import { joinFolders, recordedModels, wideModel } from "./_folders.ts";

/** What the converter adds and nothing reads here, and what it takes from a folder's name. */
const NOT_COMPARED = ["general.name", "general.size_label", "tokenizer.ggml.add_sep_token"];

async function exported(
  path: string,
  { quant, out }: { quant: string; out: string },
): Promise<string> {
  const io = recordedIo();
  assertEquals(await main([path, "--gguf", "--quant", quant, "--out", out], io), 0);
  return io.err();
}

/** A value with lists as arrays. */
function plain(value: MetadataValue): MetadataValue {
  return typeof value === "object" && value !== null && Symbol.iterator in value
    ? [...value]
    : value;
}

async function bytesOf(source: TensorSource, name: string): Promise<Uint8Array> {
  const tensor = source.tensors.get(name)!;
  const bytes = new Uint8Array(tensor.byteLength);
  await source.read(tensor, 0, bytes);
  return bytes;
}

for (const recorded of recordedModels()) {
  const name = recorded.model.replace(/.*\//, "");
  Deno.test(`an export of ${name} to ${recorded.type} has the keys, tensors and bytes of llama.cpp's converter`, async () => {
    await withFolder(async (folder) => {
      const out = `${folder}/out.gguf`;
      await exported(joinFolders(folder, recorded), { quant: recorded.type, out });
      const own = await openCheckpoint(out);
      const theirs = await openCheckpoint(recorded.gguf);
      for (const [key, value] of theirs.metadata) {
        if (NOT_COMPARED.includes(key)) continue;
        assert(own.metadata.has(key), `${key} is missing`);
        assertEquals(plain(own.metadata.get(key)!), plain(value), key);
      }
      assertEquals([...own.tensors.keys()].sort(), [...theirs.tensors.keys()].sort());
      for (const [tensor, { type, shape }] of theirs.tensors) {
        const mine = own.tensors.get(tensor)!;
        assertEquals([mine.type, mine.shape], [type, shape], tensor);
        assertEquals(await bytesOf(own, tensor), await bytesOf(theirs, tensor), tensor);
      }
      own.close();
      theirs.close();
    });
  });
}

const IDS = Array.from({ length: 24 }, (_, i) => (i * 131 + 7) % 500);

/** Logits of all positions, [tokens, vocab]. */
async function logitsOf(path: string): Promise<Float32Array> {
  const source = await openCheckpoint(path);
  const backend = await createWasmBackend({ threads: 1, activations: "f32" });
  try {
    const model = await loadModel({ source, backend, maxRows: 64, maxLogitRows: 64 });
    const options = { model, backend, maxRows: 64, sequences: 1, tokens: 64 };
    const [logits] = await new Evaluator(options).allLogits([IDS], { chunk: 64 });
    return logits;
  } finally {
    backend.close();
    source.close();
  }
}

/** Root of the mean squared difference, in parts of the expected values' own. */
function relativeRms(actual: Float32Array, expected: Float32Array): number {
  const squares = (of: (i: number) => number) =>
    expected.reduce((sum, _, i) => sum + of(i) ** 2, 0);
  return Math.sqrt(squares((i) => actual[i] - expected[i]) / squares((i) => expected[i]));
}

/** How far logits may be off, in parts of their own size; about twice what they are. */
const RMS = { F32: 1e-5, F16: 2e-3, BF16: 1.3e-2, Q8_0: 4e-2, Q4_K: 0.4 } as const;

Deno.test("an exported file gives the folder's logits, as nearly as its type allows", async () => {
  await withFolder(async (folder) => {
    const path = await wideModel(folder);
    const expected = await logitsOf(path);
    for (const [quant, most] of Object.entries(RMS)) {
      const out = `${folder}/${quant}.gguf`;
      const notices = await exported(path, { quant, out });
      const rms = relativeRms(await logitsOf(out), expected);
      assert(rms <= most && (quant === "F32" || rms > most / 20), `${quant}: ${rms}`);
      if (quant !== "Q4_K") assertEquals(notices, "");
      else assertMatch(notices, /^Q8_0 in place of Q6_K: blk\.0\.attn_k_b\.weight \(rows of 32\)/);
    }
    const types = new Map<string, string>();
    const file = await openCheckpoint(`${folder}/Q4_K.gguf`);
    for (const { name, type } of file.tensors.values()) types.set(name, type);
    file.close();
    assertEquals(
      ["output", "blk.0.ffn_down", "blk.1.ffn_down_exps", "blk.1.ffn_up_exps", "blk.0.attn_v_b"]
        .map((name) => types.get(`${name}.weight`)),
      ["Q6_K", "Q4_K", "Q6_K", "Q4_K", "Q6_K"],
    );
    assertEquals(types.get("blk.1.ffn_gate_inp.weight"), "F32");
    const again = `${folder}/again.gguf`;
    await exported(path, { quant: "Q4_K", out: again });
    assertEquals(Deno.readFileSync(again), Deno.readFileSync(`${folder}/Q4_K.gguf`));
  });
});

Deno.test("an export says so where it leaves out a layer that predicts further tokens", async () => {
  await withFolder(async (folder) => {
    const norm = { name: "model.layers.2.enorm.weight", dtype: "F32", shape: [256] } as const;
    const path = await wideModel(folder, { extra: [{ ...norm, data: new Float32Array(256) }] });
    const notices = await exported(path, { quant: "Q8_0", out: `${folder}/without.gguf` });
    assertMatch(notices, /^1 layers that predict further tokens are left out/);
  });
});

Deno.test("an exported file's tokenizer and template are the folder's", async () => {
  await withFolder(async (folder) => {
    const path = await wideModel(folder);
    await exported(path, { quant: "F16", out: `${folder}/out.gguf` });
    const [from, to] = [await openCheckpoint(path), await openCheckpoint(`${folder}/out.gguf`)];
    const [a, b] = [await loadTokenizer(from), await loadTokenizer(to)];
    for (const text of ["one  two 1234, и 漢字\n\tx", "<｜User｜>Hi<think>", "a'B'LL don't"]) {
      assertEquals(b.encode(text), a.encode(text), text);
    }
    assertEquals([b.bosToken, b.eosTokens], [a.bosToken, a.eosTokens]);
    const template = async (source: TensorSource, tokenizer: typeof a) =>
      (await loadChatTemplate(source, { tokenizer })).render([{ role: "user", content: "Hi" }]);
    assertEquals(await template(to, b), await template(from, a));
    from.close();
    to.close();
  });
});

Deno.test("an export refuses what it cannot write, and leaves what was there", async () => {
  await withFolder(async (folder) => {
    const path = await wideModel(folder);
    const out = `${folder}/out.gguf`;
    const run = (...args: string[]) => main(args, recordedIo());
    await assertRejects(() => run("--gguf"), OptionError, "no folder is given");
    await assertRejects(() => run(path), OptionError, "--gguf is missing");
    await exported(path, { quant: "Q8_0", out });
    await assertRejects(() => run(out, "--gguf"), OptionError, "it is GGUF");
    const before = Deno.readFileSync(out);
    const weights = Deno.readFileSync(`${path}/model.safetensors`);
    // The last value of the file becomes NaN.
    Deno.writeFileSync(`${path}/model.safetensors`, weights.fill(255, weights.length - 4));
    const broken = () => run(path, "--gguf", "--out", out);
    await assertRejects(broken, FormatError, "must be finite");
    const config = JSON.parse(Deno.readTextFileSync(`${path}/config.json`));
    const change = (fields: Record<string, unknown>) =>
      Deno.writeTextFileSync(`${path}/config.json`, JSON.stringify({ ...config, ...fields }));
    change({ rope_interleave: false });
    await assertRejects(broken, UnsupportedOpError, '"rope_interleave" is false');
    change({ vocab_size: 500 });
    await assertRejects(broken, FormatError);
    assertEquals(Deno.readFileSync(out), before);
    assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
      "out.gguf",
      "wide",
    ]);
  });
});
