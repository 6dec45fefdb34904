/**
 * Matrices times a few rows, up to eight at a time, where reading the weights is what takes time. A workgroup has a tile
 * of matrix rows. Each of its threads has one of the sums that share a row's blocks, of one to four of
 * the rows, so that a value of `x` that it loads serves them all; neighbouring threads have neighbouring
 * rows, which read the same values of `x`.
 */

import type { Norm } from "../../backend.ts";
import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { blocksOf } from "../weights/format.ts";
import { NORM_BYTES } from "./norm.ts";
import {
  addLanes,
  bySlice,
  finishers,
  groupSlices,
  type Input,
  isWhole,
  laneBlocks,
  lanesOf,
  overBlocks,
  paramsOf,
  type Slice,
} from "./products.ts";
import { type Integers, stagedBytes } from "./quantize.ts";
import { arithmeticOf, BLOCK_VECTORS, VECTOR_THREADS as THREADS } from "./vector_arithmetic.ts";

/** Rows of `x` that share a load of weights. */
export const VECTOR_ROWS = 8;
/** Bytes of workgroup memory, and sums of each thread for which they are enough. */
const WORKGROUP_BYTES = 16384;
const MOST_SUMS = WORKGROUP_BYTES / 4 / THREADS;
/** Rows of one matrix, or of two, that a thread has at most. */
const MOST_ROWS = 4;
/**
 * Workgroups that a large GPU should at least have. Those of one row wait for memory, and many hide that;
 * those of several read more of `x` than of weights, which threads with several matrix rows share.
 */
const ENOUGH_WORKGROUPS = 132;
const ENOUGH_OF_ONE = 512;
/** Above it, a norm in each workgroup takes longer than a dispatch for it. */
const MOST_NORMING = 1056;
/** Columns above which rounding a row in each workgroup takes longer than a dispatch for it. */
const MOST_ROUNDING = 4096;
/** Blocks of weights that a thread asks for at once, and where it has several rows' sums. */
const BLOCKS_AHEAD = 8;
const FEWER_AHEAD = 4;

/** How a kernel shares its work; has no influence on sums. */
export interface VectorShape {
  /** Matrix rows of a thread. */
  readonly rowsEach: 1 | 2 | 4;
  /** Blocks of each of them that it asks for at once. */
  readonly blocksEach: number;
  /** Rows of a matrix that neighbouring threads have at most. */
  readonly neighbours?: number;
}

/** Dispatches for any number of rows; each computes VECTOR_ROWS of them at a time. */
export function matrixVector(
  input: Input,
  slices: readonly Slice[],
  { norm, shape }: { norm?: Norm; shape?: VectorShape } = {},
): Dispatch[] {
  const shared = norm === undefined && input.factors === undefined ? 1 : 2;
  const groups = groupSlices(slices, { ...input, shared });
  return groups.map((group) =>
    dispatchOf(input, group, { norm, ...(shape ?? shapeOf(input, group)) })
  );
}

/**
 * Whether kernels for such products can norm their input themselves, sooner than another dispatch could.
 * Those of several outputs took 8 us longer with it on an H200, those of one output 1 to 3 us.
 */
export function canNorm(input: Input, slices: readonly Slice[]): boolean {
  const tokens = Math.min(VECTOR_ROWS, input.rows);
  const sums = MOST_ROWS * tokens * THREADS * 4;
  const needed = tokens * (blocksOf(input.cols) * BLOCK_VECTORS * 16 + NORM_BYTES) + sums;
  return slices.length === 1 && isWhole(input) && input.rows <= 2 && needed <= WORKGROUP_BYTES &&
    groupSlices(slices, { ...input, shared: 2 }).every((group) =>
      workgroupsOf(input, group, shapeOf(input, group).rowsEach) <= MOST_NORMING
    );
}

/** Whether kernels for such products can round their input themselves, which saves a dispatch. */
export function canRound(input: Input, integers: Integers): boolean {
  const { rows, cols } = input;
  const sums = MOST_ROWS * THREADS * 4;
  return rows === 1 && isWhole(input) && cols <= MOST_ROUNDING &&
    stagedBytes(cols, integers) + sums <= WORKGROUP_BYTES;
}

export function shapeOf(input: Input, slices: readonly Slice[]): VectorShape {
  const tokens = Math.min(VECTOR_ROWS, input.rows);
  const matrices = slices[0].matrices.length;
  const rowsEach = ([4, 2] as const).find((each) =>
    // Rows of several heads read different values.
    input.heads === undefined && each * matrices * tokens <= MOST_SUMS &&
    each * matrices <= MOST_ROWS &&
    workgroupsOf(input, slices, each) >= (tokens === 1 ? ENOUGH_OF_ONE : ENOUGH_WORKGROUPS)
  ) ?? 1;
  const ahead = Math.floor((tokens <= 2 ? BLOCKS_AHEAD : FEWER_AHEAD) / (rowsEach * matrices));
  return { rowsEach, blocksEach: Math.max(1, Math.min(ahead, laneBlocks(input.cols))) };
}

/** Matrix rows of a workgroup. */
function workgroupRows(cols: number, rowsEach: number): number {
  return THREADS / lanesOf(cols) * rowsEach;
}

function workgroupsOf({ cols, rows }: Input, slices: readonly Slice[], rowsEach: number): number {
  const size = workgroupRows(cols, rowsEach);
  const tiles = slices.reduce((sum, { rows }) => sum + Math.ceil(rows / size), 0);
  return tiles * Math.ceil(rows / VECTOR_ROWS);
}

function dispatchOf(
  input: Input,
  slices: readonly Slice[],
  { norm, rowsEach, blocksEach, ...shape }: VectorShape & { norm?: Norm },
): Dispatch {
  const { rows, cols, heads } = input;
  const tokens = Math.min(VECTOR_ROWS, rows);
  const lanes = lanesOf(cols);
  const size = workgroupRows(cols, rowsEach);
  const slots = size / rowsEach;
  const arithmetic = arithmeticOf(input, slices, { norm, tokens });
  const neighbours = Math.min(shape.neighbours ?? arithmetic.neighbours, slots);
  const tokenTiles = Math.ceil(rows / tokens);
  let end = 0;
  const params = slices.map((slice, i) => paramsOf(slice, i, end += Math.ceil(slice.rows / size)));
  const mostMatrices = Math.max(...slices.map(({ matrices }) => matrices.length));

  /** Adds all blocks of the thread's rows of slice i. */
  const addRows = (i: number) => {
    const first = i === 0 ? "tile" : `(tile - params.end${i - 1})`;
    const own = slices[i].matrices.flatMap((_, m) =>
      Array.from({ length: rowsEach }, (_, row) => ({
        name: `w${i}${m}`,
        at: `row${row} + params.offset${i}${m}`,
        block: (k: number) => `b${k}${m}${row}`,
        sum: (t: number) => `sum${(m * rowsEach + row) * tokens + t}`,
      }))
    );
    return `    let firstRow = ${first} * ${size}u + slot;
${
      unrolled(rowsEach, (row) =>
        `    let row${row} = min(firstRow + ${row * slots}u, params.rows${i} - 1u);`)
    }
${
      arithmetic.step === undefined ? "" : unrolled(tokens, (t) => {
        const head = heads === undefined
          ? ""
          : ` + (params.firstRow${i} + row0) / ${heads.outDim}u * ${heads.stride}u`;
        return `    let base${t} = min(first + ${t}u, params.rows - 1u) * ${arithmetic.step}u${head};`;
      })
    }
${
      overBlocks({
        cols,
        ahead: blocksEach,
        sums: Array.from({ length: own.length * tokens }, (_, n) => `sum${n}`),
        load: (k) =>
          own.map(({ name, at, block }) =>
            `let ${block(k)} = ${name}_${arithmetic.load}(${at}, at${k});`
          ).join("\n"),
        add: (k) => arithmetic.add(k, { rows: own, tokens }),
      })
    }`;
  };

  /** Adds the sums that share a row of slice i, and writes the result. */
  const finish = (i: number) => {
    const first = i === 0 ? "tile" : `(tile - params.end${i - 1})`;
    const names = slices[i].matrices.map((_, m) => `total${m}`);
    return `    for (var o = lane; o < ${size * tokens}u; o += ${THREADS}u) {
      let place = o % ${size}u;
      let row = ${first} * ${size}u + place;
      let t = o / ${size}u;
      if (row >= params.rows${i} || first + t >= params.rows) { continue; }
      let start = place % ${slots}u / ${neighbours}u * ${
      neighbours * lanes
    }u + place % ${neighbours}u;
${
      names.map((name, m) => {
        const first = `${m * rowsEach * tokens}u + place / ${slots}u * ${tokens}u + t`;
        return `      var ${name} = 0.0;
${addLanes(cols, name, (l) => `sums[(${first}) * ${THREADS}u + start + ${l} * ${neighbours}u]`)}`;
      }).join("\n")
    }
      finish${i}(first + t, row, ${names.join(", ")});
    }`;
  };

  const { weight } = slices[0].matrices[0];
  return {
    label: `matrixVector ${weight.type}${arithmetic.label} ${
      slices.map(({ rows }) => rows).join("+")
    }x${cols}`,
    bindings: arithmetic.bindings,
    params: { rows, tokenTiles, ...arithmetic.params, ...Object.assign({}, ...params) },
    workgroups: end * tokenTiles,
    halves: arithmetic.halves,
    code: `${arithmetic.code}
${finishers(slices)}
var<workgroup> sums: array<f32, ${mostMatrices * rowsEach * tokens * THREADS}>;
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let first = workgroup % params.tokenTiles * ${tokens}u;
  let tile = workgroup / params.tokenTiles;
  let part = lane / ${neighbours}u % ${lanes}u;
  let slot = lane / ${neighbours * lanes}u * ${neighbours}u + lane % ${neighbours}u;
${arithmetic.start}
${unrolled(mostMatrices * rowsEach * tokens, (i) => `  var sum${i} = 0.0;`)}
  ${bySlice(slices, addRows)}
${
      unrolled(
        mostMatrices * rowsEach * tokens,
        (i) => `  sums[${i * THREADS}u + lane] = sum${i};`,
      )
    }
  workgroupBarrier();
  ${bySlice(slices, finish)}
}`,
  };
}
