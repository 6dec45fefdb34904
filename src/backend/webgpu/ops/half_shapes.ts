/** How a workgroup shares a tile of products of halves; has no influence on bits. */

import {
  bestAmong,
  type BlockShape,
  shapesAmong,
  type TimedShape,
  timedShape,
} from "./block_shapes.ts";

export type HalfShape = BlockShape;

/**
 * The larger the tile, the fewer loads for a product; the smaller, the more processors have one. Threads for
 * tokens are a multiple of eight, which `half_tiles.ts` relies on. Times are those of `block_shapes.ts`,
 * measured on an H200; larger tiles took longer, with 8 x 8 sums a thread up to twice as long.
 */
const SHAPES: readonly TimedShape[] = [
  timedShape([8, 4], [8, 16], { blocks: 1, groups: 1, ahead: 1, alone: 55, further: 33 }),
  timedShape([8, 4], [8, 8], { blocks: 1, groups: 2, ahead: 1, alone: 32, further: 17.6 }),
  timedShape([4, 4], [8, 8], { blocks: 1, groups: 2, ahead: 1, alone: 23, further: 9.8 }),
  timedShape([8, 2], [4, 8], { blocks: 1, groups: 4, ahead: 1, alone: 12.3, further: 6.05 }),
];

/** Every shape that products of so many matrices can have, whose outputs are so many sums each. */
export function halfShapes(of: { matrices: number; lanes: number }): HalfShape[] {
  return shapesAmong(SHAPES, of);
}

/** The shape for outputs of so many rows each, that should be done soonest. */
export function bestHalfShape(product: Parameters<typeof bestAmong>[1]): HalfShape {
  return bestAmong(SHAPES, product);
}
