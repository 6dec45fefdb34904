/** Each way a safetensors header can lie, refused by name. */

import { assertMatch, assertRejects, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { memoryByteSource } from "../../src/formats/byte_source.ts";
import { openSafetensors, readSafetensorsHeader } from "../../src/formats/safetensors/source.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { buildSafetensors, HONEST_DATA, HONEST_HEADER } from "./_safetensors_builder.ts";

/** A header of one F32 tensor of two values with some fields replaced or removed. */
function entry(change: Record<string, unknown>): Uint8Array<ArrayBuffer> {
  return buildSafetensors(
    { t: { dtype: "F32", shape: [2], data_offsets: [0, 8], ...change } },
    { data: 8 },
  );
}

function twoTensors(a: [number, number], b: [number, number], data = 16): Uint8Array<ArrayBuffer> {
  const tensor = (range: [number, number]) => ({
    dtype: "U8",
    shape: [Math.max(0, range[1] - range[0])],
    data_offsets: range,
  });
  return buildSafetensors({ a: tensor(a), b: tensor(b) }, { data });
}

const text = (header: string, data = 0) => buildSafetensors(header, { data });

const LIES: readonly [name: string, bytes: Uint8Array, message: string][] = [
  ["no bytes", new Uint8Array(0), "the file is 0 bytes long, must be at least 8"],
  ["seven bytes", new Uint8Array(7), "the file is 7 bytes long, must be at least 8"],
  ["a length of 0", buildSafetensors("{}", { length: 0n }), "the header's length is 0, must be"],
  ["a length beyond the file", buildSafetensors("{}", { length: 3n }), "length is 3, must be from"],
  [
    "a length of 2^64 - 1",
    buildSafetensors("{}", { length: 2n ** 64n - 1n }),
    "is 18446744073709551615, must be from 2 to 2",
  ],
  ["white space first", text(" {}"), "the header's first byte is 0x20, must be 0x7b"],
  ["an array", text("[]"), "the header's first byte is 0x5b"],
  ["malformed UTF-8", text("{}").fill(0xff, 9), "the header is not UTF-8"],
  ["text after the object", text("{} x"), `character 3 of the JSON is "x", must be the end`],
  ["an open object", text(`{"a"`), `character 4 of the JSON is the end of the text, must be ":"`],
  ["a trailing comma", text(`{"a":1,}`), `is "}", must be a quoted key`],
  ["a key without quotes", text(`{a:1}`), `is "a", must be a quoted key`],
  ["a comment", text(`{/**/}`), "must be a quoted key"],
  ["a number with a leading zero", text(`{"a":01}`), `is "1", must be "," or "}"`],
  ["NaN", text(`{"a":NaN}`), `is "N", must be a value`],
  ["a number beyond doubles", text(`{"a":1e999}`), "a number is 1e999, must be within"],
  ["a number of 400 digits", text(`{"a":${"1".repeat(400)}}`), "a number is 400 characters long"],
  ["a raw line break in a key", text(`{"a\nb":1}`), "must be an escape"],
  ["an unknown escape", text(`{"\\x41":1}`), "must be an escape of JSON"],
  ["half a surrogate pair", text(`{"\\ud800":1}`), "a string is half a surrogate pair"],
  [
    "nesting beyond a shape's",
    text(`{"a":{"shape":[[1]]}}`),
    "the nesting depth is 4, must be at most 3",
  ],
  ["100,000 open brackets", text(`{"a":${"[".repeat(100_000)}}`), "the nesting depth is 4"],
  [
    "a tensor there twice",
    text(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}`),
    `key "a" is there twice`,
  ],
  [
    "a tensor there twice by an escape",
    text(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}`),
    `key "a" is there twice`,
  ],
  ["a field there twice", text(`{"a":{"dtype":"U8","dtype":"U8"}}`), `key "dtype" is there twice`],
  ["a tensor named __proto__ that is none", text(`{"__proto__":{}}`), `the dtype of tensor "__pr`],
  ["an empty name", text(`{"":{}}`), "a tensor's name is empty"],
  ["a name with a line break", text(`{"a\\n":{}}`), `a tensor's name is "a\\n"`],
  ["a tensor that is a number", text(`{"a":1}`), `tensor "a" is a number, must be an object`],
  ["a tensor that is null", text(`{"a":null}`), `tensor "a" is null, must be an object`],
  ["an unknown field", entry({ stride: 1 }), `a key of tensor "t" is "stride"`],
  ["no dtype", entry({ dtype: undefined }), `the dtype of tensor "t" is missing`],
  ["an unknown dtype", entry({ dtype: "F33" }), `the dtype of tensor "t" is "F33", must be one of`],
  ["a dtype that is a number", entry({ dtype: 4 }), `the dtype of tensor "t" is a number`],
  ["a dtype named constructor", entry({ dtype: "constructor" }), `is "constructor", must be one`],
  ["no shape", entry({ shape: undefined }), `the shape of tensor "t" is missing`],
  ["a shape that is a number", entry({ shape: 2 }), `the shape of tensor "t" is a number`],
  ["an extent of -1", entry({ shape: [-1] }), `extent 0 of tensor "t" is -1, must be a whole`],
  ["an extent of 1.5", entry({ shape: [1.5] }), `extent 0 of tensor "t" is 1.5`],
  ["an extent that is text", entry({ shape: ["2"] }), `extent 0 of tensor "t" is a string`],
  [
    "an extent of 2^64 - 1",
    text(`{"t":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8]}}`, 8),
    `extent 0 of tensor "t" is 18446744073709551615`,
  ],
  [
    "extents whose product wraps around to the true one",
    entry({ shape: [2 ** 32, 2 ** 32, 2] }),
    `the range of tensor "t" is 0..8 (8 bytes), must be 147573952589676412928 bytes`,
  ],
  ["a hundred extents", entry({ shape: Array(100).fill(1) }), "is 100 long, must be <= 16"],
  [
    "four-bit values that end inside a byte",
    entry({ dtype: "F4", shape: [3] }),
    `the size of tensor "t" is 12 bits, must be whole bytes`,
  ],
  ["no offsets", entry({ data_offsets: undefined }), `the data_offsets of tensor "t" is missing`],
  ["one offset", entry({ data_offsets: [0] }), "is [0], must be two whole numbers"],
  ["three offsets", entry({ data_offsets: [0, 8, 8] }), "is [0, 8, 8], must be two whole numbers"],
  ["a negative offset", entry({ data_offsets: [-8, 0] }), "is [-8, 0], must be two whole numbers"],
  ["offsets in reverse", entry({ data_offsets: [8, 0] }), "is 8..0, must be within 0..8"],
  ["an offset past the end", entry({ data_offsets: [0, 16] }), "is 0..16, must be within 0..8"],
  ["a range that is too short", entry({ data_offsets: [0, 4] }), "(4 bytes), must be 8 bytes"],
  ["an overlap", twoTensors([0, 10], [8, 16]), `tensor "b" is at data byte 8 (overlapping), must`],
  ["a hole", twoTensors([0, 6], [8, 16]), `tensor "b" is at data byte 8 (leaving a hole), must`],
  ["a hole at the start", twoTensors([1, 8], [8, 16]), `tensor "a" is at data byte 1 (leaving`],
  ["bytes after the last tensor", twoTensors([0, 8], [8, 15]), "is 16 bytes long, must be 15"],
  ["metadata that is text", text(`{"__metadata__":"x"}`), "__metadata__ is a string, must be an"],
  ["metadata of numbers", text(`{"__metadata__":{"a":1}}`), `__metadata__ key "a" is a number`],
];

for (const [name, bytes, message] of LIES) {
  Deno.test(`a safetensors header with ${name} is refused`, async () => {
    const read = () => readSafetensorsHeader(memoryByteSource(bytes, "lie.safetensors"));
    const error = await assertRejects(read, FormatError, message);
    assertMatch(
      error.message,
      /^cannot read safetensors "lie\.safetensors": .+ is .+, must be .+/s,
    );
    assertThrows(() => new SafetensorsArrays(bytes), FormatError);
  });
}

Deno.test("a safetensors file cut off anywhere is refused", () => {
  const whole = buildSafetensors(HONEST_HEADER, { data: HONEST_DATA });
  new SafetensorsArrays(whole);
  for (let length = 0; length < whole.length; length++) {
    assertThrows(() => new SafetensorsArrays(whole.subarray(0, length)), FormatError);
  }
});

Deno.test("a weight without values is refused in a checkpoint", async () => {
  const bytes = buildSafetensors({ w: { dtype: "F32", shape: [4, 0], data_offsets: [0, 0] } });
  const open = () =>
    openSafetensors({ name: "m", files: [memoryByteSource(bytes)], config: () => "{}" });
  await assertRejects(open, FormatError, `the shape of tensor "w" is [4, 0], must be without zero`);
});

Deno.test("a config.json that is no object, or says a thing twice, is refused", async () => {
  const bytes = buildSafetensors("{}");
  for (const [config, message] of [["[]", "not an object"], [`{"a":1,"a":2}`, "there twice"]]) {
    const open = () =>
      openSafetensors({ name: "m", files: [memoryByteSource(bytes)], config: () => config });
    await assertRejects(open, FormatError, message);
  }
});
