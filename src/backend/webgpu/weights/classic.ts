/**
 * The 32-value formats with half-precision scales (ggml's "legacy" quants). Nibbles of a block are four
 * words, one for each eight values: its bytes have the first four in their low halves, and the others in
 * their high ones. Fifth bits are a word: bit j of its bytes belongs to the first four values of word j,
 * bit 4 + j to the others.
 */

import { blocksOf, decodeFunctions, type WeightFormat } from "./format.ts";
import { finiteHalves, pairsOfBlocks } from "./gpu_pack.ts";
import { integersOf } from "./integers.ts";
import { highNibbles, lowNibbles, viewOf, wrongHalves } from "./words.ts";

/** A block's nibbles in a file: those of values 0..15 are the low halves of its bytes. */
export function packNibbles(
  quants: Uint32Array,
  { to, view, at }: { to: number; view: DataView; at: number },
): void {
  const w0 = view.getInt32(at, true);
  const w1 = view.getInt32(at + 4, true);
  const w2 = view.getInt32(at + 8, true);
  const w3 = view.getInt32(at + 12, true);
  quants[to] = lowNibbles(w0, w1);
  quants[to + 1] = lowNibbles(w2, w3);
  quants[to + 2] = highNibbles(w0, w1);
  quants[to + 3] = highNibbles(w2, w3);
}

/** Where 8 bits of as many values go in a word of fifth bits, for the first word of nibbles. */
const SPREAD = Uint32Array.from({ length: 256 }, (_, byte) => {
  let word = 0;
  for (let i = 0; i < 8; i++) word += ((byte >> i) & 1) * 2 ** (8 * (i & 3) + (i & 4));
  return word;
});

function spreadFifthBits(bits: number): number {
  return SPREAD[bits & 255] | (SPREAD[(bits >>> 8) & 255] << 1) |
    (SPREAD[(bits >>> 16) & 255] << 2) | (SPREAD[bits >>> 24] << 3);
}

/** Words that a row's halves take, one a block and two a word. */
export function halfWords(cols: number): number {
  return Math.ceil(blocksOf(cols) / 2);
}

/** WGSL of a block's half in a row of them, which starts at word `row`. */
export function halfOf(name: string, row: string): string {
  return `half_f32(${name}_s[${row} + block / 2u] >> (16u * (block & 1u)))`;
}

/** WGSL of `low` and `high`, the bytes of a word's eight nibbles. */
export const NIBBLES = `
  let word = block.quad[j];
  let low = word & 0x0f0f0f0fu;
  let high = (word >> 4u) & 0x0f0f0f0fu;`;

/** The same with fifth bits from `block.fifths`. */
export const FIVE_BITS = `
  let word = block.quad[j];
  let low = (word & 0x0f0f0f0fu) | ((block.fifths << (4u - j)) & 0x10101010u);
  let high = ((word >> 4u) & 0x0f0f0f0fu) | ((block.fifths >> j) & 0x10101010u);`;

/** WGSL that returns bytes less `zero` times a scale. */
export function scaled(scale: string, zero: string): string {
  return `
  return Eight(scaled_bytes(low, ${scale}, ${zero}), scaled_bytes(high, ${scale}, ${zero}));`;
}

/** WGSL that returns bytes times a scale and an offset, in one rounding where the GPU can. */
export function shifted(scale: string, offset: string): string {
  return `
  let scale = vec4<f32>(${scale});
  let offset = vec4<f32>(${offset});
  return Eight(fma(scale, bytes_f32(low, 0.0), offset), fma(scale, bytes_f32(high, 0.0), offset));`;
}

/** WGSL that returns a word's eight nibbles times a scale and an offset. */
export function nibbles(scale: string, offset: string): string {
  return `
  return shifted_nibbles(block.quad[j], ${scale}, ${offset});`;
}

/** Nibbles; two blocks' scales share a word. */
export const Q4_0: WeightFormat = {
  type: "Q4_0",
  quantWords: 4,
  scaleWords: halfWords,
  pack(file, { cols }, { quants, scales }) {
    const view = viewOf(file);
    const blocks = blocksOf(cols);
    let wrong = 0;
    let pair = 0;
    for (let at = 0, to = 0, word = 0; at < file.length;) {
      for (let block = 0; block < blocks; block++, at += 18, to += 4) {
        const half = view.getUint16(at, true);
        wrong |= wrongHalves(half);
        packNibbles(quants, { to, view, at: at + 2 });
        pair = (pair >>> 16) | (half << 16);
        if (block & 1) scales[word++] = pair;
      }
      if (blocks & 1) scales[word++] = pair >>> 16;
    }
    return wrong === 0;
  },
  gpuPack: pairsOfBlocks({
    bytes: 18,
    vectors: 1,
    move: `
    quants[into] = nibbles_at(start + 2u);`,
  }),
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, scale: f32",
      load: `
  let quad = ${name}_q[row * ${blocksOf(cols)}u + block];
  return ${name}_Block(quad, ${halfOf(name, `row * ${halfWords(cols)}u`)});`,
      unit: nibbles("block.scale", "-8.0 * block.scale"),
    }),
  integers: integersOf({ pair: NIBBLES, scale: "block.scale", offset: "-8.0 * block.scale" }),
};

/** Nibbles; a word has scale and minimum. */
export const Q4_1: WeightFormat = {
  type: "Q4_1",
  quantWords: 4,
  scaleWords: blocksOf,
  pack(file, _shape, { quants, scales }) {
    const view = viewOf(file);
    let wrong = 0;
    for (let at = 0, block = 0; at < file.length; at += 20, block++) {
      const halves = view.getInt32(at, true);
      wrong |= wrongHalves(halves);
      scales[block] = halves;
      packNibbles(quants, { to: 4 * block, view, at: at + 4 });
    }
    return wrong === 0;
  },
  gpuPack: {
    blocks: 1,
    bytes: 20,
    finite: finiteHalves({ bytes: 20, at: 0 }),
    code: `
  scales[row + unit] = word_at(at);
  quants[to] = nibbles_at(at + 4u);`,
  },
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, scale: f32, minimum: f32",
      load: `
  let at = row * ${blocksOf(cols)}u + block;
  let halves = ${name}_s[at];
  return ${name}_Block(${name}_q[at], half_f32(halves), half_f32(halves >> 16u));`,
      unit: nibbles("block.scale", "block.minimum"),
    }),
  integers: integersOf({ pair: NIBBLES, scale: "block.scale", offset: "block.minimum" }),
};

/** Nibbles; a row's fifth bits, then its scales, two blocks' in a word. */
export const Q5_0: WeightFormat = {
  type: "Q5_0",
  quantWords: 4,
  scaleWords: (cols) => blocksOf(cols) + halfWords(cols),
  pack(file, { cols }, { quants, scales }) {
    const view = viewOf(file);
    const blocks = blocksOf(cols);
    let wrong = 0;
    let pair = 0;
    for (let at = 0, to = 0, fifths = 0; at < file.length;) {
      let word = fifths + blocks;
      for (let block = 0; block < blocks; block++, at += 22, to += 4) {
        const half = view.getUint16(at, true);
        wrong |= wrongHalves(half);
        scales[fifths++] = spreadFifthBits(view.getInt32(at + 2, true));
        packNibbles(quants, { to, view, at: at + 6 });
        pair = (pair >>> 16) | (half << 16);
        if (block & 1) scales[word++] = pair;
      }
      if (blocks & 1) scales[word++] = pair >>> 16;
      fifths = word;
    }
    return wrong === 0;
  },
  gpuPack: pairsOfBlocks({
    bytes: 22,
    vectors: 1,
    halves: "row + params.blocks + unit",
    move: `
    scales[row + 2u * unit + i] = fifths_at(start + 2u);
    quants[into] = nibbles_at(start + 6u);`,
  }),
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, fifths: u32, scale: f32",
      load: `
  let at = row * ${blocksOf(cols) + halfWords(cols)}u;
  let quad = ${name}_q[row * ${blocksOf(cols)}u + block];
  let scale = ${halfOf(name, `at + ${blocksOf(cols)}u`)};
  return ${name}_Block(quad, ${name}_s[at + block], scale);`,
      unit: `${FIVE_BITS}${scaled("block.scale", "16.0")}`,
    }),
  integers: integersOf({ pair: FIVE_BITS, scale: "block.scale", offset: "-16.0 * block.scale" }),
};

/** Nibbles; a word of fifth bits, and one of scale and minimum. */
export const Q5_1: WeightFormat = {
  type: "Q5_1",
  quantWords: 4,
  scaleWords: (cols) => 2 * blocksOf(cols),
  pack(file, _shape, { quants, scales }) {
    const view = viewOf(file);
    let wrong = 0;
    for (let at = 0, block = 0; at < file.length; at += 24, block++) {
      const halves = view.getInt32(at, true);
      wrong |= wrongHalves(halves);
      scales[2 * block] = spreadFifthBits(view.getInt32(at + 4, true));
      scales[2 * block + 1] = halves;
      packNibbles(quants, { to: 4 * block, view, at: at + 8 });
    }
    return wrong === 0;
  },
  gpuPack: {
    blocks: 1,
    bytes: 24,
    finite: finiteHalves({ bytes: 24, at: 0 }),
    code: `
  scales[row + 2u * unit] = fifths_at(at + 4u);
  scales[row + 2u * unit + 1u] = word_at(at);
  quants[to] = nibbles_at(at + 8u);`,
  },
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "quad: vec4<u32>, fifths: u32, scale: f32, minimum: f32",
      load: `
  let at = row * ${blocksOf(cols)}u + block;
  let halves = ${name}_s[2u * at + 1u];
  return ${name}_Block(
    ${name}_q[at], ${name}_s[2u * at], half_f32(halves), half_f32(halves >> 16u));`,
      unit: `${FIVE_BITS}${shifted("block.scale", "block.minimum")}`,
    }),
  integers: integersOf({ pair: FIVE_BITS, scale: "block.scale", offset: "block.minimum" }),
};

/** Eight words of signed bytes a block; two blocks' scales share a word. */
export const Q8_0: WeightFormat = {
  type: "Q8_0",
  quantWords: 8,
  scaleWords: halfWords,
  pack(file, { cols }, { quants, scales }) {
    const view = viewOf(file);
    const blocks = blocksOf(cols);
    let wrong = 0;
    let pair = 0;
    for (let at = 0, to = 0, word = 0; at < file.length;) {
      for (let block = 0; block < blocks; block++) {
        const half = view.getUint16(at, true);
        wrong |= wrongHalves(half);
        pair = (pair >>> 16) | (half << 16);
        if (block & 1) scales[word++] = pair;
        for (const end = (at += 2) + 32; at < end; at += 4) quants[to++] = view.getInt32(at, true);
      }
      if (blocks & 1) scales[word++] = pair >>> 16;
    }
    return wrong === 0;
  },
  gpuPack: pairsOfBlocks({
    bytes: 34,
    vectors: 2,
    move: `
    quants[into] = words_at(start + 2u);
    quants[into + 1u] = words_at(start + 18u);`,
  }),
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "at: u32, scale: f32",
      load: `
  let scale = ${halfOf(name, `row * ${halfWords(cols)}u`)};
  return ${name}_Block((row * ${blocksOf(cols)}u + block) * 2u, scale);`,
      unit: `
  let quad = ${name}_q[block.at + j / 2u];
  let words = select(quad.xy, quad.zw, (j & 1u) == 1u);
  let bytes = words ^ vec2<u32>(0x80808080u);
  return Eight(
    scaled_bytes(bytes.x, block.scale, 128.0), scaled_bytes(bytes.y, block.scale, 128.0));`,
    }),
  integers: {
    halves: false,
    offsets: false,
    code: (name, cols) => `
struct ${name}_Raw { a: vec4<u32>, b: vec4<u32>, scale: u32 }
fn ${name}_raw(row: u32, block: u32) -> ${name}_Raw {
  let at = (row * ${blocksOf(cols)}u + block) * 2u;
  let scale = ${name}_s[row * ${halfWords(cols)}u + block / 2u] >> (16u * (block & 1u));
  return ${name}_Raw(${name}_q[at], ${name}_q[at + 1u], scale);
}
fn ${name}_ints(raw: ${name}_Raw) -> Ints {
  return Ints(raw.a, raw.b, vec2<f32>(half_f32(raw.scale)), vec2<f32>());
}`,
  },
};
