/** The fields of products and of attention's backward pass, as the kernels read them. */

/** Rows of numbers, `Rows` of `kernels/src/training/product.rs`. */
export interface Rows {
  readonly at: number;
  /** Numbers from a row to the next. */
  readonly stride: number;
  /** Numbers from one matrix's rows to the next one's. */
  readonly step?: number;
  /** Address of which rows are meant. */
  readonly index?: number;
}

/** All `rows` rows belong to each of the matrices, or to each those between two of `starts`. */
export interface Groups {
  readonly matrices: number;
  readonly rows: number;
  readonly starts?: number;
}

export interface InputGradient {
  readonly groups: Groups;
  readonly out: Rows;
  readonly cols: number;
  readonly accumulate: boolean;
  /** Numbers behind each row of the output that become 0 where it doesn't accumulate. */
  readonly gap?: number;
  readonly terms: readonly {
    readonly gradient: Rows;
    readonly matrix: Rows;
    readonly depth: number;
    readonly scale: number;
  }[];
}

export interface MatrixGradient {
  readonly groups: Groups;
  readonly gradient: Rows;
  /** Address of a factor for each row. */
  readonly factors?: number;
  readonly x: Rows;
  readonly out: Rows;
  readonly rows: number;
  readonly cols: number;
  readonly scale: number;
}

/** Products, input gradients or matrix gradients, that one op can hold; and terms of one of the former. */
export const MAX_PRODUCTS = 4;

type Bits = (value: number) => number;

function rowsWords({ at, stride, step = 0, index = 0 }: Rows): number[] {
  return [at, stride, step, index];
}

function groupsWords({ matrices, rows, starts = 0 }: Groups): number[] {
  return [matrices, rows, starts];
}

/** `bits`: the word of a float32. */
export function productsWords(
  inputs: readonly InputGradient[],
  matrices: readonly MatrixGradient[],
  bits: Bits,
): number[] {
  const longest = Math.max(...[inputs, matrices, ...inputs.map(({ terms }) => terms)]
    .map((list) => list.length));
  if (longest > MAX_PRODUCTS) {
    throw new RangeError(`cannot record products: they are ${longest}, must be ${MAX_PRODUCTS}`);
  }
  return [
    ...[inputs.length, matrices.length],
    ...inputs.flatMap(({ groups, out, cols, accumulate, gap = 0, terms }) => [
      ...[...groupsWords(groups), ...rowsWords(out), cols, accumulate ? 1 : 0, gap, terms.length],
      ...terms.flatMap(({ gradient, matrix, depth, scale }) => [
        ...[...rowsWords(gradient), ...rowsWords(matrix), depth, bits(scale)],
      ]),
    ]),
    ...matrices.flatMap(({ groups, gradient, factors = 0, x, out, rows, cols, scale }) => [
      ...[...groupsWords(groups), ...rowsWords(gradient), factors, ...rowsWords(x)],
      ...[...rowsWords(out), rows, cols, bits(scale)],
    ]),
  ];
}

/** Vectors of heads, `Heads` of `kernels/src/training/attention.rs`. */
export interface Heads {
  readonly at: number;
  /** Numbers from a row to the next, and from a head to the next. */
  readonly row: number;
  readonly head: number;
}

export interface AttentionFields {
  readonly positions: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly scale: number;
  readonly window: number;
  readonly valueDim: number;
  readonly v: Heads;
  readonly vGradient: Heads;
  readonly out: Heads;
  readonly outGradient: Heads;
  readonly parts: readonly {
    readonly dim: number;
    readonly q: Heads;
    readonly k: Heads;
    readonly qGradient: Heads;
    readonly kGradient: Heads;
  }[];
}

export function attentionWords(fields: AttentionFields, bits: Bits): number[] {
  const words = ({ at, row, head }: Heads) => [at, row, head];
  const { positions, heads, kvHeads, scale, window, valueDim, parts } = fields;
  return [
    ...[positions, heads, kvHeads, bits(scale), window, valueDim],
    ...[fields.v, fields.vGradient, fields.out, fields.outGradient].flatMap(words),
    parts.length,
    ...parts.flatMap(({ dim, q, k, qGradient, kGradient }) => [
      dim,
      ...[q, k, qGradient, kGradient].flatMap(words),
    ]),
  ];
}
