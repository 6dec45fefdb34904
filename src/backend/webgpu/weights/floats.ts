/** Types whose values are floats: no scales. */

import { blocksOf, type WeightFormat } from "./format.ts";

const EXPONENT_F32 = 0x7f800000;

/** Float32, eight vectors a block. */
export const F32: WeightFormat = {
  type: "F32",
  quantWords: 32,
  scaleWords: () => 0,
  pack(file, { rows, cols }, { quants }) {
    const words = new Uint32Array(file.slice().buffer);
    const rowWords = blocksOf(cols) * 32;
    for (let row = 0; row < rows; row++) {
      quants.set(words.subarray(row * cols, (row + 1) * cols), row * rowWords);
    }
    return words.every((word) => (word & EXPONENT_F32) !== EXPONENT_F32);
  },
  decode: (name, cols) => `
fn ${name}_8(row: u32, unit: u32) -> Eight {
  let at = row * ${blocksOf(cols) * 8}u + unit * 2u;
  return Eight(bitcast<vec4<f32>>(${name}_q[at]), bitcast<vec4<f32>>(${name}_q[at + 1u]));
}`,
};
