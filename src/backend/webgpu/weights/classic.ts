/** The 32-value formats with half-precision scales (ggml's "legacy" quants). */

import { blocksOf, type WeightFormat } from "./format.ts";

const HALF_EXPONENT = 0x7c00;

/** Eight words of signed bytes a block; two blocks' halves share a word of scales. */
export const Q8_0: WeightFormat = {
  type: "Q8_0",
  quantWords: 8,
  scaleWords: (cols) => Math.ceil(blocksOf(cols) / 2),
  pack(file, { rows, cols }, { quants, scales }) {
    const blocks = blocksOf(cols);
    const bytes = new Uint8Array(quants.buffer, quants.byteOffset, quants.byteLength);
    const halves = new Uint16Array(scales.buffer, scales.byteOffset, scales.length * 2);
    const rowHalves = Math.ceil(blocks / 2) * 2;
    let finite = true;
    for (let block = 0; block < rows * blocks; block++) {
      const from = block * 34;
      const half = file[from] | file[from + 1] << 8;
      finite &&= (half & HALF_EXPONENT) !== HALF_EXPONENT;
      halves[Math.floor(block / blocks) * rowHalves + block % blocks] = half;
      bytes.set(file.subarray(from + 2, from + 34), block * 32);
    }
    return finite;
  },
  decode: (name, cols) => `
fn ${name}_8(row: u32, unit: u32) -> Eight {
  let block = unit / 4u;
  let pair = unpack2x16float(${name}_s[row * ${Math.ceil(blocksOf(cols) / 2)}u + block / 2u]);
  let scale = select(pair.x, pair.y, (block & 1u) == 1u);
  let quad = ${name}_q[row * ${blocksOf(cols) * 2}u + unit / 2u];
  let words = select(quad.xy, quad.zw, (unit & 1u) == 1u);
  return Eight(scale * vec4<f32>(unpack4xI8(words.x)), scale * vec4<f32>(unpack4xI8(words.y)));
}`,
};
