/**
 * How a thread of `matrix_vector.ts` multiplies blocks of weights with blocks of `x`: as floats, as integers
 * or as halves. Each way reads both in its own form.
 */

import type { Norm } from "../../backend.ts";
import { type Binding, type Parameter, unrolled } from "../kernel.ts";
import { blocksOf, DECODE_COMMON } from "../weights/format.ts";
import { columnOf, halfBindings, halfMatrices, sumHalves } from "./half_products.ts";
import { integerMatrices } from "./integer_products.ts";
import { NORM_LANES, normBinding, normFactors, normMemory, normParams } from "./norm.ts";
import {
  bindingsOf,
  decoders,
  type Input,
  inputBinding,
  isWhole,
  loadEight,
  namedMatrices,
  type Slice,
} from "./products.ts";
import { type Integers, stagedRecords, stageRecords } from "./quantize.ts";

/** Threads of a workgroup. */
export const VECTOR_THREADS = NORM_LANES;
/** Vectors of a block of a normed row in workgroup memory: one more than it has, so that threads use all banks. */
export const BLOCK_VECTORS = 9;
/** Rows of a matrix that neighbouring threads have at most: so many share what they load of `x`. */
const NEIGHBOURS = 8;
/** Records of integers are short, and so neighbouring threads have blocks of few rows. */
const INTEGER_NEIGHBOURS = 2;

/** A matrix row of a thread. */
export interface ThreadRow {
  /** The matrix in WGSL. */
  readonly name: string;
  /** What is known of the row's block k, in WGSL. */
  block(k: number): string;
  /** The variable to which the row's products with row t of `x` are added. */
  sum(t: number): string;
}

/** One way to multiply. Whatever is a string is WGSL. */
export interface VectorArithmetic {
  /** What a label says of it behind the type of weights. */
  readonly label: string;
  readonly bindings: readonly Binding[];
  readonly params: Readonly<Record<string, Parameter>>;
  /** Functions and memory. */
  readonly code: string;
  /** Whether it has numbers of type f16. */
  readonly halves?: boolean;
  /** Statements before all blocks. */
  readonly start: string;
  /** What a row of `x` is further than the one before; undefined where `add` needs no `baseT`. */
  readonly step?: number;
  /** Rows of a matrix that neighbouring threads have at most. */
  readonly neighbours: number;
  /** The function of a matrix that asks for what is needed of a block. */
  readonly load: string;
  /** Statements that add the products of the rows' blocks `atK` with those of so many rows of `x`. */
  add(k: number, work: { rows: readonly ThreadRow[]; tokens: number }): string;
}

/** The way for an input and its matrices. */
export function arithmeticOf(
  input: Input,
  slices: readonly Slice[],
  { norm, tokens }: { norm?: Norm; tokens: number },
): VectorArithmetic {
  if (input.factors !== undefined) return halves(input, slices);
  return input.integers === undefined
    ? floats(input, slices, { norm, tokens })
    : integers(input, slices, input.integers);
}

function floats(
  input: Input,
  slices: readonly Slice[],
  { norm, tokens }: { norm?: Norm; tokens: number },
): VectorArithmetic {
  const { cols, width } = input;
  const value = (t: number, unit: string) =>
    norm ? `staged_8(${t}u, ${unit})` : `x_8(base${t}, ${unit})`;
  return {
    label: "",
    bindings: [
      ...slices.flatMap(bindingsOf),
      inputBinding(input),
      ...(norm ? [normBinding(norm, "normWeight")] : []),
    ],
    params: norm ? normParams(norm) : {},
    code: `${DECODE_COMMON}${decoders(slices)}${loadEight(isWhole(input), cols)}
${norm ? stagedMemory(tokens, cols) : ""}`,
    start: norm ? stage(tokens, cols) : "",
    step: norm ? undefined : width,
    neighbours: NEIGHBOURS,
    load: "load",
    add: (k, { rows, tokens }) =>
      unrolled(4, (j) =>
        `{
${rows.map(({ name, block }, i) => `let u${i} = ${name}_unit(${block(k)}, ${j}u);`).join("\n")}
${
          unrolled(tokens, (t) =>
            `let v${t} = ${value(t, `at${k} * 4u + ${j}u`)};
${rows.map(({ sum }, i) => `${sum(t)} = dot_8(u${i}, v${t}, ${sum(t)});`).join("\n")}`)
        }
}`),
  };
}

function integers(
  input: Input,
  slices: readonly Slice[],
  integers: Integers,
): VectorArithmetic {
  const { cols, unrounded } = input;
  const source = unrounded ? "records" : "x";
  return {
    label: ` q${integers.bits}`,
    bindings: [...slices.flatMap(bindingsOf), inputBinding(input)],
    params: {},
    code: `${integerMatrices(namedMatrices(slices), integers, source)}${
      unrounded ? stagedRecords(1, cols, integers) : ""
    }`,
    start: unrounded
      ? stageRecords({ rows: 1, cols, firstRow: "0u", threads: VECTOR_THREADS })
      : "",
    step: blocksOf(cols),
    neighbours: INTEGER_NEIGHBOURS,
    load: "raw",
    add: (k, { rows, tokens }) =>
      `{
${rows.map(({ name, block }, i) => `let u${i} = ${name}_ints(${block(k)});`).join("\n")}
${
        unrolled(tokens, (t) =>
          `let v${t} = record_at(base${t} + at${k});
${
            rows.map(({ name, sum }, i) => `${sum(t)} = ${name}_add(u${i}, v${t}, ${sum(t)});`)
              .join("\n")
          }`)
      }
}`,
  };
}

function halves(input: Input, slices: readonly Slice[]): VectorArithmetic {
  const named = namedMatrices(slices);
  const blocks = named.map(({ name }) => `
fn ${name}_block(row: u32, block: u32) -> HalfBlock {
  let unit = block * 4u;
  return HalfBlock(${unrolled(4, (j) => `${name}_halves(row, unit + ${j}u)`, ", ")});
}`);
  return {
    label: " halves",
    bindings: halfBindings(input, slices),
    params: {},
    code: `${halfMatrices(named)}
struct HalfBlock { ${unrolled(4, (j) => `u${j}: Halves`, ", ")} }${blocks.join("")}
fn dot_halves(w: Halves, v: Halves) -> f32 {
${sumHalves("sum", { type: "f16", w: (c) => columnOf("w", c), x: (c) => columnOf("v", c) })}
  return f32(sum);
}`,
    halves: true,
    start: "",
    step: blocksOf(input.cols),
    neighbours: NEIGHBOURS,
    load: "block",
    add: (k, { rows, tokens }) =>
      unrolled(tokens, (t) =>
        `{
let at = base${t} + at${k};
let factor = factors[at];
${
          unrolled(4, (j) =>
            `{
let v = x[at * 4u + ${j}u];
${
              rows.map(({ block, sum }) =>
                `${sum(t)} = fma(dot_halves(${block(k)}.u${j}, v), factor, ${sum(t)});`
              ).join("\n")
            }
}`)
        }
}`),
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
  for (var i = lane; i < ${vectors}u; i += ${VECTOR_THREADS}u) {
    let scale = normWeight[i];
${
    unrolled(tokens, (t) =>
      `    staged[${t * blocksOf(cols)}u + i / 8u][i % 8u] =
      x[${t * vectors}u + i] * factor${t} * scale;`)
  }
  }
  workgroupBarrier();`;
}
