/**
 * A mixture of experts larger than a WebAssembly memory, as a file that is mostly holes: Qwen3-MoE in GGUF,
 * five layers of 128 experts, 4.1 GiB. Some rows of every expert, and all that is not an expert, are
 * random; the rest are zeros that take no place on disk.
 */

import { statfsSync } from "node:fs";
import { GgufWriter } from "../../src/formats/gguf/writer.ts";
import type { TypedValue } from "../../src/formats/gguf/metadata.ts";

export const SPARSE = Object.freeze({
  layers: 5,
  experts: 128,
  topK: 4,
  hidden: 2048,
  intermediate: 1056,
  vocab: 256,
});

const { layers, experts, hidden, intermediate, vocab } = SPARSE;
const HEADS = 4;
const KV_HEADS = 2;
const HEAD_DIM = 64;

/** Q8_0: 32 values after a scale in float16. */
const BLOCK_VALUES = 32;
const BLOCK_BYTES = 34;
const TYPES = { F32: 0, Q8_0: 8 } as const;
/** 2^-11 as float16: products of normalised rows are about 1 then. */
const SCALE = 0x1000;
/** Rows of an expert's gate and up that are not zero, and rows of its down. */
const INNER_ROWS = 8;
const OUTER_ROWS = 16;
const ALIGNMENT = 32;
const WRITE_ROOM = 300e6;

interface SparseTensor {
  readonly name: string;
  readonly type: keyof typeof TYPES;
  readonly shape: readonly number[];
  readonly content: "ones" | "random" | "someRows";
}

/** Bytes of the whole file, and of what of it is written. */
export interface SparseFile {
  readonly byteLength: number;
  readonly written: number;
}

/** Why such a file is better not made in this folder and loaded; undefined where nothing is against it. */
export function sparseModelObstacle(folder: string): string | undefined {
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < WRITE_ROOM) return "the disk is short";
  if (!keepsHoles(folder)) return "the disk keeps no holes";
  if (Deno.systemMemoryInfo().available < 7e9) return "memory is short";
  return undefined;
}

function keepsHoles(folder: string): boolean {
  const path = Deno.makeTempFileSync({ dir: folder });
  try {
    Deno.truncateSync(path, 2 ** 26);
    return (Deno.statSync(path).blocks ?? Infinity) * 512 < 2 ** 20;
  } finally {
    Deno.removeSync(path);
  }
}

/** Writes the file. */
export function writeSparseModel(path: string): SparseFile {
  const tensors = sparseTensors().map((tensor) => ({ ...tensor, byteLength: bytesOf(tensor) }));
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  let written = 0;
  const write = (bytes: Uint8Array) => {
    for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
    written += bytes.length;
  };
  const declared = tensors.map(({ type, ...tensor }) => ({ ...tensor, typeId: TYPES[type] }));
  new GgufWriter({ metadata: metadata(), tensors: declared }, { write });
  let start = written;
  const pool = new RandomPool();
  for (const tensor of tensors) {
    for (const { offset, bytes } of piecesOf(tensor, pool)) {
      file.seekSync(start + offset, Deno.SeekMode.Start);
      write(bytes);
    }
    start += Math.ceil(tensor.byteLength / ALIGNMENT) * ALIGNMENT;
  }
  file.truncateSync(start);
  return { byteLength: start, written };
}

function metadata(): Map<string, TypedValue> {
  const integer = (value: number): TypedValue => ({ type: "uint32", value });
  const own: Record<string, TypedValue> = {
    block_count: integer(layers),
    context_length: integer(512),
    embedding_length: integer(hidden),
    feed_forward_length: integer(intermediate),
    expert_feed_forward_length: integer(intermediate),
    expert_count: integer(experts),
    expert_used_count: integer(SPARSE.topK),
    "attention.head_count": integer(HEADS),
    "attention.head_count_kv": integer(KV_HEADS),
    "attention.key_length": integer(HEAD_DIM),
    "attention.value_length": integer(HEAD_DIM),
    "attention.layer_norm_rms_epsilon": { type: "float32", value: 1e-6 },
    "rope.freq_base": { type: "float32", value: 10000 },
  };
  return new Map([
    ["general.architecture", { type: "string", value: "qwen3moe" }],
    ...Object.entries(own).map(([key, value]): [string, TypedValue] => [`qwen3moe.${key}`, value]),
  ]);
}

function sparseTensors(): SparseTensor[] {
  const matrix = (name: string, rows: number, cols: number): SparseTensor => ({
    name,
    type: "Q8_0",
    shape: [rows, cols],
    content: "random",
  });
  const norm = (name: string, width: number): SparseTensor => ({
    name,
    type: "F32",
    shape: [width],
    content: "ones",
  });
  const stack = (name: string, rows: number, cols: number): SparseTensor => ({
    name,
    type: "Q8_0",
    shape: [experts, rows, cols],
    content: "someRows",
  });
  const blocks = Array.from({ length: layers }, (_, layer) => {
    const block = `blk.${layer}`;
    return [
      norm(`${block}.attn_norm.weight`, hidden),
      matrix(`${block}.attn_q.weight`, HEADS * HEAD_DIM, hidden),
      matrix(`${block}.attn_k.weight`, KV_HEADS * HEAD_DIM, hidden),
      matrix(`${block}.attn_v.weight`, KV_HEADS * HEAD_DIM, hidden),
      norm(`${block}.attn_q_norm.weight`, HEAD_DIM),
      norm(`${block}.attn_k_norm.weight`, HEAD_DIM),
      matrix(`${block}.attn_output.weight`, hidden, HEADS * HEAD_DIM),
      norm(`${block}.ffn_norm.weight`, hidden),
      { ...matrix(`${block}.ffn_gate_inp.weight`, experts, hidden), type: "F32" as const },
      stack(`${block}.ffn_gate_exps.weight`, intermediate, hidden),
      stack(`${block}.ffn_up_exps.weight`, intermediate, hidden),
      stack(`${block}.ffn_down_exps.weight`, hidden, intermediate),
    ];
  });
  return [
    matrix("token_embd.weight", vocab, hidden),
    norm("output_norm.weight", hidden),
    matrix("output.weight", vocab, hidden),
    ...blocks.flat(),
  ];
}

function bytesOf({ type, shape }: Pick<SparseTensor, "type" | "shape">): number {
  const values = shape.reduce((product, extent) => product * extent, 1);
  return type === "F32" ? values * 4 : values / BLOCK_VALUES * BLOCK_BYTES;
}

/** What of a tensor is not zero. */
function* piecesOf(
  { type, shape, content, byteLength }: SparseTensor & { byteLength: number },
  pool: RandomPool,
): Generator<{ offset: number; bytes: Uint8Array }> {
  if (content === "ones") {
    yield { offset: 0, bytes: new Uint8Array(new Float32Array(shape[0]).fill(1).buffer) };
  } else if (type === "F32") {
    yield { offset: 0, bytes: pool.floats(byteLength / 4) };
  } else if (content === "random") {
    yield { offset: 0, bytes: pool.blocks(byteLength / BLOCK_BYTES) };
  } else {
    const [count, rows, cols] = shape;
    const filled = rows === intermediate ? INNER_ROWS : OUTER_ROWS;
    for (let expert = 0; expert < count; expert++) {
      const bytes = pool.blocks(filled * cols / BLOCK_VALUES);
      yield { offset: expert * byteLength / count, bytes };
    }
  }
}

/** Random numbers, the same in every run; pieces begin at different places of one long list. */
class RandomPool {
  readonly #blocks = new Uint8Array(BLOCK_BYTES * (1 << 15));
  #next = 0;

  constructor() {
    let state = 1;
    for (let at = 0; at < this.#blocks.length; at++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      this.#blocks[at] = state >>> 24;
    }
    for (let at = 0; at < this.#blocks.length; at += BLOCK_BYTES) {
      this.#blocks[at] = SCALE & 255;
      this.#blocks[at + 1] = SCALE >> 8;
    }
  }

  /** `count` blocks, fewer than the list has. */
  blocks(count: number): Uint8Array {
    const length = count * BLOCK_BYTES;
    const places = (this.#blocks.length - length) / BLOCK_BYTES;
    this.#next = (this.#next + 7919) % places;
    const start = this.#next * BLOCK_BYTES;
    return this.#blocks.subarray(start, start + length);
  }

  /** Float32 numbers in (-0.1, 0.1). */
  floats(count: number): Uint8Array {
    this.#next = (this.#next + 7919) % 4096;
    const values = new Float32Array(count);
    let state = this.#next + 1;
    for (let i = 0; i < count; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      values[i] = (state / 2 ** 31 - 1) / 10;
    }
    return new Uint8Array(values.buffer);
  }
}
