/** Opening checkpoints by path: what is decided by content, by name, and by what lies beside. */

import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { createFile, openFile } from "../../src/formats/deno_file.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { buildGguf, HONEST, type KeyValue } from "./_gguf_builder.ts";
import { buildSafetensors, HONEST_DATA, HONEST_HEADER } from "./_safetensors_builder.ts";

const CONFIG = JSON.stringify({ architectures: ["LlamaForCausalLM"], hidden_size: 8 });

/** Runs a test with these files (by name) in a new folder. */
async function withFiles(
  files: Record<string, Uint8Array | string>,
  test: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = Deno.makeTempDirSync();
  try {
    for (const [name, content] of Object.entries(files)) {
      if (typeof content === "string") Deno.writeTextFileSync(`${folder}/${name}`, content);
      else Deno.writeFileSync(`${folder}/${name}`, content);
    }
    await test(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

const SAFETENSORS = buildSafetensors(HONEST_HEADER, { data: HONEST_DATA });

/** A shard of one F32 vector. */
function shard(tensor: string): Uint8Array {
  return buildSafetensors(
    { [tensor]: { dtype: "F32", shape: [2], data_offsets: [0, 8] } },
    { data: 8 },
  );
}

/** Part `no` of two. */
function part(no: number): Uint8Array {
  const keyValues: KeyValue[] = [
    { key: "general.architecture", type: "string", value: "llama" },
    { key: "split.no", type: "uint16", value: no },
    { key: "split.count", type: "uint16", value: 2 },
  ];
  const tensors = [{ name: `t${no}`, ne: [8], typeId: 0, byteLength: 32 }];
  return buildGguf({ keyValues, tensors });
}

Deno.test("a GGUF file is known by its content, whatever its name", async () => {
  await withFiles({ "a.gguf": buildGguf(HONEST), "blob": buildGguf(HONEST) }, async (folder) => {
    for (const name of ["a.gguf", "blob"]) {
      const source = await openCheckpoint(`${folder}/${name}`);
      assertEquals([source.format, source.name, source.tensors.size], ["gguf", name, 3]);
      const bytes = new Uint8Array(408);
      await source.read(source.tensors.get("token_embd.weight")!, 0, bytes);
      assertEquals(bytes[14], 1);
      source.close();
    }
  });
});

Deno.test("a split GGUF opens from any of its parts", async () => {
  const names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
  await withFiles({ [names[0]]: part(0), [names[1]]: part(1) }, async (folder) => {
    for (const name of names) {
      const source = await openCheckpoint(`${folder}/${name}`);
      assertEquals([...source.tensors.keys()], ["t0", "t1"]);
      source.close();
    }
  });
});

Deno.test("a split GGUF with a missing part is refused by the part's name", async () => {
  await withFiles({ "m-00001-of-00002.gguf": part(0) }, async (folder) => {
    await assertRejects(
      () => openCheckpoint(`${folder}/m-00001-of-00002.gguf`),
      FormatError,
      `cannot open "m-00002-of-00002.gguf": the path is missing`,
    );
  });
  await withFiles({ "m-00003-of-00002.gguf": part(0) }, async (folder) => {
    await assertRejects(
      () => openCheckpoint(`${folder}/m-00003-of-00002.gguf`),
      FormatError,
      "its part number is 3 of 2",
    );
  });
});

Deno.test("a safetensors file and its folder open alike, with config and sidecars", async () => {
  const files = {
    "model.safetensors": SAFETENSORS,
    "config.json": CONFIG,
    "tokenizer.json": `{"é": 1}`,
    "bad.json": new Uint8Array([0xff]),
  };
  await withFiles(files, async (folder) => {
    for (const path of [folder, `${folder}/`, `${folder}/model.safetensors`]) {
      const source = await openCheckpoint(path);
      assertEquals(source.format, "safetensors");
      assertEquals(source.metadata.get("hidden_size"), 8);
      assertEquals(await source.sidecar("tokenizer.json"), `{"é": 1}`);
      assertEquals(await source.sidecar("none.json"), null);
      await assertRejects(() => source.sidecar("bad.json"), FormatError, "is not UTF-8");
      await assertRejects(() => source.sidecar("../config.json"), FormatError, "plain file name");
      source.close();
    }
  });
});

Deno.test("sharded safetensors open through their index", async () => {
  const index = { weight_map: { a: "x.safetensors", b: "y.safetensors" } };
  const files = {
    "x.safetensors": shard("a"),
    "y.safetensors": shard("b"),
    "config.json": CONFIG,
    "model.safetensors.index.json": JSON.stringify(index),
  };
  await withFiles(files, async (folder) => {
    const source = await openCheckpoint(folder);
    assertEquals([...source.tensors.keys()], ["a", "b"]);
    source.close();
    Deno.removeSync(`${folder}/y.safetensors`);
    await assertRejects(
      () => openCheckpoint(folder),
      FormatError,
      `open "y.safetensors": the path`,
    );
  });
});

Deno.test("paths that hold no checkpoint are refused by what they are", async () => {
  const files = {
    "notes.txt": "hello",
    "empty.gguf": "",
    "wrong.gguf": "GGMLxxxxxxxxxxxx",
    "alone.safetensors": SAFETENSORS,
  };
  await withFiles(files, async (folder) => {
    const cases: readonly [string, string][] = [
      ["nothing", `cannot open "nothing": the path is missing, must be an existing file`],
      ["notes.txt", "the file is neither GGUF by its first bytes nor safetensors by its name"],
      ["empty.gguf", "the end of the magic number is byte 4, must be at most 0 (file size)"],
      ["wrong.gguf", "the magic number is 0x4c4d4747"],
      ["alone.safetensors", `"config.json" is missing, must be beside the weights`],
      [".", "the folder is without weights, must be a folder with model.safetensors"],
    ];
    for (const [name, message] of cases) {
      await assertRejects(() => openCheckpoint(`${folder}/${name}`), FormatError, message);
    }
  });
  await assertRejects(() => openCheckpoint("/dev/zero"), FormatError, "is a special file");
  await assertRejects(() => openCheckpoint(""), FormatError, "the path is");
});

Deno.test("reading fills exactly the wanted bytes, into shared memory too", async () => {
  const content = new Uint8Array(9_000_000).map((_, i) => i * 7 + (i >> 8));
  await withFiles({ "data": content }, async (folder) => {
    const file = openFile(`${folder}/data`);
    assertEquals([file.size, file.name], [9_000_000, "data"]);
    for (const buffer of [new ArrayBuffer(8_500_002), new SharedArrayBuffer(8_500_002)]) {
      const into = new Uint8Array(buffer, 1, 8_500_000);
      await file.read(12_345, into);
      const differs = into.findIndex((byte, i) => byte !== content[12_345 + i]);
      assertEquals(differs, -1);
      assertEquals([new Uint8Array(buffer)[0], new Uint8Array(buffer)[8_500_001]], [0, 0]);
    }
    const pair = [new Uint8Array(3), new Uint8Array(3)];
    await Promise.all([file.read(0, pair[0]), file.read(5000, pair[1])]);
    assertEquals(pair, [content.slice(0, 3), content.slice(5000, 5003)]);
    file.close();
    file.close();
    await assertRejects(() => file.read(0, pair[0]), FormatError, "the file is closed");
  });
});

Deno.test("reading past the end is refused, also where the file shrank since it was opened", async () => {
  await withFiles({ "data": new Uint8Array(100) }, async (folder) => {
    const file = openFile(`${folder}/data`);
    await assertRejects(() => file.read(99, new Uint8Array(2)), FormatError, "within 0..100");
    await assertRejects(() => file.read(-1, new Uint8Array(2)), FormatError, "within 0..100");
    Deno.truncateSync(`${folder}/data`, 50);
    const error = await assertRejects(() => file.read(40, new Uint8Array(20)), FormatError);
    assertStringIncludes(error.message, "the end of the file is byte 50, must be 60 or later");
    file.close();
  });
});

Deno.test("a created file holds the bytes written, in order", async () => {
  await withFiles({ "out": "longer than what replaces it" }, (folder) => {
    const file = createFile(`${folder}/out`);
    file.write(new Uint8Array([1, 2]));
    file.write(new Uint8Array([3]));
    file.close();
    assertEquals([...Deno.readFileSync(`${folder}/out`)], [1, 2, 3]);
    return Promise.resolve();
  });
});
