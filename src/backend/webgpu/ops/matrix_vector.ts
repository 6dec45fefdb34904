/**
 * Matrices times a few rows, up to eight at a time, where reading the weights is what takes time. A workgroup has a tile
 * of matrix rows. Each of its threads has one of the sums that share a row's blocks, of one to four of
 * the rows, so that a value of `x` that it loads serves them all; neighbouring threads have neighbouring
 * rows, which read the same values of `x`.
 */

import type { Norm } from "../../backend.ts";
import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { blocksOf, DECODE_COMMON } from "../weights/format.ts";
import { integerMatrices } from "./integer_products.ts";
import { type Integers, stagedBytes, stagedRecords, stageRecords } from "./quantize.ts";
import {
  NORM_BYTES,
  NORM_LANES,
  normBinding,
  normFactors,
  normMemory,
  normParams,
} from "./norm.ts";
import {
  addLanes,
  bindingsOf,
  bySlice,
  decoders,
  finishers,
  groupSlices,
  type Input,
  inputBinding,
  isWhole,
  laneBlocks,
  lanesOf,
  loadEight,
  namedMatrices,
  overBlocks,
  paramsOf,
  type Slice,
} from "./products.ts";

/** Rows of `x` that share a load of weights. */
export const VECTOR_ROWS = 8;
const THREADS = NORM_LANES;
/** Rows of a matrix that neighbouring threads have at most: so many share what they load of `x`. */
const NEIGHBOURS = 8;
/** Records of integers are short, and so neighbouring threads have blocks of few rows. */
const INTEGER_NEIGHBOURS = 2;
/** Bytes of workgroup memory, and sums of each thread for which they are enough. */
const WORKGROUP_BYTES = 16384;
const MOST_SUMS = WORKGROUP_BYTES / 4 / THREADS;
/** Rows of one matrix, or of two, that a thread has at most. */
const MOST_ROWS = 4;
/** Vectors of a block of a normed row there: one more than it has, so that threads use all banks. */
const BLOCK_VECTORS = 9;
/**
 * Workgroups that a large GPU should at least have. Those of one row wait for memory, and many hide that;
 * those of several read more of `x` than of weights, which threads with several matrix rows share.
 */
const ENOUGH_WORKGROUPS = 132;
const ENOUGH_OF_ONE = 512;
/** Above it, a norm in each workgroup takes longer than a dispatch for it. */
const MOST_NORMING = 1056;
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
  const shared = norm === undefined ? 1 : 2;
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
  return rows === 1 && isWhole(input) && stagedBytes(cols, integers) + sums <= WORKGROUP_BYTES;
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
  const { width, rows, cols, heads, integers } = input;
  const tokens = Math.min(VECTOR_ROWS, rows);
  const lanes = lanesOf(cols);
  const size = workgroupRows(cols, rowsEach);
  const slots = size / rowsEach;
  const wanted = shape.neighbours ?? (integers === undefined ? NEIGHBOURS : INTEGER_NEIGHBOURS);
  const neighbours = Math.min(wanted, slots);
  const tokenTiles = Math.ceil(rows / tokens);
  let end = 0;
  const params = slices.map((slice, i) => paramsOf(slice, i, end += Math.ceil(slice.rows / size)));
  const mostMatrices = Math.max(...slices.map(({ matrices }) => matrices.length));
  const sum = (m: number, row: number, t: number) => (m * rowsEach + row) * tokens + t;
  const value = (t: number, unit: string) =>
    norm ? `staged_8(${t}u, ${unit})` : `x_8(base${t}, ${unit})`;

  /** Adds all blocks of the thread's rows of slice i. */
  const addRows = (i: number) => {
    const first = i === 0 ? "tile" : `(tile - params.end${i - 1})`;
    const weights = slices[i].matrices.flatMap((_, m) =>
      Array.from({ length: rowsEach }, (_, row) => ({ name: `w${i}${m}`, m, row }))
    );
    const load = (k: number) =>
      weights.map(({ name, m, row }) =>
        `let b${k}${m}${row} = ${name}_${
          integers === undefined ? "load" : "raw"
        }(row${row} + params.offset${i}${m}, at${k});`
      ).join("\n");
    const addIntegers = (k: number) =>
      `{
${
        weights.map(({ name, m, row }) => `let u${m}${row} = ${name}_ints(b${k}${m}${row});`)
          .join("\n")
      }
${
        unrolled(tokens, (t) =>
          `let v${t} = record_at(base${t} + at${k});
${
            weights.map(({ name, m, row }) => {
              const own = `sum${sum(m, row, t)}`;
              return `${own} = ${name}_add(u${m}${row}, v${t}, ${own});`;
            }).join("\n")
          }`)
      }
}`;
    const addFloats = (k: number) =>
      unrolled(4, (j) =>
        `{
${
          weights.map(({ name, m, row }) =>
            `let u${m}${row} = ${name}_unit(b${k}${m}${row}, ${j}u);`
          )
            .join("\n")
        }
${
          unrolled(tokens, (t) =>
            `let v${t} = ${value(t, `at${k} * 4u + ${j}u`)};
${
              weights.map(({ m, row }) => {
                const name = `sum${sum(m, row, t)}`;
                return `${name} = dot_8(u${m}${row}, v${t}, ${name});`;
              }).join("\n")
            }`)
        }
}`);
    const sums = Array.from({ length: weights.length * tokens }, (_, n) => `sum${n}`);
    return `    let firstRow = ${first} * ${size}u + slot;
${
      unrolled(rowsEach, (row) =>
        `    let row${row} = min(firstRow + ${row * slots}u, params.rows${i} - 1u);`)
    }
${
      norm ? "" : unrolled(tokens, (t) => {
        const head = heads === undefined
          ? ""
          : ` + (params.firstRow${i} + row0) / ${heads.outDim}u * ${heads.stride}u`;
        const step = integers === undefined ? width : blocksOf(cols);
        return `    let base${t} = min(first + ${t}u, params.rows - 1u) * ${step}u${head};`;
      })
    }
${
      overBlocks({
        cols,
        ahead: blocksEach,
        sums,
        load,
        add: integers === undefined ? addFloats : addIntegers,
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
    label: `matrixVector ${weight.type}${integers ? ` q${integers.bits}` : ""} ${
      slices.map(({ rows }) => rows).join("+")
    }x${cols}`,
    bindings: [
      ...slices.flatMap(bindingsOf),
      inputBinding(input),
      ...(norm ? [normBinding(norm, "normWeight")] : []),
    ],
    params: {
      rows,
      tokenTiles,
      ...(norm && normParams(norm)),
      ...Object.assign({}, ...params),
    },
    workgroups: end * tokenTiles,
    code: `${
      integers === undefined
        ? `${DECODE_COMMON}${decoders(slices)}${loadEight(isWhole(input), cols)}`
        : integerMatrices(namedMatrices(slices), integers, input.unrounded ? "records" : "x")
    }${input.unrounded ? stagedRecords(1, cols, integers!) : ""}
${finishers(slices)}
var<workgroup> sums: array<f32, ${mostMatrices * rowsEach * tokens * THREADS}>;
${norm ? stagedMemory(tokens, cols) : ""}
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let first = workgroup % params.tokenTiles * ${tokens}u;
  let tile = workgroup / params.tokenTiles;
  let part = lane / ${neighbours}u % ${lanes}u;
  let slot = lane / ${neighbours * lanes}u * ${neighbours}u + lane % ${neighbours}u;
${norm ? stage(tokens, cols) : ""}
${input.unrounded ? stageRecords({ rows: 1, cols, firstRow: "0u", threads: THREADS }) : ""}
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

/** WGSL of normed rows in workgroup memory, and of `staged_8(t, unit)`, which reads them. */
function stagedMemory(tokens: number, cols: number): string {
  const blocks = blocksOf(cols);
  return `
var<workgroup> staged: array<array<vec4<f32>, ${BLOCK_VECTORS}>, ${tokens * blocks}>;
${normMemory(tokens)}
fn staged_8(t: u32, unit: u32) -> Eight {
  let block = t * ${blocks}u + unit / 4u;
  return Eight(staged[block][unit % 4u * 2u], staged[block][unit % 4u * 2u + 1u]);
}`;
}

/** WGSL statements that norm all rows; there is one tile of them. */
function stage(tokens: number, cols: number): string {
  const vectors = cols / 4;
  return `${normFactors({ rows: tokens, width: cols, load: (t) => `x[${t * vectors}u + i]` })}
  for (var i = lane; i < ${vectors}u; i += ${THREADS}u) {
    let scale = normWeight[i];
${
    unrolled(tokens, (t) =>
      `    staged[${t * blocksOf(cols)}u + i / 8u][i % 8u] =
      x[${t * vectors}u + i] * factor${t} * scale;`)
  }
  }
  workgroupBarrier();`;
}
