/** Reading honest GGUF files. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FormatError, UnsupportedOpError } from "../../src/errors.ts";
import { memoryByteSource } from "../../src/formats/byte_source.ts";
import { requireTensor } from "../../src/formats/checkpoint_source.ts";
import { openGguf } from "../../src/formats/gguf/source.ts";
import type { ByteSource, MetadataArray } from "../../src/formats/tensor_source.ts";
import { buildGguf, HONEST, type KeyValue } from "./_gguf_builder.ts";

Deno.test("a GGUF file's tensors come with type, shape outermost first, and bytes", async () => {
  const source = await openGguf([memoryByteSource(buildGguf(HONEST), "small.gguf")]);
  assertEquals(source.format, "gguf");
  assertEquals(source.name, "small.gguf");
  assertEquals([...source.tensors.values()], [
    { name: "token_embd.weight", type: "Q8_0", shape: [6, 64], byteLength: 408 },
    { name: "blk.0.attn_norm.weight", type: "F32", shape: [64], byteLength: 256 },
    { name: "blk.0.ffn_up.weight", type: "F16", shape: [2, 3, 64], byteLength: 768 },
  ]);
  const bytes = new Uint8Array(5);
  await source.read(source.tensors.get("blk.0.ffn_up.weight")!, 12, bytes);
  assertEquals([...bytes], [12, 0, 1, 2, 3].map((v) => 2 * 16 + v));
  assertEquals(await source.sidecar("tokenizer.json"), null);
});

Deno.test("every metadata type is read with its value", async () => {
  const keyValues: KeyValue[] = [
    { key: "a", type: "uint8", value: 255 },
    { key: "b", type: "int8", value: -128 },
    { key: "c", type: "uint16", value: 65535 },
    { key: "d", type: "int16", value: -32768 },
    { key: "e", type: "uint32", value: 4294967295 },
    { key: "f", type: "int32", value: -2147483648 },
    { key: "g", type: "float32", value: 0.5 },
    { key: "h", type: "bool", value: true },
    { key: "i", type: "string", value: "Größe\u0000" },
    { key: "j", type: "uint64", value: 2n ** 53n - 1n },
    { key: "k", type: "uint64", value: 2n ** 64n - 1n },
    { key: "l", type: "int64", value: -(2n ** 63n) },
    { key: "m", type: "float64", value: 0.1 },
  ];
  const source = await openGguf([memoryByteSource(buildGguf({ keyValues }))]);
  const values = keyValues.map(({ key }) => source.metadata.get(key));
  assertEquals(
    values,
    keyValues.map(({ value }) => typeof value === "bigint" ? value : value).map(
      (value) => value === 2n ** 53n - 1n ? Number(value) : value,
    ),
  );
});

Deno.test("string arrays give the same strings by index and by iteration", async () => {
  const value = Array.from({ length: 9001 }, (_, i) => "é日😀x".slice(0, i % 5) + i.toString(36));
  value[5] = "";
  const keyValues: KeyValue[] = [{ key: "t", type: "array", elementType: "string", value }];
  const source = await openGguf([memoryByteSource(buildGguf({ keyValues }))]);
  // Cutting an emoji in half makes text that has no UTF-8: compare with what was written.
  const expected = value.map((text) => text.toWellFormed());
  const array = source.metadata.get("t") as MetadataArray;
  assertEquals(array.length, 9001);
  assertEquals([...array], expected);
  assertEquals(expected.map((_, i) => array.at(i)), expected);
  assertThrows(() => array.at(9001), RangeError);
});

Deno.test("a token that is no UTF-8 is named when it is asked for, alone and in bulk", async () => {
  const bytes = buildGguf({
    keyValues: [{ key: "t", type: "array", elementType: "string", value: ["ok", "é", "fine"] }],
  });
  const at = bytes.findIndex((byte, i) => byte === 0xc3 && bytes[i + 1] === 0xa9);
  // The two bytes of the letter trade places: neither half is text any more.
  bytes.set([0xa9, 0xc3], at);
  const array = (await openGguf([memoryByteSource(bytes)])).metadata.get("t") as MetadataArray;
  assertEquals(array.at(0), "ok");
  assertThrows(() => array.at(1), FormatError, "is not UTF-8");
  assertThrows(() => [...array], FormatError, "is not UTF-8");
});

Deno.test("a sequence that two tokens share is not read as text", async () => {
  const bytes = buildGguf({
    keyValues: [{ key: "t", type: "array", elementType: "string", value: ["aa", "bb"] }],
  });
  bytes[bytes.lastIndexOf(0x61)] = 0xc3;
  bytes[bytes.indexOf(0x62)] = 0xa9;
  const array = (await openGguf([memoryByteSource(bytes)])).metadata.get("t") as MetadataArray;
  assertThrows(() => [...array], FormatError, "is not UTF-8");
});

Deno.test("alignment 64 and a missing last padding are read", async () => {
  const keyValues: KeyValue[] = [{ key: "general.alignment", type: "uint32", value: 64 }];
  const spec = { ...HONEST, keyValues, alignment: 64, unpadded: true };
  const source = await openGguf([memoryByteSource(buildGguf(spec))]);
  const bytes = new Uint8Array(1);
  await source.read(source.tensors.get("blk.0.attn_norm.weight")!, 0, bytes);
  assertEquals(bytes[0], 16);
});

Deno.test("version 2 and a vocabulary without tensors are read", async () => {
  const source = await openGguf([
    memoryByteSource(buildGguf({ ...HONEST, version: 2, tensors: [] })),
  ]);
  assertEquals(source.tensors.size, 0);
  assertEquals(source.metadata.get("general.architecture"), "llama");
});

Deno.test("integer tensors are listed apart and refused as weights by their type", async () => {
  const tensors = [{ name: "ids", ne: [5], typeId: 26, byteLength: 20 }];
  const source = await openGguf([memoryByteSource(buildGguf({ tensors }))]);
  assertEquals([...source.tensors.keys()], []);
  assertEquals(source.otherTensors.get("ids")?.dtype, "I32");
  assertThrows(() => requireTensor(source, "ids"), UnsupportedOpError, "its type is I32");
  assertThrows(() => requireTensor(source, "no"), FormatError, `tensor "no" is missing`);
});

Deno.test("reading beyond a tensor's end is refused", async () => {
  const source = await openGguf([memoryByteSource(buildGguf(HONEST))]);
  const tensor = source.tensors.get("token_embd.weight")!;
  await source.read(tensor, 400, new Uint8Array(8));
  for (const [offset, length] of [[401, 8], [-1, 1], [0.5, 1], [408, 1]]) {
    await assertRejects(
      () => source.read(tensor, offset, new Uint8Array(length)),
      FormatError,
      "within 0..408",
    );
  }
});

/** A source that notes how far it is read, as a file of `size` bytes beginning with `bytes`. */
function sparse(bytes: Uint8Array, size: number): ByteSource & { furthest: () => number } {
  let furthest = 0;
  return {
    size,
    name: "sparse.gguf",
    // deno-lint-ignore require-await
    read: async (offset, into) => {
      furthest = Math.max(furthest, offset + into.length);
      into.fill(0);
      if (offset < bytes.length) into.set(bytes.subarray(offset, offset + into.length));
    },
    close: () => {},
    furthest: () => furthest,
  };
}

Deno.test("a large file is read no further than its header needs", async () => {
  const data = 1 << 30;
  const tensors = [{ name: "big", ne: [2 ** 28], typeId: 0, byteLength: 0 }];
  const header = buildGguf({ ...HONEST, tensors });
  const file = sparse(header, header.length + data);
  const source = await openGguf([file]);
  assertEquals(source.tensors.get("big")?.byteLength, data);
  assert(file.furthest() <= 2 * 1024 * 1024, `read up to ${file.furthest()}`);
});

Deno.test("a header longer than the first window is read whole", async () => {
  const value = Array.from({ length: 150_000 }, (_, i) => `token number ${i}`);
  const keyValues: KeyValue[] = [
    { key: "t", type: "array", elementType: "string", value },
    { key: "after", type: "string", value: "here" },
  ];
  const source = await openGguf([memoryByteSource(buildGguf({ ...HONEST, keyValues }))]);
  assertEquals(source.metadata.get("after"), "here");
  assertEquals((source.metadata.get("t") as MetadataArray).at(149_999), "token number 149999");
  assertEquals(source.tensors.size, 3);
});

/** Part `no` of `count` with one tensor each. */
function part(no: number, options: { count: number; total?: number; name?: string }): ByteSource {
  const keyValues: KeyValue[] = [
    ...(no === 0 ? HONEST.keyValues! : []),
    { key: "split.no", type: "uint16", value: no },
    { key: "split.count", type: "uint16", value: options.count },
    { key: "split.tensors.count", type: "int32", value: options.total ?? options.count },
  ];
  const tensors = [{ name: options.name ?? `t${no}`, ne: [8], typeId: 0, byteLength: 32 }];
  return memoryByteSource(buildGguf({ keyValues, tensors }), `p${no}.gguf`);
}

Deno.test("parts of a split file are one checkpoint", async () => {
  const source = await openGguf([part(0, { count: 2 }), part(1, { count: 2 })]);
  assertEquals([...source.tensors.keys()], ["t0", "t1"]);
  assertEquals(source.metadata.get("general.architecture"), "llama");
  const bytes = new Uint8Array(2);
  await source.read(source.tensors.get("t1")!, 1, bytes);
  assertEquals([...bytes], [1, 2]);
});

Deno.test("parts that don't belong together are refused", async () => {
  const open = (...files: ByteSource[]) => () => openGguf(files);
  await assertRejects(
    open(part(0, { count: 2 })),
    FormatError,
    `key "split.count" is 2, must be 1`,
  );
  await assertRejects(
    open(part(1, { count: 2 }), part(0, { count: 2 })),
    FormatError,
    `key "split.no" is 1, must be 0`,
  );
  await assertRejects(
    open(part(0, { count: 3 }), part(1, { count: 2 })),
    FormatError,
    `key "split.count" is 3, must be 2`,
  );
  await assertRejects(
    open(part(0, { count: 2, total: 3 }), part(1, { count: 2 })),
    FormatError,
    `key "split.tensors.count" is 3, must be 2`,
  );
  await assertRejects(
    open(part(0, { count: 2 }), part(1, { count: 2, name: "t0" })),
    FormatError,
    `tensor "t0" is also in "p0.gguf"`,
  );
});
