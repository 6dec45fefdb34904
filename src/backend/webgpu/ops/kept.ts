/** WGSL that rounds numbers to a cache's type and packs them, as `reference/kept.ts` defines it. */

import type { KvType } from "../../backend.ts";
import { SCALE_BLOCK } from "../../kv_layout.ts";
import { WORD_NUMBERS } from "../caches.ts";
import type { Binding } from "../kernel.ts";
import { type Cells, firstScale, placesOf, tokenWords } from "./cells.ts";

/** The binding of cells that are written. */
export function keptBinding({ array: name, arrays: { numbers } }: Cells): Binding {
  return { name, buffer: numbers.memory, type: "array<u32>", write: true };
}

/**
 * WGSL of `fn keep_NAME(slot: u32, vector: u32, start: u32, lane: u32)` for each kind of vectors: a
 * workgroup of `lanes` threads keeps the `dim` numbers of `held` from `start` on.
 */
export function keepCells(cells: Cells, lanes: number): string {
  const { array, type, vectors } = cells;
  const token = tokenWords(cells);
  return vectors.map(({ name }) => {
    const { numbers, dim } = placesOf(cells, name);
    const storeScale = type === "q8"
      ? `if (i % ${SCALE_BLOCK / 4}u == 0u) {
      ${array}[${firstScale(cells, name)} + block] = bitcast<u32>(scale);
    }`
      : "";
    return `
fn ${name}_number(start: u32, i: u32) -> f32 {
  if (i >= ${dim}u) { return 0.0; }
  return held[start + i];
}
fn keep_${name}(slot: u32, vector: u32, start: u32, lane: u32) {
  let at = slot * ${token.numbers}u + ${numbers.first}u + vector * ${numbers.stride}u;
  for (var i = lane; i < ${numbers.stride}u; i += ${lanes}u) {
    let number = i * ${WORD_NUMBERS[type]}u;
    ${PACK[type](`${name}_number`, dim)}
    ${array}[at + i] = word;
    ${storeScale}
  }
}`;
  }).join("");
}

/** WGSL that makes `word` of the numbers from `number` on. */
const PACK: Record<KvType, (read: string, dim: number) => string> = {
  f32: (read) => `let word = bitcast<u32>(${read}(start, number));`,
  f16: (read) =>
    `let word = half_of(${read}(start, number)) | (half_of(${read}(start, number + 1u)) << 16u);`,
  q8: (read, dim) => `
    let block = number / ${SCALE_BLOCK}u;
    var largest = 0.0;
    for (var j = block * ${SCALE_BLOCK}u; j < min(${dim}u, (block + 1u) * ${SCALE_BLOCK}u); j++) {
      largest = max(largest, abs(held[start + j]));
    }
    let scale = quotient(largest, 127.0);
    var word = 0u;
    for (var j = 0u; j < 4u; j++) {
      word |= cell_of(${read}(start, number + j), scale) << (8u * j);
    }`,
};

/** WGSL that PACK calls. */
export const KEEP_COMMON: Record<KvType, string> = {
  f32: "",
  // Every step is one of integers: how a conversion by the adapter rounds is its own affair.
  f16: `
fn half_of(number: f32) -> u32 {
  let bits = bitcast<u32>(clamp(number, -65504.0, 65504.0));
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x38800000u) {
    let odd = (magnitude >> 13u) & 1u;
    return sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13u);
  }
  // Multiples of 2^-24: the mantissa is one of 2^(exponent - 150).
  let shift = 126u - (magnitude >> 23u);
  if (shift > 24u) { return sign; }
  let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  let whole = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1u);
  let middle = 1u << (shift - 1u);
  let up = rest > middle || (rest == middle && (whole & 1u) == 1u);
  return sign | (whole + select(0u, 1u, up));
}`,
  q8: `
fn halves_of(number: f32) -> vec2<f32> {
  let high = bitcast<f32>(bitcast<u32>(number) & 0xfffff000u);
  return vec2<f32>(high, number - high);
}
// A quotient may be some places off; its remainder, whose terms are exact (Dekker 1971), tells by how much.
fn quotient(number: f32, divisor: f32) -> f32 {
  let near = number / divisor;
  let q = halves_of(near);
  let d = halves_of(divisor);
  let rest = (((number - q.x * d.x) - q.x * d.y) - q.y * d.x) - q.y * d.y;
  return near + rest / divisor;
}
fn cell_of(number: f32, scale: f32) -> u32 {
  if (scale == 0.0) { return 0u; }
  let ratio = clamp(quotient(number, scale), -127.0, 127.0);
  var cell = floor(ratio);
  let rest = ratio - cell;
  if (rest > 0.5 || (rest == 0.5 && (i32(cell) & 1) == 1)) { cell += 1.0; }
  return bitcast<u32>(i32(cell)) & 0xffu;
}`,
};
