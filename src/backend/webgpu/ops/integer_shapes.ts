/** How a workgroup shares a tile of products of integers; has no influence on bits. */

import {
  bestAmong,
  type BlockShape,
  shapesAmong,
  type TimedShape,
  timedShape,
} from "./block_shapes.ts";

export { groupThreads, shapeRows, shapeThreads, shapeTokens } from "./block_shapes.ts";

export type IntegerShape = BlockShape;

/**
 * The larger the tile, the fewer loads for a product; the smaller, the more processors have one. Times
 * are of Q8_0 weights and activations of 8 bits.
 */
const SHAPES: readonly TimedShape[] = [
  timedShape([8, 4], [8, 16], { blocks: 2, groups: 1, ahead: 1, alone: 20, further: 14.2 }),
  timedShape([8, 4], [8, 8], { blocks: 2, groups: 1, ahead: 1, alone: 22, further: 8.4 }),
  timedShape([4, 2], [8, 16], { blocks: 4, groups: 1, ahead: 1, alone: 8.6, further: 5.4 }),
  timedShape([8, 2], [4, 16], { blocks: 1, groups: 2, ahead: 2, alone: 9.3, further: 6.9 }),
];

/** Every shape that products of so many matrices can have, whose outputs are so many sums each. */
export function integerShapes(of: { matrices: number; lanes: number }): IntegerShape[] {
  return shapesAmong(SHAPES, of);
}

/** The shape for outputs of so many rows each, that should be done soonest. */
export function bestIntegerShape(product: Parameters<typeof bestAmong>[1]): IntegerShape {
  return bestAmong(SHAPES, product);
}
