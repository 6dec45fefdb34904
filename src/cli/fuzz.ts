/**
 * `deno task fuzz [--format gguf|safetensors] [--count N] [--seed N]`: mutated headers through the
 * readers, from parsing to the summary. Whatever is wrong must end in FormatError. The same count
 * and seed give the same inputs; the test suite runs a million per format.
 */

import { FormatError, OptionError } from "../errors.ts";
import { memoryByteSource } from "../formats/byte_source.ts";
import { WindowTooSmall } from "../formats/gguf/cursor.ts";
import { parseGgufHeader } from "../formats/gguf/header.ts";
import { assembleGguf } from "../formats/gguf/source.ts";
import { checkHyperParameters } from "../formats/hyper_parameters.ts";
import { inspectCheckpoint } from "../formats/inspect.ts";
import {
  LENGTH_BYTES,
  parseSafetensorsHeader,
  readHeaderLength,
} from "../formats/safetensors/header.ts";
import { assembleSafetensors } from "../formats/safetensors/source.ts";
import type { TensorSource } from "../formats/tensor_source.ts";

export type FuzzFormat = "gguf" | "safetensors";

export interface FuzzOptions {
  readonly format: FuzzFormat;
  readonly count: number;
  readonly seed: number;
  /** Called every 65,536 inputs. */
  readonly onProgress?: (done: number) => void;
}

export interface FuzzFailure {
  readonly index: number;
  /** The input, in hexadecimal. */
  readonly input: string;
  readonly error: string;
}

export interface FuzzResult {
  readonly inputs: number;
  /** Inputs that were read without complaint. */
  readonly accepted: number;
  /** Inputs refused with FormatError. */
  readonly refused: number;
  /** The slowest input, in milliseconds. */
  readonly slowestMs: number;
  /** Whatever else happened; at most ten are kept. */
  readonly failures: readonly FuzzFailure[];
  /** Different kinds of complaint in a sample of the refusals, numbers and names aside. */
  readonly complaints: number;
}

/** Every so many refusals, the message's kind is noted. */
const COMPLAINT_SAMPLE = 16;

/** Runs mutated headers of one format through its reader. */
export function fuzz(options: FuzzOptions): FuzzResult {
  const random = new Random(options.seed);
  const seeds = options.format === "gguf" ? ggufSeeds() : safetensorsSeeds();
  const run = options.format === "gguf" ? readGguf : readSafetensors;
  const failures: FuzzFailure[] = [];
  const complaints = new Set<string>();
  let accepted = 0;
  let refused = 0;
  let slowestMs = 0;
  const stackTraceLimit = Error.stackTraceLimit;
  // A stack for each of a million expected errors would take most of the time.
  Error.stackTraceLimit = 0;
  try {
    for (let index = 0; index < options.count; index++) {
      const input = mutate(seeds[random.below(seeds.length)], random);
      const partial = options.format === "gguf" && index % 8 === 0;
      const start = performance.now();
      try {
        if (partial) checkPartial(input);
        run(input);
        accepted++;
      } catch (error) {
        if (error instanceof FormatError) {
          refused++;
          if (refused % COMPLAINT_SAMPLE === 0) complaints.add(kindOf(error.message));
        } else if (failures.length < 10) {
          failures.push({ index, input: hex(input), error: String(error) });
        }
      }
      slowestMs = Math.max(slowestMs, performance.now() - start);
      if (index % 65_536 === 65_535) options.onProgress?.(index + 1);
    }
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
  return {
    inputs: options.count,
    accepted,
    refused,
    slowestMs,
    failures,
    complaints: complaints.size,
  };
}

/** Everything `inspect` does with a file of these bytes, synchronously. */
function readGguf(input: Uint8Array): void {
  const file = memoryByteSource(input, "fuzz.gguf");
  const header = parseGgufHeader(input, file);
  const source = assembleGguf([{ file, header }]);
  checkHyperParameters(source);
  readAll(source);
}

/** The same bytes as the beginning of a huge file: refused, accepted, or in need of more. */
function checkPartial(input: Uint8Array): void {
  try {
    parseGgufHeader(input, { name: "fuzz.gguf", size: 2 ** 40 });
  } catch (error) {
    if (!(error instanceof WindowTooSmall) && !(error instanceof FormatError)) throw error;
  }
}

function readSafetensors(input: Uint8Array): void {
  const file = memoryByteSource(input, "fuzz.safetensors");
  const length = readHeaderLength(input.subarray(0, LENGTH_BYTES), file);
  const header = parseSafetensorsHeader(input.subarray(LENGTH_BYTES, LENGTH_BYTES + length), file);
  const config = `{"architectures":["LlamaForCausalLM"],"vocab_size":4,"hidden_size":8}`;
  const source = assembleSafetensors([{ file, header }], { name: "fuzz", config: () => config });
  checkHyperParameters(source);
  readAll(source);
}

function readAll(source: TensorSource): void {
  inspectCheckpoint(source);
  for (const value of source.metadata.values()) {
    if (typeof value === "object" && value !== null && Symbol.iterator in value) {
      for (const item of value) void item;
    }
  }
}

/** One to four changes of the seed's bytes. */
export function mutate(seed: Uint8Array, random: Random): Uint8Array {
  let bytes = seed.slice();
  const changes = 1 + random.below(4);
  for (let i = 0; i < changes && bytes.length > 0; i++) {
    const at = random.below(bytes.length);
    switch (random.below(8)) {
      case 0:
        bytes[at] ^= 1 << random.below(8);
        break;
      case 1:
        bytes[at] = random.below(256);
        break;
      case 2:
      case 3:
        writeInteresting(bytes, at, random);
        break;
      case 4:
        bytes = bytes.slice(0, at);
        break;
      case 5:
        bytes = splice(bytes, { at, insert: bytes.subarray(at, at + 1 + random.below(48)) });
        break;
      case 6:
        bytes = splice(bytes, { at, remove: 1 + random.below(16) });
        break;
      default:
        bytes = splice(bytes, { at, insert: FRAGMENTS[random.below(FRAGMENTS.length)] });
    }
  }
  return bytes;
}

/** Numbers at which arithmetic on lengths goes wrong. */
const INTERESTING = Object.freeze([
  0n,
  1n,
  2n,
  3n,
  4n,
  8n,
  9n,
  31n,
  32n,
  33n,
  64n,
  127n,
  128n,
  255n,
  256n,
  1000n,
  65_535n,
  65_536n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 61n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 32n,
  2n ** 64n - 1n,
]);

/** Text that JSON readers and printers stumble over, and pieces of both formats. */
const FRAGMENTS: readonly Uint8Array[] = Object.freeze(
  [
    '"__proto__":',
    "[[[[[[[[",
    "{}",
    '{"a":',
    "-1",
    "1e308",
    "1e309",
    "18446744073709551615",
    "0.5",
    "null",
    "NaN",
    '"\\ud800"',
    '"\\u0000"',
    "\\",
    '"',
    ",",
    ":",
    "]",
    "}",
    " ",
    "\n",
    "\u0000\u0000\u0000\u0000",
    '"F8_E4M3"',
    '"F32"',
    "GGUF",
    "general.alignment",
    "\u{1f600}",
  ].map((text) => new TextEncoder().encode(text)),
);

function writeInteresting(bytes: Uint8Array, at: number, random: Random): void {
  const width = [1, 2, 4, 8][random.below(4)];
  let value = INTERESTING[random.below(INTERESTING.length)];
  for (let i = at; i < Math.min(bytes.length, at + width); i++) {
    bytes[i] = Number(value & 255n);
    value >>= 8n;
  }
}

function splice(
  bytes: Uint8Array,
  change: { at: number; insert?: Uint8Array; remove?: number },
): Uint8Array<ArrayBuffer> {
  const { at, insert = new Uint8Array(), remove = 0 } = change;
  const rest = bytes.subarray(at + remove);
  const out = new Uint8Array(at + insert.length + rest.length);
  out.set(bytes.subarray(0, at));
  out.set(insert, at);
  out.set(rest, at + insert.length);
  return out;
}

/** Two GGUF files: hyper-parameters of all kinds with a vocabulary, and one with an alignment. */
function ggufSeeds(): Uint8Array[] {
  const text = (value: string) => {
    const bytes = new TextEncoder().encode(value);
    return [...integer(bytes.length, 8), ...bytes];
  };
  const key = (name: string, type: number, value: number[]) => [
    ...text(name),
    ...integer(type, 4),
    ...value,
  ];
  const tensor = (name: string, ne: number[], place: { type: number; offset: number }) => [
    ...text(name),
    ...integer(ne.length, 4),
    ...ne.flatMap((extent) => integer(extent, 8)),
    ...integer(place.type, 4),
    ...integer(place.offset, 8),
  ];
  const file = (
    parts: { keys: number[][]; tensors: number[][]; alignment: number; data: number },
  ) => {
    const header = [
      ...new TextEncoder().encode("GGUF"),
      ...integer(3, 4),
      ...integer(parts.tensors.length, 8),
      ...integer(parts.keys.length, 8),
      ...parts.keys.flat(),
      ...parts.tensors.flat(),
    ];
    const dataStart = Math.ceil(header.length / parts.alignment) * parts.alignment;
    const bytes = new Uint8Array(dataStart + parts.data);
    bytes.set(header);
    return bytes;
  };
  const strings = ["a", "é", "", "😀"];
  const model = file({
    alignment: 32,
    data: 192,
    keys: [
      key("general.architecture", 8, text("llama")),
      key("llama.block_count", 4, integer(1, 4)),
      key("llama.embedding_length", 10, integer(8, 8)),
      key("llama.rope.freq_base", 6, [0, 64, 28, 70]),
      key("x", 7, [1]),
      key("tokenizer.ggml.tokens", 9, [
        ...integer(8, 4),
        ...integer(strings.length, 8),
        ...strings.flatMap(text),
      ]),
      key("llama.attention.head_count", 9, [...integer(5, 4), ...integer(1, 8), 2, 0, 0, 0]),
    ],
    tensors: [
      tensor("token_embd.weight", [8, 4], { type: 0, offset: 0 }),
      tensor("blk.0.w", [32], { type: 8, offset: 128 }),
    ],
  });
  const aligned = file({
    alignment: 64,
    data: 128,
    keys: [
      key("general.alignment", 4, integer(64, 4)),
      key("general.architecture", 8, text("qwen2")),
    ],
    tensors: [
      tensor("a", [2, 2, 2], { type: 1, offset: 0 }),
      tensor("b", [4], { type: 26, offset: 64 }),
    ],
  });
  return [model, aligned];
}

/** Two safetensors files: plain ones, and one with metadata, a scalar and odd spacing. */
function safetensorsSeeds(): Uint8Array[] {
  const file = (json: string, data: number) => {
    const text = new TextEncoder().encode(json);
    const bytes = new Uint8Array(LENGTH_BYTES + text.length + data);
    bytes.set(integer(text.length, LENGTH_BYTES));
    bytes.set(text, LENGTH_BYTES);
    return bytes;
  };
  return [
    file(
      '{"model.embed_tokens.weight":{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]},' +
        '"b":{"dtype":"BF16","shape":[3],"data_offsets":[128,134]}}',
      134,
    ),
    file(
      '{ "__metadata__": {"format": "pt", "é": "\\n"}, "s": {"dtype": "I64", "shape": [], ' +
        '"data_offsets": [0, 8]}, "e": {"shape": [0, 4], "dtype": "F8_E4M3", ' +
        '"data_offsets": [8, 8]} }   ',
      8,
    ),
  ];
}

/** Little-endian bytes of a small integer. */
function integer(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => i < 4 ? (value >>> (8 * i)) & 255 : 0);
}

/** Mulberry32: a small generator of its own, so that a seed says everything. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** A whole number in [0, limit). */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  }
}

function kindOf(message: string): string {
  return message.replace(/"(?:[^"\\]|\\.)*"/g, '""').replace(/-?\d+(\.\d+)?/g, "0").slice(0, 80);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const USAGE = "deno task fuzz [--format gguf|safetensors] [--count N] [--seed N]";

function parseArguments(
  args: readonly string[],
): { formats: FuzzFormat[]; count: number; seed: number } {
  let formats: FuzzFormat[] = ["gguf", "safetensors"];
  const numbers = { "--count": 10_000_000, "--seed": 1 };
  for (let i = 0; i < args.length; i += 2) {
    const [flag, value] = [args[i], args[i + 1]];
    if (flag === "--format" && (value === "gguf" || value === "safetensors")) formats = [value];
    else if ((flag === "--count" || flag === "--seed") && /^\d{1,12}$/.test(value ?? "")) {
      numbers[flag] = Number(value);
    } else {
      throw new OptionError(`cannot fuzz: ${flag} is ${value}, must be as in: ${USAGE}`);
    }
  }
  return { formats, count: numbers["--count"], seed: numbers["--seed"] };
}

/** Fuzzes as the arguments say; returns the exit code. */
export function main(args: readonly string[]): number {
  let failed = false;
  const { formats, count, seed } = parseArguments(args);
  for (const format of formats) {
    const start = performance.now();
    const result = fuzz({
      format,
      count,
      seed,
      onProgress: (done) => console.error(`${format}: ${done} of ${count}`),
    });
    const seconds = (performance.now() - start) / 1000;
    console.log(JSON.stringify({ format, seed, seconds, ...result }));
    failed ||= result.failures.length > 0;
  }
  return failed ? 1 : 0;
}

if (import.meta.main) {
  try {
    Deno.exit(main(Deno.args));
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    console.error(error.message);
    Deno.exit(2);
  }
}
