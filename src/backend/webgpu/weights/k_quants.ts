/**
 * The k-quants: superblocks of eight blocks. The plane of scales has, for each of them, the halves d and
 * dmin in a word, or d alone as float32; a byte for each scale and minimum; then what bits numbers have
 * above those in the other plane.
 *
 * Nibbles and fifth bits lie as in `classic.ts`. Of pairs of bits a block has two words, each for sixteen
 * values: its bytes have the first four in their lowest bits, and the next ones above them.
 */

import { f16ToF32 } from "../../../quant/half.ts";
import { FIVE_BITS, NIBBLES, nibbles, scaled, shifted } from "./classic.ts";
import { blocksOf, decodeFunctions, type WeightFormat } from "./format.ts";
import { finiteHalf, finiteHalves, type GpuPack } from "./gpu_pack.ts";
import { integersOf } from "./integers.ts";
import {
  moveBits,
  moveNibbles,
  movePairs,
  moveSixBits,
  moveSixteenScales,
  moveWords,
} from "./superblocks.ts";
import { viewOf, wrongHalves } from "./words.ts";

const BLOCKS = 8;

/** WGSL of `at`, the block's number among all, and `base`, where its superblock's scales are. */
function places(cols: number, words: number): string {
  return `
  let at = row * ${blocksOf(cols)}u + block;
  let base = at / ${BLOCKS}u * ${words}u;`;
}

/** WGSL of the sixteen bits that are the block's own behind d. */
const ownBits = (name: string) =>
  `${name}_s[base + 1u + ((block / 2u) & 3u)] >> (16u * (block & 1u))`;

/** WGSL of `pairs`, the block's two words of pairs of bits. */
const pairs = (name: string) => `
  let quad = ${name}_q[at / 2u];
  let pairs = select(quad.xy, quad.zw, (at & 1u) == 1u);`;

/** Two bits; for each half of a block a nibble each of scale and minimum. */
export const Q2_K: WeightFormat = superblocks("Q2_K", {
  bytes: 84,
  quantWords: 2,
  words: 5,
  pack({ view, at, to, word, quants, scales }) {
    const halves = view.getInt32(at + 80, true);
    scales[word] = halves;
    moveWords(scales, { view, at, to: word + 1, count: 4 });
    movePairs(quants, { view, at: at + 16, to });
    movePairs(quants, { view, at: at + 48, to: to + 8 });
    return wrongHalves(halves);
  },
  finite: finiteHalves({ bytes: 84, at: 80 }),
  move: `
  scales[base] = word_at(at + 80u);
  set_scales(base + 1u, words_at(at));
  for (var i = 0u; i < 2u; i++) {
    let pairs = pairs_at(at + 16u + 32u * i);
    quants[to + 2u * i] = pairs.a;
    quants[to + 2u * i + 1u] = pairs.b;
  }`,
  members: "pairs: vec2<u32>, scales: vec2<f32>, minima: vec2<f32>",
  load: (name) =>
    `${pairs(name)}
  let own = ${ownBits(name)};
  let nibbles = vec4<u32>(own, own >> 4u, own >> 8u, own >> 12u) & vec4<u32>(15u);
  let factors = halves_f32(vec2<u32>(${name}_s[base], 0u));
  let products = factors.xyxy * vec4<f32>(nibbles);
  return ${name}_Block(pairs, products.xz, products.yw);`,
  pair: `
  let word = block.pairs[j / 2u] >> (4u * (j & 1u));
  let low = word & 0x03030303u;
  let high = (word >> 2u) & 0x03030303u;`,
  floats: shifted("block.scales[j / 2u]", "-block.minima[j / 2u]"),
  integers: { halves: true, scale: "block.scales", offset: "-block.minima" },
});

/** Two bits and a third, which stands for 4; for each half of a block a scale. */
export const Q3_K: WeightFormat = superblocks("Q3_K", {
  bytes: 110,
  quantWords: 2,
  words: 13,
  pack({ view, at, to, word, quants, scales, floats }) {
    const half = view.getUint16(at + 108, true);
    floats[word] = f16ToF32(half);
    moveSixteenScales(scales, { view, at: at + 96, to: word + 1 });
    moveBits(scales, { view, at, to: word + 5 });
    movePairs(quants, { view, at: at + 32, to });
    movePairs(quants, { view, at: at + 64, to: to + 8 });
    return wrongHalves(half);
  },
  finite: finiteHalf({ bytes: 110, at: 108 }),
  move: `
  scales[base] = float_at(at + 108u);
  set_scales(base + 1u, sixteen_scales_at(at + 96u));
  let thirds = bits_at(at);
  set_scales(base + 5u, thirds.a);
  set_scales(base + 9u, thirds.b);
  for (var i = 0u; i < 2u; i++) {
    let pairs = pairs_at(at + 32u + 32u * i);
    quants[to + 2u * i] = pairs.a;
    quants[to + 2u * i + 1u] = pairs.b;
  }`,
  members: "pairs: vec2<u32>, thirds: u32, scales: vec2<f32>",
  load: (name) =>
    `${pairs(name)}
  let own = ${ownBits(name)};
  let scales = vec2<f32>(vec2<u32>(own, own >> 8u) & vec2<u32>(255u)) - vec2<f32>(32.0);
  let thirds = ${name}_s[base + 5u + (block & 7u)];
  return ${name}_Block(pairs, thirds, bitcast<f32>(${name}_s[base]) * scales);`,
  pair: `
  let word = block.pairs[j / 2u] >> (4u * (j & 1u));
  let thirds = block.thirds >> j;
  let low = (word & 0x03030303u) | ((thirds << 2u) & 0x04040404u);
  let high = ((word >> 2u) & 0x03030303u) | ((thirds >> 2u) & 0x04040404u);`,
  floats: scaled("block.scales[j / 2u]", "4.0"),
  integers: { halves: true, scale: "block.scales", offset: "-4.0 * block.scales" },
});

/** Nibbles; a scale and a minimum for each block. */
export const Q4_K: WeightFormat = superblocks("Q4_K", {
  bytes: 144,
  quantWords: 4,
  words: 5,
  pack({ view, at, to, word, quants, scales }) {
    const halves = view.getInt32(at, true);
    scales[word] = halves;
    moveSixBits(scales, { view, at: at + 4, to: word + 1 });
    for (let i = 0; i < 4; i++) {
      moveNibbles(quants, { view, at: at + 16 + 32 * i, to: to + 8 * i, apart: 4 });
    }
    return wrongHalves(halves);
  },
  finite: finiteHalves({ bytes: 144, at: 0 }),
  move: `
  scales[base] = word_at(at);
  set_scales(base + 1u, six_bits_at(at + 4u));
  for (var i = 0u; i < 4u; i++) { move_nibbles(at + 16u + 32u * i, to + 2u * i, 1u); }`,
  members: "quad: vec4<u32>, scale: f32, minimum: f32",
  load: (name) => `
  let own = ${ownBits(name)};
  let factors = halves_f32(vec2<u32>(${name}_s[base], 0u));
  let products = factors.xy * vec2<f32>(vec2<u32>(own, own >> 8u) & vec2<u32>(255u));
  return ${name}_Block(${name}_q[at], products.x, products.y);`,
  pair: NIBBLES,
  unit: nibbles("block.scale", "-block.minimum"),
  integers: { scale: "block.scale", offset: "-block.minimum" },
});

/** As Q4_K, and fifth bits. */
export const Q5_K: WeightFormat = superblocks("Q5_K", {
  bytes: 176,
  quantWords: 4,
  words: 13,
  pack({ view, at, to, word, quants, scales }) {
    const halves = view.getInt32(at, true);
    scales[word] = halves;
    moveSixBits(scales, { view, at: at + 4, to: word + 1 });
    moveBits(scales, { view, at: at + 16, to: word + 5 });
    for (let i = 0; i < 4; i++) {
      moveNibbles(quants, { view, at: at + 48 + 32 * i, to: to + 8 * i, apart: 4 });
    }
    return wrongHalves(halves);
  },
  finite: finiteHalves({ bytes: 176, at: 0 }),
  move: `
  scales[base] = word_at(at);
  set_scales(base + 1u, six_bits_at(at + 4u));
  let fifths = bits_at(at + 16u);
  set_scales(base + 5u, fifths.a);
  set_scales(base + 9u, fifths.b);
  for (var i = 0u; i < 4u; i++) { move_nibbles(at + 48u + 32u * i, to + 2u * i, 1u); }`,
  members: "quad: vec4<u32>, fifths: u32, scale: f32, minimum: f32",
  load: (name) => `
  let own = ${ownBits(name)};
  let factors = halves_f32(vec2<u32>(${name}_s[base], 0u));
  let products = factors.xy * vec2<f32>(vec2<u32>(own, own >> 8u) & vec2<u32>(255u));
  let fifths = ${name}_s[base + 5u + (block & 7u)];
  return ${name}_Block(${name}_q[at], fifths, products.x, products.y);`,
  pair: FIVE_BITS,
  floats: shifted("block.scale", "-block.minimum"),
  integers: { scale: "block.scale", offset: "-block.minimum" },
});

/** Nibbles, and the pair of bits above each; for each half of a block a scale. */
export const Q6_K: WeightFormat = superblocks("Q6_K", {
  bytes: 210,
  quantWords: 4,
  words: 21,
  pack({ view, at, to, word, quants, scales, floats }) {
    const half = view.getUint16(at + 208, true);
    floats[word] = f16ToF32(half);
    moveWords(scales, { view, at: at + 192, to: word + 1, count: 4 });
    for (let i = 0; i < 2; i++) {
      movePairs(scales, { view, at: at + 128 + 32 * i, to: word + 5 + 8 * i });
      moveNibbles(quants, { view, at: at + 64 * i, to: to + 16 * i, apart: 8 });
      moveNibbles(quants, { view, at: at + 64 * i + 32, to: to + 16 * i + 4, apart: 8 });
    }
    return wrongHalves(half);
  },
  finite: finiteHalf({ bytes: 210, at: 208 }),
  move: `
  scales[base] = float_at(at + 208u);
  set_scales(base + 1u, words_at(at + 192u));
  for (var i = 0u; i < 2u; i++) {
    let uppers = pairs_at(at + 128u + 32u * i);
    set_scales(base + 5u + 8u * i, uppers.a);
    set_scales(base + 9u + 8u * i, uppers.b);
    move_nibbles(at + 64u * i, to + 4u * i, 2u);
    move_nibbles(at + 64u * i + 32u, to + 4u * i + 1u, 2u);
  }`,
  members: "quad: vec4<u32>, uppers: vec2<u32>, scales: vec2<f32>",
  load: (name) => `
  let own = i32(${ownBits(name)});
  let scales = vec2<f32>(vec2<i32>(extractBits(own, 0u, 8u), extractBits(own, 8u, 8u)));
  let first = base + 5u + 2u * (block & 7u);
  let uppers = vec2<u32>(${name}_s[first], ${name}_s[first + 1u]);
  return ${name}_Block(${name}_q[at], uppers, bitcast<f32>(${name}_s[base]) * scales);`,
  pair: `
  let word = block.quad[j];
  let uppers = block.uppers[j / 2u] >> (4u * (j & 1u));
  let low = (word & 0x0f0f0f0fu) | ((uppers << 4u) & 0x30303030u);
  let high = ((word >> 4u) & 0x0f0f0f0fu) | ((uppers << 2u) & 0x30303030u);`,
  floats: `
  // Scales have too many bits for \`scaled_bytes\`.
  let scale = block.scales[j / 2u];
  return Eight(scale * bytes_f32(low, 32.0), scale * bytes_f32(high, 32.0));`,
  integers: { halves: true, scale: "block.scales", offset: "-32.0 * block.scales" },
});

interface Superblock {
  readonly view: DataView;
  /** First byte in the file, first word in either plane. */
  readonly at: number;
  readonly to: number;
  readonly word: number;
  readonly quants: Uint32Array;
  readonly scales: Uint32Array;
  /** The plane of scales once more. */
  readonly floats: Float32Array;
}

/** A format from how one superblock is packed, and WGSL that may use what `places` says. */
function superblocks(
  type: "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K",
  options: {
    bytes: number;
    quantWords: number;
    /** Words of a superblock in the plane of scales. */
    words: number;
    /** Returns zero unless d or dmin is NaN or infinite. */
    pack(superblock: Superblock): number;
    finite: GpuPack["finite"];
    /** WGSL of the same as `pack` for `GpuPack`; `base` is the superblock's first word of scales. */
    move: string;
    members: string;
    load: (name: string) => string;
    /** WGSL that leaves the bytes of eight values in `low` and `high`. */
    pair: string;
    /** WGSL that returns what these stand for, or `unit`, which does so without them. */
    floats?: string;
    unit?: string;
    integers: { halves?: boolean; scale: string; offset: string };
  },
): WeightFormat {
  const { bytes, quantWords, words, members, pair, floats, unit = `${pair}${floats}` } = options;
  return {
    type,
    quantWords,
    scaleWords: (cols) => blocksOf(cols) / BLOCKS * words,
    pack(file, _shape, { quants, scales }) {
      const view = viewOf(file);
      const floats = new Float32Array(scales.buffer, scales.byteOffset, scales.length);
      let wrong = 0;
      for (let at = 0, to = 0, word = 0; at < file.length; at += bytes) {
        wrong |= options.pack({ view, at, to, word, quants, scales, floats });
        to += BLOCKS * quantWords;
        word += words;
      }
      return wrong === 0;
    },
    gpuPack: {
      blocks: BLOCKS,
      bytes,
      finite: options.finite,
      code: `
  let base = row + ${words}u * unit;${options.move}`,
    },
    decode: (name, cols) =>
      decodeFunctions(name, {
        members,
        load: `${places(cols, words)}${options.load(name)}`,
        unit,
      }),
    integers: integersOf({ pair, ...options.integers }),
  };
}
