/** How a workgroup shares a tile of products of integers; has no influence on bits. */

export interface IntegerShape {
  /** Matrix rows of a thread, half of them of either matrix where there are two. */
  readonly rowsEach: 4 | 8;
  /** Rows of `x` of a thread. */
  readonly tokensEach: 2 | 4 | 8;
  /** Threads of a group for rows of matrices, times threads for rows of `x`. */
  readonly rowThreads: number;
  readonly tokenThreads: number;
  /** Blocks of each group that are brought to workgroup memory at a time. */
  readonly blocks: 1 | 2 | 4;
  /** Groups of threads that each compute the whole tile, of some of the sums of an output. */
  readonly groups: 1 | 2 | 4;
  /** Turns for which loads are on their way. */
  readonly ahead: 1 | 2;
}

interface Candidate extends IntegerShape {
  /**
   * Microseconds that a processor of an H200 takes for 1000 columns of a tile that it has to itself, and
   * for each further one, measured with Q8_0 weights and activations of 8 bits.
   */
  readonly alone: number;
  readonly further: number;
}

/** The larger the tile, the fewer loads for a product; the smaller, the more processors have one. */
const SHAPES: readonly Candidate[] = [
  shape([8, 4], [8, 16], { blocks: 2, groups: 1, ahead: 1, alone: 20, further: 14.2 }),
  shape([8, 4], [8, 8], { blocks: 2, groups: 1, ahead: 1, alone: 22, further: 8.4 }),
  shape([4, 2], [8, 16], { blocks: 4, groups: 1, ahead: 1, alone: 8.6, further: 5.4 }),
  shape([8, 2], [4, 16], { blocks: 1, groups: 2, ahead: 2, alone: 9.3, further: 6.9 }),
];

/** Processors of the GPU that is aimed at. */
const PROCESSORS = 132;

function shape(
  [rowsEach, tokensEach]: [4 | 8, 2 | 4 | 8],
  [rowThreads, tokenThreads]: [number, number],
  rest: Pick<Candidate, "blocks" | "groups" | "ahead" | "alone" | "further">,
): Candidate {
  return { rowsEach, tokensEach, rowThreads, tokenThreads, ...rest };
}

/** Every shape that products of so many matrices can have, whose outputs are so many sums each. */
export function integerShapes(
  { matrices, lanes }: { matrices: number; lanes: number },
): IntegerShape[] {
  return SHAPES.filter(({ rowsEach, tokensEach, groups }) =>
    groups <= lanes &&
    (matrices === 1 || rowsEach === 8 && rowsEach / 4 * tokensEach % (2 * groups) === 0)
  );
}

/** The shape for outputs of so many rows each, that should be done soonest. */
export function bestIntegerShape(
  { outputs, tokens, matrices, lanes }: {
    outputs: readonly number[];
    tokens: number;
    matrices: number;
    lanes: number;
  },
): IntegerShape {
  const time = (shape: Candidate) => {
    const rows = shapeRows(shape) / matrices;
    const tiles = outputs.reduce((sum, count) => sum + Math.ceil(count / rows), 0) *
      Math.ceil(tokens / shapeTokens(shape));
    return shape.alone + (Math.ceil(tiles / PROCESSORS) - 1) * shape.further;
  };
  const candidates = integerShapes({ matrices, lanes }) as Candidate[];
  return candidates.reduce((best, shape) => time(shape) < time(best) ? shape : best);
}

export function shapeRows({ rowsEach, rowThreads }: IntegerShape): number {
  return rowsEach * rowThreads;
}

export function shapeTokens({ tokensEach, tokenThreads }: IntegerShape): number {
  return tokensEach * tokenThreads;
}

export function groupThreads({ rowThreads, tokenThreads }: IntegerShape): number {
  return rowThreads * tokenThreads;
}

export function shapeThreads(shape: IntegerShape): number {
  return groupThreads(shape) * shape.groups;
}

/** Blocks of each row that are in workgroup memory at a time. */
export function slotsOf({ blocks, groups }: IntegerShape): number {
  return blocks * groups;
}
