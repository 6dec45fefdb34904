/**
 * How a workgroup shares a tile of products. Its threads are one or several groups; each group computes
 * the whole tile, of some of the sums that an output is made of (`products.ts`), and the sums are
 * then added across groups. So small tiles, of which there are enough for a large GPU, still have
 * many threads. A shape has no influence on bits.
 */

export interface TileShape {
  /** Matrix rows of a thread: as many from either matrix where there are two. */
  readonly rowsEach: 4 | 8;
  /** Rows of `x` of a thread. */
  readonly tokensEach: 4 | 8;
  /** Threads of a group: so many for rows of matrices, times so many for rows of `x`. */
  readonly rowThreads: number;
  readonly tokenThreads: number;
  readonly groups: 1 | 2 | 4 | 8;
  /** Eights of columns that a group brings to workgroup memory at a time. */
  readonly units: 1 | 2;
}

interface Candidate extends TileShape {
  /**
   * Microseconds that a processor of an H200 takes for 1000 columns of a tile that it has to itself, and
   * for each further one, measured with Q8_0 and Q4_K weights of 17920 x 1536 and 1536 x 8960. The two
   * shapes of 128 threads with 8 x 8 sums each are not measured: they have times that leave them to
   * `shapesFor` until they are.
   */
  readonly alone: number;
  readonly further: number;
}

/** The larger the tile, the fewer loads for a product; the smaller, the more processors have one. */
const SHAPES: readonly Candidate[] = [
  shape([8, 8], [16, 16], { groups: 1, units: 2, alone: 132, further: 132 }),
  shape([8, 4], [16, 16], { groups: 1, units: 2, alone: 92, further: 71 }),
  shape([8, 8], [16, 8], { groups: 1, units: 2, alone: 93, further: 72 }),
  shape([8, 8], [8, 8], { groups: 4, units: 1, alone: 51, further: 52 }),
  shape([8, 8], [8, 8], { groups: 2, units: 2, alone: 52, further: 53 }),
  shape([8, 8], [4, 8], { groups: 4, units: 1, alone: 40, further: 29 }),
  shape([8, 4], [8, 8], { groups: 4, units: 1, alone: 39, further: 32 }),
  shape([8, 4], [4, 8], { groups: 8, units: 1, alone: 21, further: 17 }),
  shape([8, 4], [4, 8], { groups: 4, units: 2, alone: 28, further: 15 }),
  shape([8, 4], [8, 4], { groups: 4, units: 1, alone: 33, further: 18 }),
  shape([4, 4], [8, 4], { groups: 4, units: 1, alone: 24, further: 11.3 }),
];

/** Processors of the GPU that is aimed at. */
const PROCESSORS = 132;

function shape(
  [rowsEach, tokensEach]: [4 | 8, 4 | 8],
  [rowThreads, tokenThreads]: [number, number],
  rest: Pick<Candidate, "groups" | "units" | "alone" | "further">,
): Candidate {
  return { rowsEach, tokensEach, rowThreads, tokenThreads, ...rest };
}

/** Every shape that such products can have. */
export function shapesFor({ matrices, lanes }: { matrices: number; lanes: number }): TileShape[] {
  return SHAPES.filter((shape) =>
    shape.groups <= lanes && (matrices === 1 || shape.rowsEach === 8 && ownVectors(shape) % 2 === 0)
  );
}

/** The shape for outputs of so many rows each, that should be done soonest. */
export function bestShape(
  { outputs, tokens, matrices, lanes }: {
    outputs: readonly number[];
    tokens: number;
    matrices: number;
    lanes: number;
  },
): TileShape {
  const time = (shape: Candidate) => {
    const rows = tileRows(shape) / matrices;
    const tiles = outputs.reduce((sum, count) => sum + Math.ceil(count / rows), 0) *
      Math.ceil(tokens / tileTokens(shape));
    return shape.alone + (Math.ceil(tiles / PROCESSORS) - 1) * shape.further;
  };
  const candidates = shapesFor({ matrices, lanes }) as Candidate[];
  return candidates.reduce((best, shape) => time(shape) < time(best) ? shape : best);
}

/** Matrix rows of a tile, of all matrices together. */
export function tileRows({ rowsEach, rowThreads }: TileShape): number {
  return rowsEach * rowThreads;
}

/** Rows of `x` of a tile. */
export function tileTokens({ tokensEach, tokenThreads }: TileShape): number {
  return tokensEach * tokenThreads;
}

export function groupThreads({ rowThreads, tokenThreads }: TileShape): number {
  return rowThreads * tokenThreads;
}

/** Vectors of four of a thread's sums. */
export function sumVectors({ rowsEach, tokensEach }: TileShape): number {
  return rowsEach * tokensEach / 4;
}

/** Those of which a thread adds up what all groups have. */
export function ownVectors(shape: TileShape): number {
  return sumVectors(shape) / shape.groups;
}
