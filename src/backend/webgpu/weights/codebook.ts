/**
 * Four-bit formats whose nibbles stand for numbers of a table: the IQ4 types, and MXFP4, whose numbers are
 * floats of four bits (E2M1). Nibbles lie as in `classic.ts`.
 */

import { f16ToF32 } from "../../../quant/half.ts";
import { halfOf, halfWords, NIBBLES, packNibbles, Q4_0 } from "./classic.ts";
import { blocksOf, decodeFunctions, type WeightFormat } from "./format.ts";
import { finiteHalf } from "./gpu_pack.ts";
import { integersOf } from "./integers.ts";
import { viewOf, wrongHalves } from "./words.ts";

/** Blocks under one scale of IQ4_XS. */
const SUPER = 8;
/** Words of a superblock in the plane of scales: d as float32, eight signed bytes. */
const XS_WORDS = 3;

/** The levels of the IQ4 types as integers. */
const LEVELS = integersOf({
  pair: `${NIBBLES.replaceAll("let", "var")}
  low = packed_bytes(iq4_f32(low));
  high = packed_bytes(iq4_f32(high));`,
  scale: "block.scale",
});

/** The largest exponent of MXFP4 whose largest number, 6 times 2^(e - 127), is finite. */
const LARGEST_EXPONENT = 252;

/** As Q4_0, with levels for numbers. */
export const IQ4_NL: WeightFormat = {
  type: "IQ4_NL",
  quantWords: 4,
  scaleWords: halfWords,
  pack: Q4_0.pack,
  gpuPack: Q4_0.gpuPack,
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, scale: f32",
      load: `
  let quad = ${name}_q[row * ${blocksOf(cols)}u + block];
  return ${name}_Block(quad, ${halfOf(name, `row * ${halfWords(cols)}u`)});`,
      unit: `${NIBBLES}
  return Eight(block.scale * iq4_f32(low), block.scale * iq4_f32(high));`,
    }),
  integers: LEVELS,
};

export const IQ4_XS: WeightFormat = {
  type: "IQ4_XS",
  quantWords: 4,
  scaleWords: (cols) => blocksOf(cols) / SUPER * XS_WORDS,
  pack(file, _shape, { quants, scales }) {
    const view = viewOf(file);
    const floats = new Float32Array(scales.buffer, scales.byteOffset, scales.length);
    let wrong = 0;
    for (let at = 0, to = 0, word = 0; at < file.length; word += XS_WORDS) {
      const half = view.getUint16(at, true);
      wrong |= wrongHalves(half);
      floats[word] = f16ToF32(half);
      const upper = view.getUint16(at + 2, true);
      const lower = view.getInt32(at + 4, true);
      for (let i = 0; i < 2; i++) {
        let packed = 0;
        for (let s = 4 * i; s < 4 * i + 4; s++) {
          const scale = (((lower >>> (4 * s)) & 15) | (((upper >>> (2 * s)) & 3) << 4)) - 32;
          packed |= (scale & 255) << (8 * (s & 3));
        }
        scales[word + 1 + i] = packed;
      }
      at += 8;
      for (const end = at + 128; at < end; at += 16, to += 4) packNibbles(quants, { to, view, at });
    }
    return wrong === 0;
  },
  gpuPack: {
    blocks: SUPER,
    bytes: 136,
    finite: finiteHalf({ bytes: 136, at: 0 }),
    code: `
  let base = row + ${XS_WORDS}u * unit;
  scales[base] = float_at(at);
  let upper = half_at(at + 2u);
  let lower = word_at(at + 4u);
  var packed = array<u32, 2>();
  for (var i = 0u; i < 8u; i++) {
    let scale = (((lower >> (4u * i)) & 15u) | (((upper >> (2u * i)) & 3u) << 4u)) - 32u;
    packed[i / 4u] |= (scale & 0xffu) << (8u * (i & 3u));
    quants[to + i] = nibbles_at(at + 8u + 16u * i);
  }
  scales[base + 1u] = packed[0];
  scales[base + 2u] = packed[1];`,
  },
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, scale: f32",
      load: `
  let at = row * ${blocksOf(cols)}u + block;
  let base = at / ${SUPER}u * ${XS_WORDS}u;
  let packed = i32(${name}_s[base + 1u + ((block / 4u) & 1u)]);
  let scale = bitcast<f32>(${name}_s[base]) * f32(extractBits(packed, 8u * (block & 3u), 8u));
  return ${name}_Block(${name}_q[at], scale);`,
      unit: `${NIBBLES}
  return Eight(block.scale * iq4_f32(low), block.scale * iq4_f32(high));`,
    }),
  integers: LEVELS,
};

/** Nibbles; four blocks' exponents in a word. */
export const MXFP4: WeightFormat = {
  type: "MXFP4",
  quantWords: 4,
  scaleWords: (cols) => Math.ceil(blocksOf(cols) / 4),
  pack(file, { cols }, { quants, scales }) {
    const view = viewOf(file);
    const exponents = new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength);
    const blocks = blocksOf(cols);
    let largest = 0;
    for (let at = 0, to = 0, row = 0; at < file.length; row += Math.ceil(blocks / 4) * 4) {
      for (let block = 0; block < blocks; block++, at += 17, to += 4) {
        const exponent = file[at];
        largest = Math.max(largest, exponent);
        exponents[row + block] = exponent;
        packNibbles(quants, { to, view, at: at + 1 });
      }
    }
    return largest <= LARGEST_EXPONENT;
  },
  gpuPack: {
    blocks: 4,
    bytes: 68,
    finite(file) {
      let largest = 0;
      for (let at = 0; at < file.length; at += 17) largest = Math.max(largest, file[at]);
      return largest <= LARGEST_EXPONENT;
    },
    code: `
  var exponents = 0u;
  for (var i = 0u; i < min(4u, params.blocks - 4u * unit); i++) {
    let start = at + 17u * i;
    exponents |= (word_at(start) & 0xffu) << (8u * i);
    quants[to + i] = nibbles_at(start + 1u);
  }
  scales[row + unit] = exponents;`,
  },
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, scale: f32",
      // Four times as large as it says, so that it is a normal number: the others are quarters.
      load: `
  let packed = ${name}_s[row * ${Math.ceil(blocksOf(cols) / 4)}u + block / 4u];
  let exponent = ((packed >> (8u * (block & 3u))) & 0xffu) + 2u;
  return ${name}_Block(${name}_q[row * ${
        blocksOf(cols)
      }u + block], bitcast<f32>(exponent << 23u));`,
      unit: `${NIBBLES}
  return Eight(block.scale * e2m1_f32(low), block.scale * e2m1_f32(high));`,
    }),
  // Eighths of what it says are integers: 0, 1, 2, 3, 4, 6, 8 and 12.
  integers: integersOf({
    pair: `${NIBBLES.replaceAll("let", "var")}
  low = packed_bytes(8.0 * e2m1_f32(low));
  high = packed_bytes(8.0 * e2m1_f32(high));`,
    scale: "0.125 * block.scale",
  }),
};
