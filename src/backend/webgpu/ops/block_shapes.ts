/**
 * How a workgroup shares a tile of products whose operands come to workgroup memory block by block; has no
 * influence on bits.
 */

export interface BlockShape {
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

/** A shape with its speed. */
export interface TimedShape extends BlockShape {
  /**
   * Microseconds that a processor of an H200 takes for 1000 columns of a tile that it has to itself, and
   * for each further one.
   */
  readonly alone: number;
  readonly further: number;
}

/** Processors of the GPU that is aimed at. */
const PROCESSORS = 132;

export function timedShape(
  [rowsEach, tokensEach]: [BlockShape["rowsEach"], BlockShape["tokensEach"]],
  [rowThreads, tokenThreads]: [number, number],
  rest: Pick<TimedShape, "blocks" | "groups" | "ahead" | "alone" | "further">,
): TimedShape {
  return { rowsEach, tokensEach, rowThreads, tokenThreads, ...rest };
}

/** Those that products of so many matrices can have, whose outputs are so many sums each. */
export function shapesAmong<S extends BlockShape>(
  shapes: readonly S[],
  { matrices, lanes }: { matrices: number; lanes: number },
): S[] {
  return shapes.filter(({ rowsEach, tokensEach, groups }) =>
    groups <= lanes &&
    (matrices === 1 || rowsEach === 8 && rowsEach / 4 * tokensEach % (2 * groups) === 0)
  );
}

/** The one for outputs of so many rows each, that should be done soonest. */
export function bestAmong(
  shapes: readonly TimedShape[],
  { outputs, tokens, matrices, lanes }: {
    outputs: readonly number[];
    tokens: number;
    matrices: number;
    lanes: number;
  },
): TimedShape {
  const time = (shape: TimedShape) => {
    const rows = shapeRows(shape) / matrices;
    const tiles = outputs.reduce((sum, count) => sum + Math.ceil(count / rows), 0) *
      Math.ceil(tokens / shapeTokens(shape));
    return shape.alone + (Math.ceil(tiles / PROCESSORS) - 1) * shape.further;
  };
  const candidates = shapesAmong(shapes, { matrices, lanes });
  return candidates.reduce((best, shape) => time(shape) < time(best) ? shape : best);
}

export function shapeRows({ rowsEach, rowThreads }: BlockShape): number {
  return rowsEach * rowThreads;
}

export function shapeTokens({ tokensEach, tokenThreads }: BlockShape): number {
  return tokensEach * tokenThreads;
}

export function groupThreads({ rowThreads, tokenThreads }: BlockShape): number {
  return rowThreads * tokenThreads;
}

export function shapeThreads(shape: BlockShape): number {
  return groupThreads(shape) * shape.groups;
}

/** Blocks of each row that are in workgroup memory at a time. */
export function slotsOf({ blocks, groups }: BlockShape): number {
  return blocks * groups;
}
