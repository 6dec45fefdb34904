/**
 * What names a checkpoint's content in the prefix cache, so that state which one model computed is never
 * taken for another one's: its metadata, its tensors' shapes, and words of every weight, hashed as they
 * pass by while the model is loaded. Small files are hashed whole; of larger ones some four million words,
 * evenly spread, since fine-tuning or converting a model changes words everywhere.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";
import type { OtherTensorInfo, TensorInfo, TensorSource } from "../formats/tensor_source.ts";

type AnyTensor = TensorInfo | OtherTensorInfo;

/** Words hashed of a checkpoint: some 20 ms. */
const MAX_WORDS = 4 * 2 ** 20;

/** Of a tensor that loading left alone (paged experts), so many bytes are read. */
const SAMPLE_BYTES = 4096;

/** Metadata beyond this many characters is left out: vocabularies don't change what a token id means. */
const MAX_VALUE_CHARACTERS = 4096;

/**
 * Sums of words that have been mixed with their places, so that parts of a tensor may come in any order.
 * The mixing is that of MurmurHash3's finaliser.
 */
class PlacedSum {
  readonly #stride: number;
  #low = 0;
  #high = 0;

  /** Takes every `stride`-th word of 4 bytes. */
  constructor(stride: number) {
    this.#stride = stride;
  }

  /** Adds the words of `bytes`, which begin at `offset` in the tensor. */
  add(bytes: Uint8Array, offset: number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const step = 4 * this.#stride;
    let [low, high] = [this.#low, this.#high];
    for (let i = (step - offset % step) % step; i < bytes.length; i += step) {
      const place = Math.floor((offset + i) / 4);
      const word = i + 4 <= bytes.length ? view.getInt32(i, true) : lastBytes(bytes, i);
      let h = Math.imul(word ^ Math.imul(place, 0x9e3779b1), 0x85ebca6b);
      h ^= h >>> 13;
      h = Math.imul(h, 0xc2b2ae35);
      h ^= h >>> 16;
      low = (low + h) | 0;
      high = (high + Math.imul(h, place | 1)) | 0;
    }
    this.#low = low;
    this.#high = high;
  }

  toString(): string {
    return `${this.#low >>> 0}/${this.#high >>> 0}`;
  }
}

/** The bytes from `start` on, fewer than four, as a number. */
function lastBytes(bytes: Uint8Array, start: number): number {
  let word = 1;
  for (let i = start; i < bytes.length; i++) word = word << 8 | bytes[i];
  return word;
}

/** A source whose reads are hashed. */
export class IdentifiedSource implements TensorSource {
  readonly #source: TensorSource;
  readonly #stride: number;
  readonly #sums = new Map<string, { readonly sum: PlacedSum; readonly seen: Set<number> }>();

  constructor(source: TensorSource) {
    this.#source = source;
    this.#stride = Math.max(1, Math.floor(source.byteLength / 4 / MAX_WORDS)) | 1;
  }

  get format() {
    return this.#source.format;
  }

  get name() {
    return this.#source.name;
  }

  get byteLength() {
    return this.#source.byteLength;
  }

  get tensors() {
    return this.#source.tensors;
  }

  get otherTensors() {
    return this.#source.otherTensors;
  }

  get metadata() {
    return this.#source.metadata;
  }

  sidecar(name: string): Promise<string | null> {
    return this.#source.sidecar(name);
  }

  locate(tensor: AnyTensor) {
    return this.#source.locate?.(tensor);
  }

  async read(tensor: AnyTensor, offset: number, into: Uint8Array): Promise<void> {
    await this.#source.read(tensor, offset, into);
    let known = this.#sums.get(tensor.name);
    if (known === undefined) {
      known = { sum: new PlacedSum(this.#stride), seen: new Set() };
      this.#sums.set(tensor.name, known);
    }
    // A part that is read twice (tied embeddings) counts once.
    if (known.seen.has(offset)) return;
    known.seen.add(offset);
    known.sum.add(into, offset);
  }

  /** The content's name, hex, once the model has been loaded from this source. */
  async identity(): Promise<string> {
    const tensors: unknown[] = [];
    for (const tensor of [...this.tensors.values(), ...this.otherTensors.values()]) {
      if (!this.#sums.has(tensor.name) && tensor.byteLength > 0) {
        const start = Math.floor(Math.max(0, tensor.byteLength - SAMPLE_BYTES) / 2);
        await this.read(
          tensor,
          start,
          new Uint8Array(Math.min(SAMPLE_BYTES, tensor.byteLength)),
        );
      }
      const { name, shape, byteLength } = tensor;
      const type = "type" in tensor ? tensor.type : tensor.dtype;
      const { version } = this.locate(tensor) ?? {};
      const sum = String(this.#sums.get(name)?.sum);
      tensors.push([name, type, shape, byteLength, sum, version?.etag, version?.lastModified]);
    }
    const metadata = [...this.metadata].map(([key, value]) => [key, shortText(value)]);
    return bytesToHex(sha256(utf8ToBytes(JSON.stringify([metadata, tensors]))));
  }

  close(): void {
    this.#source.close();
  }
}

/** A metadata value as text; arrays that are too long by their length alone. */
function shortText(value: unknown): string {
  if (typeof value === "object" && value !== null && "length" in value) {
    if (Number(value.length) > MAX_VALUE_CHARACTERS) return `${value.length} values`;
    if (!Array.isArray(value)) return shortText([...(value as unknown as Iterable<unknown>)]);
  }
  const text = JSON.stringify(value, (_, v) => typeof v === "bigint" ? `${v}n` : v) ?? "";
  return text.slice(0, MAX_VALUE_CHARACTERS);
}
