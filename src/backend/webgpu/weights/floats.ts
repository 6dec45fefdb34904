/** Types whose values are floats, and float32 itself, into which every type can be converted. */

import { blocksOf, decodeFunctions, type WeightFormat } from "./format.ts";
import { viewOf } from "./words.ts";

export const EXPONENT_F32 = 0x7f800000;

/** Float32, eight vectors a block. */
export const F32: WeightFormat = floatFormat("F32", {
  quantWords: 32,
  exponents: EXPONENT_F32,
  unit: `
  let at = block.at + 2u * j;
  return Eight(bitcast<vec4<f32>>($q[at]), bitcast<vec4<f32>>($q[at + 1u]));`,
});

/** Halves, four vectors a block. */
export const F16: WeightFormat = {
  ...floatFormat("F16", {
    quantWords: 16,
    exponents: 0x7c007c00,
    unit: `
  let words = $q[block.at + j];
  return Eight(halves_f32(words.xy), halves_f32(words.zw));`,
  }),
  halves: true,
};

/** Upper halves of float32, four vectors a block. */
export const BF16: WeightFormat = floatFormat("BF16", {
  quantWords: 16,
  exponents: 0x7f807f80,
  unit: `
  let words = $q[block.at + j];
  let low = words << vec4<u32>(16u);
  let high = words & vec4<u32>(0xffff0000u);
  return Eight(
    bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y)),
    bitcast<vec4<f32>>(vec4<u32>(low.z, high.z, low.w, high.w)));`,
});

/** Eight words of e4m3 numbers a block, and a float32 factor for each. */
export const F8_E4M3: WeightFormat = {
  type: "F8_E4M3",
  quantWords: 8,
  scaleWords: blocksOf,
  pack(file, _shape, { quants, scales }) {
    const view = viewOf(file);
    let wrong = 0;
    for (let block = 0, at = 0, to = 0; block < scales.length; block++, at += 36) {
      const factor = view.getInt32(at, true);
      scales[block] = factor;
      wrong |= ((factor & 0x7f800000) + 0x00800000) & 0x80000000;
      for (let i = 4; i < 36; i += 4, to++) {
        const word = view.getInt32(at + i, true);
        quants[to] = word;
        // All bits but the sign: NaN. There are no infinities.
        wrong |= ((word & 0x7f7f7f7f) + 0x01010101) & 0x80808080;
      }
    }
    return wrong === 0;
  },
  decode: (name, cols) =>
    decodeFunctions(name, {
      members: "at: u32, factor: f32",
      load: `
  let at = row * ${blocksOf(cols)}u + block;
  return ${name}_Block(2u * at, bitcast<f32>(${name}_s[at]));`,
      unit: `
  let quad = ${name}_q[block.at + j / 2u];
  let words = select(quad.xy, quad.zw, (j & 1u) == 1u);
  return Eight(block.factor * e4m3_f32(words.x), block.factor * e4m3_f32(words.y));`,
    }),
};

/** A format without scales; `unit` has `$q` for the plane, and `block.at`, the block's first vector. */
function floatFormat(
  type: "F32" | "F16" | "BF16",
  { quantWords, exponents, unit }: { quantWords: number; exponents: number; unit: string },
): WeightFormat {
  const valuesPerWord = 32 / quantWords;
  const asInFile = (cols: number) => cols % 32 === 0;
  return {
    type,
    quantWords,
    scaleWords: () => 0,
    asInFile,
    pack(file, { rows, cols }, { quants }) {
      if (!asInFile(cols)) {
        quants.fill(0);
        const bytes = new Uint8Array(quants.buffer, quants.byteOffset, quants.byteLength);
        const [fileRow, row] = [cols * 4 / valuesPerWord, quants.byteLength / rows];
        for (let r = 0; r < rows; r++) {
          bytes.set(file.subarray(r * fileRow, (r + 1) * fileRow), r * row);
        }
      }
      return allFinite(quants, exponents);
    },
    decode: (name, cols) =>
      decodeFunctions(name, {
        members: "at: u32",
        load: `
  return ${name}_Block((row * ${blocksOf(cols)}u + block) * ${quantWords / 4}u);`,
        unit: unit.replaceAll("$q", `${name}_q`),
      }),
  };
}

/** Whether no field of exponents of any word is all ones. */
export function allFinite(words: Uint32Array, exponents: number): boolean {
  // One more than the lowest bit of such a field carries to the bit behind it.
  const lowest = exponents & ~(exponents << 1);
  const behind = (exponents << 1) & ~exponents;
  let wrong = 0;
  for (let i = 0; i < words.length; i++) wrong |= ((words[i] & exponents) + lowest) & behind;
  return wrong === 0;
}
