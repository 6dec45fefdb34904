/**
 * Writes safetensors files of F32 and I32 tensors: small ones at once, large ones (recorded logits)
 * piece by piece, since every size is known before the first value.
 */

import { FormatError } from "../../errors.ts";
import { quoted } from "../byte_source.ts";
import { LENGTH_BYTES } from "./header.ts";

export interface TensorDeclaration {
  readonly name: string;
  readonly dtype: "F32" | "I32";
  /** Outermost extent first. */
  readonly shape: readonly number[];
}

export interface TensorEntry extends TensorDeclaration {
  readonly data: Float32Array | Int32Array;
}

/** Takes bytes in order. */
export interface ByteSink {
  write(bytes: Uint8Array): void;
}

const ELEMENT_BYTES = 4;

/** A whole file in memory. Throws FormatError where an entry's data doesn't fit its shape and dtype. */
export function writeSafetensors(entries: readonly TensorEntry[]): Uint8Array<ArrayBuffer> {
  const chunks: Uint8Array[] = [];
  const writer = new SafetensorsWriter(entries, { write: (bytes) => chunks.push(bytes.slice()) });
  for (const { data } of entries) writer.write(data);
  writer.finish();
  const out = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let filled = 0;
  for (const chunk of chunks) {
    out.set(chunk, filled);
    filled += chunk.length;
  }
  return out;
}

/** Writes the header at once, then takes the values of all tensors in the declared order. */
export class SafetensorsWriter {
  readonly #sink: ByteSink;
  readonly #declarations: readonly TensorDeclaration[];
  #current = 0;
  #valuesLeft: number;

  constructor(declarations: readonly TensorDeclaration[], sink: ByteSink) {
    this.#sink = sink;
    this.#declarations = declarations;
    sink.write(encodeHeader(declarations));
    this.#valuesLeft = declarations.length === 0 ? 0 : valueCount(declarations[0]);
    this.#skipFilled();
  }

  /** Appends values to the current tensor; a piece must not reach into the next one. */
  write(values: Float32Array | Int32Array): void {
    if (values.length === 0) return;
    const declaration = this.#declarations[this.#current];
    if (declaration === undefined || values.length > this.#valuesLeft) {
      throw FormatError.of(
        "write safetensors",
        declaration === undefined
          ? "a piece after the last tensor"
          : `a piece of ${quoted(declaration.name)}`,
        `${values.length} values long`,
        `at most ${declaration === undefined ? 0 : this.#valuesLeft}`,
      );
    }
    const dtype = values instanceof Float32Array ? "F32" : "I32";
    if (dtype !== declaration.dtype) {
      throw FormatError.of(
        "write safetensors",
        `a piece of ${quoted(declaration.name)}`,
        dtype,
        declaration.dtype,
      );
    }
    this.#sink.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    this.#valuesLeft -= values.length;
    this.#skipFilled();
  }

  /** Throws FormatError unless every declared tensor is complete. */
  finish(): void {
    const declaration = this.#declarations[this.#current];
    if (declaration === undefined) return;
    throw FormatError.of(
      "write safetensors",
      `tensor ${quoted(declaration.name)}`,
      `${this.#valuesLeft} values short`,
      "complete",
    );
  }

  #skipFilled(): void {
    while (this.#current < this.#declarations.length && this.#valuesLeft === 0) {
      this.#current++;
      const next = this.#declarations[this.#current];
      this.#valuesLeft = next === undefined ? 0 : valueCount(next);
    }
  }
}

function encodeHeader(declarations: readonly TensorDeclaration[]): Uint8Array {
  const entries = new Map<string, { dtype: string; shape: number[]; data_offsets: number[] }>();
  let offset = 0;
  for (const declaration of declarations) {
    const { name, dtype, shape } = declaration;
    if (entries.has(name) || name === "__metadata__" || name.length === 0) {
      throw FormatError.of("write safetensors", "a tensor's name", quoted(name), "unique and free");
    }
    const end = offset + valueCount(declaration) * ELEMENT_BYTES;
    entries.set(name, { dtype, shape: [...shape], data_offsets: [offset, end] });
    offset = end;
  }
  // Joined by hand: an object would put names that look like array indices first.
  const fields = [...entries].map(([name, entry]) =>
    `${JSON.stringify(name)}:${JSON.stringify(entry)}`
  );
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  // Spaces up to a multiple of eight keep the data aligned for readers that map the file.
  const length = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(LENGTH_BYTES + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, LENGTH_BYTES);
  return header;
}

function valueCount({ name, shape }: TensorDeclaration): number {
  const count = shape.reduce((product, extent) => product * extent, 1);
  const whole = shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0);
  if (!whole || !Number.isSafeInteger(count * ELEMENT_BYTES)) {
    throw FormatError.of(
      "write safetensors",
      `the shape of ${quoted(name)}`,
      `[${shape.join(", ")}]`,
      "whole numbers whose product is below 2^51",
    );
  }
  return count;
}
