/**
 * Cells of caches as kernels see them: where a token's vectors lie among the words of an array, and
 * WGSL that reads eight numbers of one.
 */

import type { KvType } from "../../backend.ts";
import { vectorWords, WORD_NUMBERS } from "../caches.ts";
import type { Binding } from "../kernel.ts";
import type { CacheArrays } from "../memory.ts";

/** Vectors of one kind of a token: as many as heads, or one. */
export interface CellVectors {
  /** Name in WGSL. */
  readonly name: string;
  readonly dim: number;
  readonly count: number;
}

/** An array of tokens: kinds of vectors, one behind the other. */
export interface Cells {
  /** Its binding. */
  readonly array: string;
  readonly type: KvType;
  readonly arrays: CacheArrays;
  readonly vectors: readonly CellVectors[];
}

/** Values that a thread reads at a time, as `Eight` of the formats of weights. */
export const UNIT = 8;

export function unitsOf(dim: number): number {
  return Math.ceil(dim / UNIT);
}

/** Words, of numbers or of scales, before the vectors of a kind, and between two of them. */
interface Place {
  readonly first: number;
  readonly stride: number;
}

/** Where the vectors of a kind lie within a token. */
export function placesOf(
  { type, vectors }: Cells,
  name: string,
): { numbers: Place; scales: Place; dim: number } {
  const first = { numbers: 0, scales: 0 };
  for (const { dim, count, ...vector } of vectors) {
    const { numbers, scales } = vectorWords(type, dim);
    if (vector.name === name) {
      return {
        numbers: { first: first.numbers, stride: numbers },
        scales: { first: first.scales, stride: scales },
        dim,
      };
    }
    first.numbers += numbers * count;
    first.scales += scales * count;
  }
  throw new RangeError(`cannot place vectors: ${name} are none of this array`);
}

/** Words of a token. */
export function tokenWords({ arrays }: Cells): { numbers: number; scales: number } {
  return {
    numbers: arrays.numbers.tokenBytes / 4,
    scales: (arrays.scales?.tokenBytes ?? 0) / 4,
  };
}

/** Words that are read at once: those of a unit, or one where vectors don't start at multiples of it. */
function wordsAtOnce(cells: Cells): number {
  const width = cells.type === "q8" ? 2 : 4;
  const aligned = cells.vectors.every(({ name, dim }) => {
    const { first, stride } = placesOf(cells, name).numbers;
    return dim % UNIT === 0 && first % width === 0 && stride % width === 0;
  });
  return aligned && tokenWords(cells).numbers % width === 0 ? width : 1;
}

/** The binding of cells that are read. */
export function cellBinding(cells: Cells): Binding {
  const { array: name, arrays } = cells;
  const words = wordsAtOnce(cells);
  const type = words === 1 ? "array<u32>" : `array<vec${words}<u32>>`;
  return { name, buffer: arrays.numbers.memory, type };
}

/** WGSL of the word of an array that the scales of a token's vectors of a kind start with. */
export function firstScale(cells: Cells, name: string): string {
  const { first, stride } = placesOf(cells, name).scales;
  const before = cells.arrays.scales!.offset / 4 + first;
  return `${before}u + slot * ${tokenWords(cells).scales}u + vector * ${stride}u`;
}

/**
 * WGSL of `fn NAME_8(slot: u32, vector: u32, unit: u32) -> Eight` for each kind of vectors: values
 * 8 unit .. 8 unit + 7, zero beyond the vector's end. `slot` numbers the tokens of the cache.
 */
export function readCells(cells: Cells): string {
  const words = wordsAtOnce(cells);
  const { array, type, vectors } = cells;
  const token = tokenWords(cells);
  return vectors.map(({ name, dim }) => {
    const { first, stride } = placesOf(cells, name).numbers;
    const scaleWord = words === 1
      ? `${array}[scale_at]`
      : `${array}[scale_at / ${words}u][scale_at % ${words}u]`;
    const scale = type === "q8"
      ? `let scale_at = ${firstScale(cells, name)} + unit / 4u;
  let scale = bitcast<f32>(${scaleWord});`
      : "";
    const at = `slot * ${token.numbers / words}u + ${first / words}u + vector * ${stride / words}u`;
    const body = words === 1 ? eachNumber(array, { type, dim }) : WHOLE_UNITS[type](array);
    return `
fn ${name}_8(slot: u32, vector: u32, unit: u32) -> Eight {
  ${scale}
  let at = ${at};
  ${body}
}`;
  }).join("");
}

/** Units that start with a vector of words: two of four float32 each, one of halves, one of cells. */
const WHOLE_UNITS: Record<KvType, (array: string) => string> = {
  f32: (array) => `
  let words = at + unit * 2u;
  return Eight(bitcast<vec4<f32>>(${array}[words]), bitcast<vec4<f32>>(${array}[words + 1u]));`,
  f16: (array) => `
  let words = ${array}[at + unit];
  return Eight(
    vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
  );`,
  q8: (array) => `
  let words = ${array}[at + unit];
  return Eight(scale * vec4<f32>(unpack4xI8(words.x)), scale * vec4<f32>(unpack4xI8(words.y)));`,
};

/** One number after the other, for vectors of any width. */
function eachNumber(array: string, { type, dim }: { type: KvType; dim: number }): string {
  const value: Record<KvType, string> = {
    f32: "bitcast<f32>(word)",
    f16: "unpack2x16float(word >> (16u * (number & 1u))).x",
    q8: "scale * f32(bitcast<i32>(word << (24u - 8u * (number & 3u))) >> 24u)",
  };
  return `
  var eight: Eight;
  for (var j = 0u; j < ${UNIT}u; j++) {
    let number = unit * ${UNIT}u + j;
    if (number >= ${dim}u) { break; }
    let word = ${array}[at + number / ${WORD_NUMBERS[type]}u];
    let value = ${value[type]};
    if (j < 4u) { eight.a[j] = value; } else { eight.b[j - 4u] = value; }
  }
  return eight;`;
}
