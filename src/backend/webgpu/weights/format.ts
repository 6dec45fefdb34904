/**
 * How a tensor type lies in GPU memory. A row is made of blocks of 32 values (the last one filled up
 * with zeros), and its bits are parted in two planes, so that neighbouring threads read neighbouring
 * words: `quants`, sixteen bytes at a time, and `scales`, a word at a time, which holds everything else.
 */

import type { TensorType } from "../../../quant/types.ts";
import type { GpuPack } from "./gpu_pack.ts";
import type { IntegerForm } from "./integers.ts";

/** Values of a block: the unit of packing and of sums. */
export const BLOCK = 32;

export interface WeightFormat {
  readonly type: TensorType;
  /** 32-bit words of a block's quants; a row has a multiple of four. */
  readonly quantWords: number;
  /** 32-bit words of a row of so many values in the plane of scales; may be 0. */
  scaleWords(cols: number): number;
  /** Whether quants of rows of so many values are the file's bytes as they are. */
  asInFile?(cols: number): boolean;
  /**
   * Packs rows from the file's layout to planes that start with the first of these rows, whatever is in
   * them. Where quants are `asInFile`, the plane is the file's own memory, and is only looked through.
   * Returns false where a value is NaN or infinite.
   */
  pack(file: Uint8Array, shape: { rows: number; cols: number }, planes: Planes): boolean;
  /** Beside `pack`, where the GPU can do the same. */
  readonly gpuPack?: GpuPack;
  /**
   * WGSL that reads `NAME_q: array<vec4<u32>>` and, where the format has scales, `NAME_s: array<u32>`:
   * `fn NAME_load(row: u32, block: u32) -> NAME_Block`, what the values of a block share;
   * `fn NAME_unit(block: NAME_Block, j: u32) -> Eight`, its values 8 j .. 8 j + 7; and both in one,
   * `fn NAME_8(row: u32, unit: u32) -> Eight`, values 8 unit .. 8 unit + 7 of a row.
   */
  decode(name: string, cols: number): string;
  /** Beside `decode`, where its numbers are integers under a scale. */
  readonly integers?: IntegerForm;
  /** Whether its quants are its numbers as f16, one after the other, and there are no scales. */
  readonly halves?: boolean;
}

export interface Planes {
  readonly quants: Uint32Array<ArrayBuffer>;
  readonly scales: Uint32Array<ArrayBuffer>;
}

/** Where the planes of some rows lie in their buffer. */
export interface PlaneBytes {
  readonly quantBytes: number;
  readonly scaleOffset: number;
  readonly scaleBytes: number;
}

/** Bindings start at multiples of this. */
export const PLANE_ALIGNMENT = 256;

export function blocksOf(cols: number): number {
  return Math.ceil(cols / BLOCK);
}

/** Words that a row's quants take: whole vectors of four. */
export function rowQuantWords({ quantWords }: WeightFormat, cols: number): number {
  return Math.ceil(blocksOf(cols) * quantWords / 4) * 4;
}

export function planeBytes(
  format: WeightFormat,
  { rows, cols }: { rows: number; cols: number },
): PlaneBytes {
  const quantBytes = rows * rowQuantWords(format, cols) * 4;
  const scaleBytes = rows * format.scaleWords(cols) * 4;
  return {
    quantBytes,
    scaleOffset: Math.ceil(quantBytes / PLANE_ALIGNMENT) * PLANE_ALIGNMENT,
    scaleBytes,
  };
}

/** The functions of a format from the members of its `NAME_Block` and the bodies of two of them. */
export function decodeFunctions(
  name: string,
  { members, load, unit }: { members: string; load: string; unit: string },
): string {
  return `
struct ${name}_Block { ${members} }
fn ${name}_load(row: u32, block: u32) -> ${name}_Block {${load}
}
fn ${name}_unit(block: ${name}_Block, j: u32) -> Eight {${unit}
}
fn ${name}_8(row: u32, unit: u32) -> Eight {
  return ${name}_unit(${name}_load(row, unit / 4u), unit & 3u);
}`;
}

/**
 * WGSL that the code of every format may use. All of it is exact, whatever the adapter does with
 * subnormal numbers: none occurs, not even where a half is one.
 *
 * `bytes_f32`: bytes less `zero`. Conversions are slow on many GPUs; 2^23 + n has n as its last bits.
 * `scaled_bytes`: scale (n - zero) of each byte n, in one operation for it: 256 + n has n as the first bits
 * of its mantissa, and what is too much goes with the addition. Scales have few enough bits for all of that.
 * `shifted_nibbles`: scale n + offset of a word's low nibbles and its high ones likewise, from 16 + n; the
 * offset is rounded together with 16 scale.
 * `widen`: floats of few bits, their exponents and mantissas at float32's place; `least` is the smallest
 * normal number. Below it, (1 + m) least / 2 is read where m least is meant.
 * `e2m1_f32`: a quarter of the numbers in the low nibbles.
 * `iq4_f32`: the levels of the IQ4 types, by the polynomial of degree four that misses none of them by
 * more than 0.436 (looking values up in a table of one's own is slow on GPUs).
 */
export const DECODE_COMMON = `
struct Eight { a: vec4<f32>, b: vec4<f32> }
fn bytes_of(word: u32, mask: u32) -> vec4<u32> {
  return vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(mask);
}
fn bytes_f32(word: u32, zero: f32) -> vec4<f32> {
  let last = bytes_of(word, 0xffu) | vec4<u32>(0x4b000000u);
  return bitcast<vec4<f32>>(last) - vec4<f32>(8388608.0 + zero);
}
fn scaled_bytes(word: u32, scale: f32, zero: f32) -> vec4<f32> {
  let bytes = vec4<u32>(word << 15u, word << 7u, word >> 1u, word >> 9u) & vec4<u32>(0x007f8000u);
  let values = bitcast<vec4<f32>>(bytes | vec4<u32>(0x43800000u));
  return fma(vec4<f32>(scale), values, vec4<f32>(-scale * (256.0 + zero)));
}
fn sixteen_and(nibbles: vec4<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>((nibbles & vec4<u32>(0x00780000u)) | vec4<u32>(0x41800000u));
}
fn shifted_nibbles(word: u32, scale: f32, offset: f32) -> Eight {
  let low = sixteen_and(vec4<u32>(word << 19u, word << 11u, word << 3u, word >> 5u));
  let high = sixteen_and(vec4<u32>(word << 15u, word << 7u, word >> 1u, word >> 9u));
  let rest = vec4<f32>(fma(-16.0, scale, offset));
  return Eight(fma(vec4<f32>(scale), low, rest), fma(vec4<f32>(scale), high, rest));
}
fn widen(magnitudes: vec4<u32>, signs: vec4<u32>, least: f32) -> vec4<f32> {
  let values = bitcast<vec4<f32>>(magnitudes + vec4<u32>(bitcast<u32>(least) - 0x00800000u));
  let right = min(values, fma(values, vec4<f32>(2.0), vec4<f32>(-least)));
  return bitcast<vec4<f32>>(bitcast<vec4<u32>>(right) | signs);
}
fn halves_f32(words: vec2<u32>) -> vec4<f32> {
  let halves = vec4<u32>(words.x, words.x >> 16u, words.y, words.y >> 16u);
  let magnitudes = (halves & vec4<u32>(0x7fffu)) << vec4<u32>(13u);
  return widen(magnitudes, (halves & vec4<u32>(0x8000u)) << vec4<u32>(16u), 0.00006103515625);
}
fn half_f32(half: u32) -> f32 { return halves_f32(vec2<u32>(half, 0u)).x; }
fn e4m3_f32(word: u32) -> vec4<f32> {
  let magnitudes = bytes_of(word, 0x7fu) << vec4<u32>(20u);
  return widen(magnitudes, bytes_of(word, 0x80u) << vec4<u32>(24u), 0.015625);
}
fn e2m1_f32(word: u32) -> vec4<f32> {
  let magnitudes = bytes_of(word, 7u) << vec4<u32>(22u);
  return widen(magnitudes, bytes_of(word, 8u) << vec4<u32>(28u), 0.25);
}
fn iq4_f32(word: u32) -> vec4<f32> {
  let x = bytes_f32(word, 8.0);
  let cubic = fma(fma(x, vec4<f32>(0.00159), vec4<f32>(0.08184)), x, vec4<f32>(-0.017));
  return round(fma(fma(cubic, x, vec4<f32>(11.44)), x, vec4<f32>(1.433)));
}
`;

/** WGSL of `dot_8`: the products of two Eights added to `start`, one after the other. */
export const DOT_EIGHT = `
fn dot_8(w: Eight, v: Eight, start: f32) -> f32 {
  var sum = fma(w.a.x, v.a.x, start);
  sum = fma(w.a.y, v.a.y, sum);
  sum = fma(w.a.z, v.a.z, sum);
  sum = fma(w.a.w, v.a.w, sum);
  sum = fma(w.b.x, v.b.x, sum);
  sum = fma(w.b.y, v.b.y, sum);
  sum = fma(w.b.z, v.b.z, sum);
  return fma(w.b.w, v.b.w, sum);
}`;
