/** Exported files against those of llama.cpp's converter, and against the folders they come from. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { main } from "../../src/cli/export.ts";
import { FormatError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type { MetadataValue, TensorSource } from "../../src/formats/tensor_source.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { recordedIo } from "../cli/_io.ts";
import { withFolder } from "../training/data/_corpus.ts";
import { joinFolders, recordedModels } from "./_folders.ts";

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
