/** Real checkpoints: what is read from them, how fast, and what becomes of them when damaged. */

import { assert, assertEquals, assertLess } from "@std/assert";
import { mutate, Random } from "../../src/cli/fuzz.ts";
import { CapacityError, FormatError, UnsupportedOpError } from "../../src/errors.ts";
import { memoryByteSource } from "../../src/formats/byte_source.ts";
import { openGguf } from "../../src/formats/gguf/source.ts";
import { checkHyperParameters } from "../../src/formats/hyper_parameters.ts";
import { inspectCheckpoint } from "../../src/formats/inspect.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import type {
  MetadataArray,
  MetadataValue,
  TensorSource,
} from "../../src/formats/tensor_source.ts";
import { readModelConfig } from "../../src/model/registry.ts";
import { dequantize } from "../../src/quant/dequantize.ts";
import { rowBytes } from "../../src/quant/types.ts";
import { loadTokenizer } from "../../src/tokenizer/mod.ts";
import { downloadedModel, sharedFolder } from "../support/fixtures.ts";

interface GoldenFile {
  readonly file: string;
  readonly bytes: number;
  readonly metadata: Record<string, unknown>;
  readonly tensors: readonly {
    name: string;
    type: string;
    ne: number[];
    bytes: number;
    sha256_16: string;
  }[];
}

const SHARED = sharedFolder();
const FOLDER = `${SHARED}/fixtures/gguf`;
const NO_FIXTURES = SHARED === undefined;
const REASON = NO_FIXTURES ? " (skipped: no folder of fixtures, see SLUICE_SHARED)" : "";
const QWEN = downloadedModel("qwen2.5-coder-0.5b-q4_k_m.gguf");
const NO_QWEN = QWEN === undefined ? " (skipped: no Qwen file, see SLUICE_MODELS)" : "";

/** The recorded contents of every GGUF fixture, by path. */
function goldenFiles(): [path: string, golden: GoldenFile][] {
  const found: [string, GoldenFile][] = [];
  for (const { name } of Deno.readDirSync(FOLDER)) {
    const record = JSON.parse(Deno.readTextFileSync(`${FOLDER}/${name}/golden.json`));
    for (const golden of Object.values(record.files ?? {}) as GoldenFile[]) {
      const path = `${FOLDER}/${name}/${golden.file}`;
      if (golden.file !== undefined && isThere(path)) found.push([path, golden]);
    }
  }
  return found;
}

/** Arrays are recorded by their length. */
function isArray(value: MetadataValue | undefined): value is MetadataArray {
  return typeof value === "object" && value !== null && Symbol.iterator in value;
}

function isThere(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

async function sha256Start(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

Deno.test({
  name: `every GGUF fixture's tensors and metadata are those recorded by llama.cpp${REASON}`,
  ignore: NO_FIXTURES,
  fn: async () => {
    const files = goldenFiles();
    assert(files.length >= 20, `only ${files.length} fixtures`);
    for (const [path, golden] of files) {
      const source = await openCheckpoint(path);
      assertEquals(source.byteLength, golden.bytes, path);
      assertEquals(source.tensors.size, golden.tensors.length, path);
      for (const recorded of golden.tensors) {
        const tensor = source.tensors.get(recorded.name)!;
        assertEquals(
          [tensor.type, [...tensor.shape].reverse(), tensor.byteLength],
          [recorded.type, recorded.ne, recorded.bytes],
          `${path}: ${recorded.name}`,
        );
        const bytes = new Uint8Array(tensor.byteLength);
        await source.read(tensor, 0, bytes);
        assertEquals(await sha256Start(bytes), recorded.sha256_16, `${path}: ${recorded.name}`);
      }
      for (const [key, value] of Object.entries(golden.metadata)) {
        const found = source.metadata.get(key);
        assertEquals(isArray(found) ? `array of ${found.length}` : found, value, key);
      }
      source.close();
    }
  },
});

Deno.test({
  name: `every fixture checkpoint is summed up, with parameters that fill its tensors${REASON}`,
  ignore: NO_FIXTURES,
  fn: async () => {
    const models = `${SHARED}/fixtures/models`;
    const folders = [...Deno.readDirSync(models)].filter(({ isDirectory }) => isDirectory)
      .map(({ name }) => `${models}/${name}`);
    for (const path of [...folders, ...goldenFiles().map(([path]) => path)]) {
      const source = await openCheckpoint(path);
      const summary = inspectCheckpoint(source);
      const bytes = summary.types.reduce((sum, type) => sum + type.bytes, 0);
      assert(bytes > 0.7 * summary.fileBytes && bytes <= summary.fileBytes, path);
      assert(summary.parameters > 0);
      assertLess(JSON.stringify(summary).length, 20_000);
      source.close();
    }
  },
});

Deno.test({
  name: `mutated headers of real GGUF files end in named errors up to the tokenizer${REASON}`,
  ignore: NO_FIXTURES,
  fn: async () => {
    const random = new Random(7);
    const counts = { read: 0, refused: 0 };
    for (const [path] of goldenFiles()) {
      const bytes = Deno.readFileSync(path);
      for (let i = 0; i < 60; i++) {
        const damaged = i % 2 === 0 ? damageHead(bytes, random) : setByte(bytes, random);
        try {
          await readThrough(damaged);
          counts.read++;
        } catch (error) {
          const named = error instanceof FormatError || error instanceof UnsupportedOpError ||
            error instanceof CapacityError;
          if (!named) throw error;
          counts.refused++;
        }
      }
    }
    assert(counts.read > 5 && counts.refused > 500, JSON.stringify(counts));
  },
});

/** Bytes within which the fixtures' headers lie. */
const HEAD = 14_000;

/** Changes, cuts or lengthens the header; the data follows as it was. */
function damageHead(bytes: Uint8Array, random: Random): Uint8Array {
  const head = mutate(bytes.subarray(0, HEAD), random);
  const out = new Uint8Array(head.length + bytes.length - HEAD);
  out.set(head);
  out.set(bytes.subarray(HEAD), head.length);
  return out;
}

/** Replaces a byte of the header. */
function setByte(bytes: Uint8Array, random: Random): Uint8Array {
  const out = bytes.slice();
  out[random.below(HEAD)] = random.below(256);
  return out;
}

/** What loading does before any weight is read. */
async function readThrough(bytes: Uint8Array): Promise<void> {
  const source: TensorSource = await openGguf([memoryByteSource(bytes, "damaged.gguf")]);
  checkHyperParameters(source);
  JSON.stringify(inspectCheckpoint(source));
  readModelConfig(source);
  await loadTokenizer(source);
}

Deno.test({
  name: `a header with a vocabulary of 151,936 is open in 150 ms and listed in 150 more${NO_QWEN}`,
  ignore: QWEN === undefined,
  fn: async () => {
    const times: number[][] = [];
    // The best of three: other programs may be busy on this machine.
    for (let i = 0; i < 3; i++) {
      const start = performance.now();
      const source = await openCheckpoint(QWEN!);
      const opened = performance.now();
      const tokens = [...source.metadata.get("tokenizer.ggml.tokens") as MetadataArray];
      const merges = [...source.metadata.get("tokenizer.ggml.merges") as MetadataArray];
      times.push([opened - start, performance.now() - opened]);
      assertEquals([tokens.length, merges.length], [151_936, 151_387]);
      source.close();
    }
    assertLess(Math.min(...times.map(([open]) => open)), 150);
    assertLess(Math.min(...times.map(([, list]) => list)), 150);
  },
});

Deno.test({
  name: `values of a real quantised tensor are finite and of a weight's size${NO_QWEN}`,
  ignore: QWEN === undefined,
  fn: async () => {
    const source = await openCheckpoint(QWEN!);
    const seen = new Set<string>();
    for (const tensor of source.tensors.values()) {
      if (seen.has(tensor.type)) continue;
      seen.add(tensor.type);
      const row = tensor.shape[tensor.shape.length - 1];
      const bytes = new Uint8Array(rowBytes(tensor.type, row));
      await source.read(tensor, 0, bytes);
      const values = new Float32Array(row);
      dequantize(tensor.type, bytes, values);
      assert(values.every((value) => Math.abs(value) < 1000), tensor.name);
      assert(values.some((value) => value !== 0), tensor.name);
    }
    assert(seen.size >= 3);
    source.close();
  },
});
