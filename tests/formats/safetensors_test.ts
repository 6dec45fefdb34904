/** Reading and writing honest safetensors files. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FormatError, UnsupportedOpError } from "../../src/errors.ts";
import { memoryByteSource } from "../../src/formats/byte_source.ts";
import { requireTensor } from "../../src/formats/checkpoint_source.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { openSafetensors, parseWeightMap } from "../../src/formats/safetensors/source.ts";
import { SafetensorsWriter, writeSafetensors } from "../../src/formats/safetensors/writer.ts";
import { buildSafetensors, HONEST_DATA, HONEST_HEADER } from "./_safetensors_builder.ts";

const CONFIG = () => `{"model_type": "llama", "big": 18446744073709551615, "__proto__": {"x": 1}}`;

Deno.test("a safetensors file's weights come with type, shape and bytes, the rest apart", async () => {
  const bytes = buildSafetensors(HONEST_HEADER, { data: HONEST_DATA });
  const source = await openSafetensors({
    name: "small",
    files: [memoryByteSource(bytes, "model.safetensors")],
    config: CONFIG,
  });
  assertEquals([...source.tensors.values()], [
    { name: "model.embed_tokens.weight", type: "BF16", shape: [5, 8], byteLength: 80 },
    { name: "model.layers.0.bias", type: "F32", shape: [3], byteLength: 12 },
  ]);
  assertEquals([...source.otherTensors.values()].map(({ dtype, shape }) => [dtype, shape]), [
    ["F8_E4M3", [2, 5]],
    ["I64", [1]],
  ]);
  const start = bytes.length - HONEST_DATA;
  const read = new Uint8Array(4);
  await source.read(source.tensors.get("model.layers.0.bias")!, 8, read);
  assertEquals(read, bytes.slice(start + 88, start + 92));
  assertThrows(
    () => requireTensor(source, "model.layers.0.scale"),
    UnsupportedOpError,
    "its type is F8_E4M3, must be a weight type",
  );
});

Deno.test("config.json keeps large integers, and __proto__ is a key like any other", async () => {
  const bytes = buildSafetensors(HONEST_HEADER, { data: HONEST_DATA });
  const source = await openSafetensors({
    name: "small",
    files: [memoryByteSource(bytes)],
    config: CONFIG,
  });
  assertEquals(source.metadata.get("big"), 18446744073709551615n);
  assertEquals(source.metadata.get("__proto__"), { x: 1 });
  assertEquals(Object.hasOwn({}, "x"), false);
});

/** Shards of one tensor each, and the index that names them. */
function shards(): { files: ReturnType<typeof memoryByteSource>[]; index: Map<string, string> } {
  const shard = (tensor: string) => {
    const header = { [tensor]: { dtype: "F32", shape: [2], data_offsets: [0, 8] } };
    return memoryByteSource(buildSafetensors(header, { data: 8 }), `${tensor}.safetensors`);
  };
  return {
    files: [shard("a"), shard("b")],
    index: new Map([["a", "a.safetensors"], ["b", "b.safetensors"]]),
  };
}

Deno.test("shards are one checkpoint", async () => {
  const { files, index } = shards();
  const source = await openSafetensors({ name: "m", files, config: CONFIG, weightMap: index });
  assertEquals([...source.tensors.keys()], ["a", "b"]);
  assertEquals(source.byteLength, files[0].size + files[1].size);
});

Deno.test("an index that disagrees with its shards is refused", async () => {
  const open = (change: (index: Map<string, string>) => void) => () => {
    const { files, index } = shards();
    change(index);
    return openSafetensors({ name: "m", files, config: CONFIG, weightMap: index });
  };
  await assertRejects(
    open((index) => index.delete("b")),
    FormatError,
    `the file of tensor "b" is missing, must be "b.safetensors"`,
  );
  await assertRejects(
    open((index) => index.set("b", "a.safetensors")),
    FormatError,
    `the file of tensor "b" is "a.safetensors", must be "b.safetensors"`,
  );
  await assertRejects(
    open((index) => index.set("c", "a.safetensors")),
    FormatError,
    `tensor "c" is missing, must be in "a.safetensors"`,
  );
});

Deno.test("an index names only files beside it", () => {
  const parse = (file: string) =>
    parseWeightMap(JSON.stringify({ weight_map: { w: file } }), "model.safetensors.index.json");
  assertEquals(parse("model-00001-of-00002.safetensors").size, 1);
  const bad = [
    "../x.safetensors",
    "/etc/x.safetensors",
    "a/b.safetensors",
    "x.bin",
    "",
    ".safetensors",
  ];
  for (const file of bad) assertThrows(() => parse(file), FormatError, "must be the plain name of");
  for (const text of ["{}", "[]", `{"weight_map": []}`, `{"weight_map": {}}`]) {
    assertThrows(() => parseWeightMap(text, "index.json"), FormatError, "weight_map");
  }
  assertThrows(
    () => parseWeightMap(`{"weight_map": {"a": 3}}`, "index.json"),
    FormatError,
    `the file of tensor "a" is number`,
  );
});

Deno.test("a written file is read back with the same values, also by name order of integers", () => {
  const logits = new Float32Array([1.5, -0, NaN, Infinity, 2 ** -149, 3]);
  const bytes = writeSafetensors([
    { name: "seq0.logits", dtype: "F32", shape: [2, 3], data: logits },
    { name: "7", dtype: "I32", shape: [2], data: new Int32Array([-1, 2 ** 31 - 1]) },
    { name: "3", dtype: "I32", shape: [0, 4], data: new Int32Array() },
    { name: "one", dtype: "F32", shape: [], data: new Float32Array([4]) },
  ]);
  const arrays = new SafetensorsArrays(bytes);
  assertEquals(arrays.names, ["seq0.logits", "7", "3", "one"]);
  assertEquals(
    new Uint32Array(arrays.get("seq0.logits", "F32").buffer),
    new Uint32Array(logits.buffer),
  );
  assertEquals(arrays.shape("seq0.logits"), [2, 3]);
  assertEquals([...arrays.get("7", "I32")], [-1, 2 ** 31 - 1]);
  assertEquals(arrays.get("3", "I32").length, 0);
  assertEquals([...arrays.get("one", "F32")], [4]);
  assertEquals(new DataView(bytes.buffer).getUint32(0, true) % 8, 0);
});

Deno.test("values written in pieces make the same file as values written at once", () => {
  const data = Float32Array.from({ length: 12 }, (_, i) => i / 3);
  const declarations = [
    { name: "a", dtype: "F32", shape: [3, 4] },
    { name: "empty", dtype: "F32", shape: [0] },
    { name: "b", dtype: "I32", shape: [2] },
  ] as const;
  const chunks: number[] = [];
  const writer = new SafetensorsWriter(declarations, { write: (bytes) => chunks.push(...bytes) });
  for (let i = 0; i < 12; i += 5) writer.write(data.subarray(i, i + 5));
  writer.write(new Int32Array([7, 8]));
  writer.finish();
  const whole = writeSafetensors([
    { ...declarations[0], data },
    { ...declarations[1], data: new Float32Array() },
    { ...declarations[2], data: new Int32Array([7, 8]) },
  ]);
  assertEquals(new Uint8Array(chunks), whole);
});

Deno.test("the writer refuses values that do not fit what was declared", () => {
  const start = () =>
    new SafetensorsWriter([{ name: "a", dtype: "F32", shape: [2] }], { write: () => {} });
  assertThrows(() => start().write(new Float32Array(3)), FormatError, "at most 2");
  assertThrows(() => start().write(new Int32Array(2)), FormatError, "is I32, must be F32");
  assertThrows(() => start().finish(), FormatError, `tensor "a" is 2 values short`);
  const full = start();
  full.write(new Float32Array(2));
  full.finish();
  assertThrows(() => full.write(new Float32Array(1)), FormatError, "after the last tensor");
  const declare = (name: string, shape: number[]) => () =>
    new SafetensorsWriter([{ name, dtype: "F32", shape }], { write: () => {} });
  assertThrows(declare("__metadata__", [1]), FormatError, "must be unique and free");
  assertThrows(declare("a", [-1]), FormatError, "must be whole numbers");
  assertThrows(declare("a", [2 ** 26, 2 ** 26]), FormatError, "must be whole numbers");
});

Deno.test("arrays of every element type are read whole, and only as what they are", () => {
  const header = {
    a: { dtype: "U8", shape: [1], data_offsets: [0, 1] },
    b: { dtype: "I64", shape: [1], data_offsets: [1, 9] },
    c: { dtype: "F64", shape: [1], data_offsets: [9, 17] },
    d: { dtype: "I16", shape: [2], data_offsets: [17, 21] },
  };
  const bytes = buildSafetensors(header, { data: 21 });
  const view = new DataView(bytes.buffer, bytes.length - 21);
  view.setUint8(0, 200);
  view.setBigInt64(1, -5n, true);
  view.setFloat64(9, 0.1, true);
  view.setInt16(19, -2, true);
  const arrays = new SafetensorsArrays(bytes);
  assertEquals([...arrays.get("a", "U8")], [200]);
  assertEquals([...arrays.get("b", "I64")], [-5n]);
  assertEquals([...arrays.get("c", "F64")], [0.1]);
  assertEquals(arrays.get("d", "I16")[1], -2);
  assertThrows(() => arrays.get("a", "F32"), UnsupportedOpError, "its type is U8, must be F32");
  assertThrows(() => arrays.get("z", "F32"), FormatError, `tensor "z" is missing`);
});
