import { assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { memoryByteSource } from "../../src/formats/byte_source.ts";
import { type GgufTensor, parseGgufHeader } from "../../src/formats/gguf/header.ts";
import { type GgufContent, GgufWriter } from "../../src/formats/gguf/writer.ts";
import { openGguf } from "../../src/formats/gguf/source.ts";
import { buildGguf, type KeyValue, type TensorSpec } from "./_gguf_builder.ts";

/** A key of every type, at the ends of its range, and arrays of each. */
const SCALARS: readonly KeyValue[] = [
  { key: "a.uint8", type: "uint8", value: 255 },
  { key: "a.int8", type: "int8", value: -128 },
  { key: "a.uint16", type: "uint16", value: 65535 },
  { key: "a.int16", type: "int16", value: -32768 },
  { key: "a.uint32", type: "uint32", value: 2 ** 32 - 1 },
  { key: "a.int32", type: "int32", value: -(2 ** 31) },
  { key: "a.float32", type: "float32", value: Math.fround(0.1) },
  { key: "a.bool", type: "bool", value: true },
  { key: "a.string", type: "string", value: "naïve \u{1F600} text" },
  { key: "a.uint64", type: "uint64", value: 2n ** 64n - 1n },
  { key: "a.int64", type: "int64", value: -(2n ** 63n) },
  { key: "a.float64", type: "float64", value: 0.1 },
];
const ARRAYS: readonly KeyValue[] = SCALARS.map((entry) => ({
  key: `${entry.key}.list`,
  type: "array",
  elementType: entry.type,
  value: [entry.value, entry.value] as (number | bigint | boolean | string)[],
}));
const EMPTY: KeyValue = { key: "e", type: "array", elementType: "string", value: [] };

const TENSORS: readonly TensorSpec[] = [
  { name: "first", ne: [5], typeId: 0, byteLength: 20 },
  { name: "second", ne: [32, 2, 3], typeId: 8, byteLength: 204 },
  { name: "third", ne: [8], typeId: 0, byteLength: 32 },
];

/** Writes a parsed file again, tensors in pieces of `piece` bytes. */
function rewrite(file: Uint8Array, options: { piece: number }): Uint8Array {
  const { metadata, tensors, dataStart } = parseGgufHeader(file, { name: "f", size: file.length });
  const chunks: Uint8Array[] = [];
  const writer = new GgufWriter({ metadata, tensors }, { write: (b) => chunks.push(b.slice()) });
  for (const { offset, byteLength } of tensors) {
    const data = file.subarray(dataStart + offset, dataStart + offset + byteLength);
    for (let i = 0; i < data.length; i += options.piece) {
      writer.write(data.subarray(i, i + options.piece));
    }
  }
  writer.finish();
  return new Uint8Array(chunks.flatMap((chunk) => [...chunk]));
}

Deno.test("a GGUF file that is read and written again is the same, byte for byte", () => {
  for (const alignment of [32, 64, 8]) {
    const keyValues: KeyValue[] = [...SCALARS, ...ARRAYS, EMPTY];
    keyValues.push({ key: "general.alignment", type: "uint32", value: alignment });
    const file = buildGguf({ keyValues, tensors: TENSORS, alignment });
    for (const piece of [7, 1000]) assertEquals(rewrite(file, { piece }), file);
  }
});

Deno.test("a GGUF file with a long vocabulary is written again as it was", () => {
  const tokens = Array.from({ length: 20_000 }, (_, i) => "x".repeat(i % 40) + i);
  tokens.push("y".repeat(5000));
  const file = buildGguf({
    keyValues: [{ key: "tokens", type: "array", elementType: "string", value: tokens }],
    tensors: TENSORS,
  });
  assertEquals(rewrite(file, { piece: 4096 }), file);
});

Deno.test("the reader accepts what the writer makes", async () => {
  const file = rewrite(buildGguf({ keyValues: SCALARS, tensors: TENSORS }), { piece: 50 });
  const source = await openGguf([memoryByteSource(file)]);
  assertEquals([...source.tensors.keys()], ["first", "second", "third"]);
  assertEquals(source.metadata.get("a.int64"), -(2n ** 63n));
});

Deno.test("the writer refuses tensors that are too long, too short, or declared wrong", () => {
  const tensor: Omit<GgufTensor, "type" | "isWeight" | "offset"> = {
    name: "t",
    typeId: 0,
    shape: [4],
    byteLength: 16,
  };
  const create = (content: Partial<GgufContent>) =>
    new GgufWriter({ metadata: new Map(), tensors: [tensor], ...content }, { write: () => {} });
  const refuses = (run: () => void, says: string) => assertThrows(run, FormatError, says);
  refuses(() => create({}).write(new Uint8Array(17)), 'a piece of "t" is 17 bytes long');
  refuses(() => create({}).finish(), 'tensor "t" is 16 bytes short');
  const full = create({});
  full.write(new Uint8Array(16));
  full.finish();
  refuses(() => full.write(new Uint8Array(1)), "a piece after the last tensor");
  refuses(() => create({ tensors: [tensor, tensor] }), 'name is "t", must be unique');
  refuses(() => create({ tensors: [{ ...tensor, name: "n".repeat(65) }] }), "at most 64");
  refuses(() => create({ tensors: [{ ...tensor, byteLength: 0 }] }), 'the size of "t" is 0');
  refuses(
    () => create({ metadata: new Map([["general.alignment", { type: "uint32", value: 24 }]]) }),
    '"general.alignment" is 24',
  );
  refuses(
    () => create({ metadata: new Map([["k", { type: "uint32", value: "text" }]]) }),
    'key "k" is a string, must be of type uint32',
  );
});
