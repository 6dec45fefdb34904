/**
 * Packing on the GPU: what a format's `pack` makes of a file's rows, with the same bits, by a kernel that
 * sees the file's bytes as they are. A thread packs a unit of a row, which is as many blocks as share a
 * word of scales. The host only looks at scales.
 */

import { DECODE_COMMON } from "./format.ts";
import { wrongHalves } from "./words.ts";

export interface GpuPack {
  /** Blocks of a unit; the last one of a row may have fewer. */
  readonly blocks: number;
  /** Bytes of a whole unit in the file. */
  readonly bytes: number;
  /** Whether all scales of some rows are finite: what `pack` says of the same bytes. */
  finite(file: Uint8Array): boolean;
  /**
   * WGSL that packs a unit, the row's `unit`-th, from byte `at` of the file. It writes
   * `quants: array<vec4<u32>>` from vector `to` on, and `scales: array<u32>`, where the row's words
   * start at `row`. A row has `params.blocks` blocks.
   */
  readonly code: string;
}

/** Looks through rows for halves that are no numbers: one at byte `at` of so many `bytes`. */
export function finiteHalf({ bytes, at }: { bytes: number; at: number }): GpuPack["finite"] {
  return ({ buffer, byteOffset, byteLength }) => {
    const halves = new Uint16Array(buffer, byteOffset, byteLength / 2);
    const step = bytes / 2;
    let wrong = 0;
    for (let i = at / 2; i < halves.length; i += step) wrong |= wrongHalves(halves[i]);
    return wrong === 0;
  };
}

/** The same for two halves, which are an aligned word. */
export function finiteHalves({ bytes, at }: { bytes: number; at: number }): GpuPack["finite"] {
  return ({ buffer, byteOffset, byteLength }) => {
    const words = new Uint32Array(buffer, byteOffset, byteLength / 4);
    const step = bytes / 4;
    let wrong = 0;
    for (let i = at / 4; i < words.length; i += step) wrong |= wrongHalves(words[i]);
    return wrong === 0;
  };
}

/**
 * Blocks of `bytes` in the file and so many vectors of quants, which start with a half; two blocks' halves
 * share the word of scales that `halves` says. `move` is the WGSL that brings the rest of the unit's
 * block `i` from byte `start` to vector `into`.
 */
export function pairsOfBlocks(
  { bytes, vectors, halves = "row + unit", move }: {
    bytes: number;
    vectors: number;
    halves?: string;
    move: string;
  },
): GpuPack {
  return {
    blocks: 2,
    bytes: 2 * bytes,
    finite: finiteHalf({ bytes, at: 0 }),
    code: `
  var halves = 0u;
  for (var i = 0u; i < min(2u, params.blocks - 2u * unit); i++) {
    let start = at + ${bytes}u * i;
    let into = to + ${vectors}u * i;
    halves |= half_at(start) << (16u * i);${move}
  }
  scales[${halves}] = halves;`,
  };
}

/**
 * WGSL that every format's code may use: `words.ts`, `classic.ts` and `superblocks.ts` once more, four
 * words at a time. `_at` functions take a byte of the file, wherever it lies.
 */
export const PACK_COMMON = `${DECODE_COMMON}
struct Two { a: vec4<u32>, b: vec4<u32> }
fn low_nibbles(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
  return (a & vec4<u32>(0x0f0f0f0fu)) | ((b & vec4<u32>(0x0f0f0f0fu)) << vec4<u32>(4u));
}
fn high_nibbles(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
  return ((a >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu)) | (b & vec4<u32>(0xf0f0f0f0u));
}
fn low_pairs(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return (a & vec2<u32>(0x33333333u)) | ((b & vec2<u32>(0x33333333u)) << vec2<u32>(2u));
}
fn high_pairs(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return ((a >> vec2<u32>(2u)) & vec2<u32>(0x33333333u)) | (b & vec2<u32>(0xccccccccu));
}
fn low_bits(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return (a & vec2<u32>(0x55555555u)) | ((b & vec2<u32>(0x55555555u)) << vec2<u32>(1u));
}
fn high_bits(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return ((a >> vec2<u32>(1u)) & vec2<u32>(0x55555555u)) | (b & vec2<u32>(0xaaaaaaaau));
}
fn word_at(at: u32) -> u32 {
  let shift = 8u * (at & 3u);
  let first = file[at / 4u] >> shift;
  if (shift == 0u) { return first; }
  return first | (file[at / 4u + 1u] << (32u - shift));
}
fn half_at(at: u32) -> u32 { return (file[at / 4u] >> (8u * (at & 2u))) & 0xffffu; }
fn float_at(at: u32) -> u32 { return bitcast<u32>(half_f32(half_at(at))); }
fn words_at(at: u32) -> vec4<u32> {
  return vec4<u32>(word_at(at), word_at(at + 4u), word_at(at + 8u), word_at(at + 12u));
}
// A block's 32 nibbles, of which the first 16 are the low ones.
fn nibbles_at(at: u32) -> vec4<u32> {
  let words = words_at(at);
  let low = low_nibbles(words, words.yxwz);
  let high = high_nibbles(words, words.yxwz);
  return vec4<u32>(low.xz, high.xz);
}
// Two blocks' nibbles.
fn move_nibbles(at: u32, to: u32, apart: u32) {
  let first = words_at(at);
  let second = words_at(at + 16u);
  let a = vec4<u32>(first.xz, second.xz);
  let b = vec4<u32>(first.yw, second.yw);
  quants[to] = low_nibbles(a, b);
  quants[to + apart] = high_nibbles(a, b);
}
fn split_pairs(words: vec4<u32>) -> vec4<u32> {
  return vec4<u32>(low_pairs(words.xz, words.yw), high_pairs(words.xz, words.yw));
}
fn pairs_at(at: u32) -> Two {
  let first = words_at(at);
  let second = words_at(at + 16u);
  let a = vec4<u32>(first.xy, second.xy);
  let b = vec4<u32>(first.zw, second.zw);
  return Two(split_pairs(low_nibbles(a, b)), split_pairs(high_nibbles(a, b)));
}
fn split_bits(words: vec4<u32>) -> vec4<u32> {
  let low = low_pairs(words.xy, words.zw);
  let high = high_pairs(words.xy, words.zw);
  let first = vec2<u32>(low.x, high.x);
  let second = vec2<u32>(low.y, high.y);
  return vec4<u32>(low_bits(first, second), high_bits(first, second)).xzyw;
}
fn bits_at(at: u32) -> Two {
  let first = words_at(at);
  let second = words_at(at + 16u);
  let a = vec4<u32>(first.xz, second.xz);
  let b = vec4<u32>(first.yw, second.yw);
  return Two(split_bits(low_nibbles(a, b)), split_bits(high_nibbles(a, b)));
}
fn fifths_at(at: u32) -> u32 {
  let bits = word_at(at);
  var word = 0u;
  for (var i = 0u; i < 8u; i++) {
    let four = (bits >> i) & 0x01010101u;
    let nibble = (four | (four >> 7u) | (four >> 14u) | (four >> 21u)) & 15u;
    word |= nibble << (8u * (i & 3u) + (i & 4u));
  }
  return word;
}
fn byte_pairs(first: u32, second: u32) -> vec2<u32> {
  return vec2<u32>(
    (first & 0xffu) | ((second & 0xffu) << 8u) | ((first & 0xff00u) << 8u) |
      ((second & 0xff00u) << 16u),
    ((first >> 16u) & 0xffu) | ((second >> 8u) & 0xff00u) | ((first >> 8u) & 0xff0000u) |
      (second & 0xff000000u));
}
fn six_bits_at(at: u32) -> vec4<u32> {
  let a = word_at(at);
  let b = word_at(at + 4u);
  let c = word_at(at + 8u);
  return vec4<u32>(
    byte_pairs(a & 0x3f3f3f3fu, b & 0x3f3f3f3fu),
    byte_pairs(
      (c & 0x0f0f0f0fu) | ((a >> 2u) & 0x30303030u),
      ((c >> 4u) & 0x0f0f0f0fu) | ((b >> 2u) & 0x30303030u)));
}
fn sixteen_scales_at(at: u32) -> vec4<u32> {
  let a = word_at(at);
  let b = word_at(at + 4u);
  let upper = word_at(at + 8u);
  let low = vec4<u32>(a, b, a >> 4u, b >> 4u) & vec4<u32>(0x0f0f0f0fu);
  return low |
    (vec4<u32>(upper << 4u, upper << 2u, upper, upper >> 2u) & vec4<u32>(0x30303030u));
}
fn set_scales(to: u32, words: vec4<u32>) {
  scales[to] = words.x;
  scales[to + 1u] = words.y;
  scales[to + 2u] = words.z;
  scales[to + 3u] = words.w;
}`;
