/** Each way a GGUF header can lie, refused by name before anything is allocated for it. */

import { assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { parseGgufHeader } from "../../src/formats/gguf/header.ts";
import { buildGguf, ByteWriter, type GgufSpec, HONEST, type KeyValue } from "./_gguf_builder.ts";
import type { TensorSpec } from "./_gguf_builder.ts";

function parse(bytes: Uint8Array): void {
  parseGgufHeader(bytes, { name: "lie.gguf", size: bytes.length });
}

const TENSOR: TensorSpec = { name: "t", ne: [32], typeId: 0, byteLength: 128 };

/** A file whose only tensor is an honest one with some fields replaced. */
function withTensor(change: Partial<TensorSpec>): GgufSpec {
  return { tensors: [{ ...TENSOR, ...change }] };
}

function withKeys(...keyValues: KeyValue[]): GgufSpec {
  return { ...HONEST, keyValues };
}

function alignment(value: number, type: "uint32" | "uint64" = "uint32"): GgufSpec {
  return withKeys({ key: "general.alignment", type, value });
}

const TWO_TENSORS: readonly TensorSpec[] = [TENSOR, { ...TENSOR, name: "u" }];

const LIES: readonly [name: string, spec: GgufSpec, message: string][] = [
  ["another magic number", { magic: "GGML" }, "the magic number is 0x4c4d4747"],
  ["version 1", { version: 1 }, "the version is 1, must be 2 or 3"],
  ["version 4", { version: 4 }, "the version is 4, must be 2 or 3"],
  ["a big-endian version", { version: 0x03000000 }, "(big-endian), must be 2 or 3"],
  ["a tensor count of 2^64 - 1", { tensorCount: 2n ** 64n - 1n }, "is 18446744073709551615, must"],
  ["a tensor count that the file cannot hold", { tensorCount: 9n }, "the tensor count is 9, must"],
  ["a key count of 2^63", { keyCount: 2n ** 63n }, "the key count is 9223372036854775808, must"],
  ["a key count that the file cannot hold", { keyCount: 3n }, "the key count is 3, must be at"],
  [
    "a key there twice",
    withKeys({ key: "a", type: "bool", value: true }, { key: "a", type: "bool", value: true }),
    `key "a" is there twice`,
  ],
  ["an empty key", withKeys({ key: "", type: "bool", value: true }), "key 0 is empty"],
  [
    "a key with a control character",
    withKeys({ key: "a\u001b[2J", type: "bool", value: true }),
    `is "a\\u001b[2J", must be free of control characters`,
  ],
  [
    "a bool of 2",
    withKeys({ key: "a", type: "bool", value: 2 }),
    `key "a" is 2, must be 0 or 1 (a bool)`,
  ],
  [
    "a bool of 7 in an array",
    withKeys({ key: "a", type: "array", elementType: "bool", value: [1, 7] }),
    `key "a" is 7, must be 0 or 1 (a bool)`,
  ],
  [
    "an array of arrays",
    withKeys({ key: "a", type: "array", elementType: "array", value: [] }),
    `the element type of key "a" is array`,
  ],
  [
    "an array of 2^62 strings",
    withKeys({ key: "a", type: "array", elementType: "string", value: [], count: 2n ** 62n }),
    `the element count of key "a" is 4611686018427387904, must`,
  ],
  [
    "an array of more strings than the file holds",
    withKeys({ key: "a", type: "array", elementType: "string", value: [], count: 1_000_000n }),
    `the end of key "a" is byte 8000049, must be at most`,
  ],
  [
    "an array whose bytes overflow 64 bits",
    withKeys({ key: "a", type: "array", elementType: "uint64", value: [], count: 2n ** 61n }),
    `the element count of key "a" is 2305843009213693952, must`,
  ],
  [
    "an array of more numbers than the file holds",
    withKeys({ key: "a", type: "array", elementType: "float32", value: [], count: 1_000_000n }),
    `the end of key "a" is byte 4000049, must be at most`,
  ],
  ["alignment 0", alignment(0), `key "general.alignment" is 0, must be a power of two`],
  ["alignment 1", alignment(1), `key "general.alignment" is 1, must be a power of two from 8`],
  ["alignment 48", alignment(48), `key "general.alignment" is 48, must be a power of two`],
  ["alignment 2^31", alignment(2 ** 31), "is 2147483648, must be a power of two"],
  ["an alignment of 64 bits", alignment(32, "uint64"), "is of type uint64, must be of type uint32"],
  [
    "a tensor there twice",
    { tensors: [TENSOR, TENSOR] },
    `tensor "t" is there twice, must be unique`,
  ],
  ["an empty tensor name", withTensor({ name: "" }), "the name of tensor 0 is empty"],
  [
    "a tensor name of 65 bytes",
    withTensor({ name: "x".repeat(65) }),
    "the length of the name of tensor 0 is 65, must be from 0 to 64",
  ],
  ["no extents", withTensor({ ne: [] }), `the dimension count of tensor "t" is 0, must be from 1`],
  ["five extents", withTensor({ ne: [32, 1, 1, 1, 1] }), "is 5, must be from 1 to 4"],
  [
    "2^32 - 1 extents",
    withTensor({ dimensions: 0xffffffff }),
    `the dimension count of tensor "t" is 4294967295`,
  ],
  ["an extent of 0", withTensor({ ne: [32, 0] }), `extent 1 of tensor "t" is 0, must be from 1`],
  ["an extent of 2^64 - 1", withTensor({ ne: [2n ** 64n - 1n] }), "is 18446744073709551615, must"],
  [
    "extents whose product wraps around to the true one",
    withTensor({ ne: [32n, 2n ** 32n + 1n, 2n ** 32n] }),
    `extent 1 of tensor "t" is 4294967297, must`,
  ],
  [
    "extents whose product is too large though each is not",
    withTensor({ ne: [1024, 1024, 1024, 1024] }),
    `the value count of tensor "t" is 1`,
  ],
  ["a retired type", withTensor({ typeId: 4 }), `the type of tensor "t" is 4, must be a tensor`],
  ["an unknown type", withTensor({ typeId: 0xffffffff }), "is 4294967295, must be a tensor type"],
  [
    "a row that is no whole number of blocks",
    withTensor({ typeId: 12, ne: [128] }),
    `the row length of tensor "t" is 128, must be a multiple of 256 (Q4_K)`,
  ],
  ["a tensor larger than the file", withTensor({ ne: [1024] }), `the size of tensor "t" is 4096`],
  ["an offset of 2^64 - 32", withTensor({ offset: 2n ** 64n - 32n }), "18446744073709551584, must"],
  [
    "an offset beside the alignment",
    withTensor({ offset: 16n }),
    "is 16, must be a multiple of 32",
  ],
  ["an offset that leaves a hole", withTensor({ offset: 32n }), "at data byte 32 (leaving a hole)"],
  [
    "two tensors at one place",
    { tensors: [TENSOR, { ...TENSOR, name: "u", offset: 0n }] },
    `tensor "u" is at data byte 0 (overlapping), must be at byte 128, the end of tensor "t"`,
  ],
  [
    "a tensor that begins inside another",
    { tensors: [TENSOR, { ...TENSOR, name: "u", offset: 96n }] },
    `tensor "u" is at data byte 96 (overlapping), must be at byte 128`,
  ],
  ["bytes after the last tensor", { tensors: TWO_TENSORS, trailing: 1 }, "is 257 bytes long, must"],
  ["bytes after a vocabulary", { ...HONEST, tensors: [], trailing: 64 }, "the data section is 64"],
];

for (const [name, spec, message] of LIES) {
  Deno.test(`a GGUF header with ${name} is refused`, () => {
    assertThrows(() => parse(buildGguf(spec)), FormatError, message);
  });
}

Deno.test("every message says what was read, what is and what must be", () => {
  for (const [, spec] of LIES) {
    const error = assertThrows(() => parse(buildGguf(spec)), FormatError);
    assertEquals(/^cannot read GGUF "lie\.gguf": .+ is .+, must be .+/s.test(error.message), true);
  }
});

Deno.test("a GGUF file cut off anywhere is refused", () => {
  const whole = buildGguf({ ...HONEST, unpadded: true });
  parse(whole);
  for (let length = 0; length < whole.length; length++) {
    assertThrows(() => parse(whole.subarray(0, length)), FormatError);
  }
});

Deno.test("lengths of strings and value types are checked in every place", () => {
  const start = () => new ByteWriter().raw(new TextEncoder().encode("GGUF")).u32(3).u64(0).u64(1);
  const cases: readonly [Uint8Array, string][] = [
    [start().u64(2n ** 64n - 1n).raw(Array(40)).toBytes(), "is 18446744073709551615, must"],
    [start().u64(65_536).raw(Array(40)).toBytes(), "is 65536, must be from 0 to 65535"],
    [start().u64(1000).raw(Array(40)).toBytes(), "the end of the name of key 0 is byte 1032"],
    [start().string("a").u32(13).raw(Array(40)).toBytes(), `the type of key "a" is 13, must be`],
    [start().string("a").u32(8).u64(2n ** 40n).raw(Array(40)).toBytes(), "is 1099511627776, must"],
    [start().string("a").u32(8).u64(1000).raw(Array(40)).toBytes(), `the end of key "a" is byte`],
    [
      start().string("a").u32(9).u32(8).u64(2).u64(0).u64(2n ** 63n).raw(Array(40)).toBytes(),
      `the length of element 1 of key "a" is 9223372036854775808, must`,
    ],
    [
      start().string("a").u32(9).u32(8).u64(2).u64(0).u64(500).raw(Array(40)).toBytes(),
      `the end of element 1 of key "a" is byte`,
    ],
    [
      start().string("a").u32(9).u32(99).u64(2).raw(Array(40)).toBytes(),
      `the element type of key "a" is 99, must be from 0 to 12`,
    ],
    [start().u64(2).raw([0xc3, 0x28]).raw(Array(40)).toBytes(), "is not UTF-8, must be valid"],
    [
      start().string("a").u32(8).u64(1).raw([0xff]).raw(Array(40)).toBytes(),
      `key "a" is not UTF-8, must be valid UTF-8`,
    ],
  ];
  for (const [bytes, message] of cases) assertThrows(() => parse(bytes), FormatError, message);
});
