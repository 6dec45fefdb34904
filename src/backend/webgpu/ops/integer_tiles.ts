/**
 * Matrices of integers times many rows of integers. A workgroup computes a tile of the output: in turns it
 * brings a few blocks of its rows of the matrices and of its rows of `x` to workgroup memory, word
 * by word, from which each thread reads four rows' or tokens' words at a time. What the next turn needs is on
 * its way meanwhile. Blocks come in the order of `products.ts`.
 */

import { type Dispatch, unrolled } from "../kernel.ts";
import type { GpuWeight } from "../memory.ts";
import { blocksOf } from "../weights/format.ts";
import { shapeRows, shapeTokens, slotsOf } from "./block_shapes.ts";
import {
  type BlockLoop,
  type BlockOperand,
  type BlockTile,
  eachOwn as eachOwnOfBlocks,
  overTiles as overBlockTiles,
  partialBytes,
  partialMemory,
} from "./block_tiles.ts";
import { integerMatrices } from "./integer_products.ts";
import { bestIntegerShape, type IntegerShape } from "./integer_shapes.ts";
import { inputRow, productTiles, sliceRow } from "./product_tiles.ts";
import {
  bindingsOf,
  bySliceNumber,
  groupSlices,
  type Input,
  inputBinding,
  lanesOf,
  namedMatrices,
  type Slice,
} from "./products.ts";
import type { IntegerBits } from "./quantize.ts";

/** Words of a block. */
const WORDS = 8;
/** Workgroup memory for sums that groups of threads add up, at most. */
const PARTIAL_BYTES = 8192;

/** Dispatches for any number of rows of records. */
export function integerMatrixMatrix(
  input: Input,
  slices: readonly Slice[],
  { shape }: { shape?: IntegerShape } = {},
): Dispatch[] {
  return groupSlices(slices, { ...input, shared: 1 }).map((group) =>
    dispatchOf(
      input,
      group,
      shape ?? bestIntegerShape({
        outputs: group.map(({ rows }) => rows),
        tokens: input.rows,
        matrices: group[0].matrices.length,
        lanes: lanesOf(input.cols),
      }),
    )
  );
}

function dispatchOf(input: Input, slices: readonly Slice[], shape: IntegerShape): Dispatch {
  const { cols } = input;
  const integers = input.integers!;
  const { bits } = integers;
  const { matrices: { length: matrices, 0: { weight } } } = slices[0];
  const all = namedMatrices(slices).map(({ weight }) => weight);
  const tile: Tile = { shape, matrices, bits, ...formsOf(all), cols };
  const source: TileSource = {
    declare: (m, name) => `var ${name}: ${slices.length > 1 ? "Ints" : `w0${m}_Raw`};`,
    row: sliceRow,
    load: (m, name, { row, block }) => {
      const raw = (i: number) => `w${i}${m}_raw(${row} + params.offset${i}${m}, ${block})`;
      return slices.length > 1
        ? bySliceNumber(slices, (i) => `${name} = w${i}${m}_ints(${raw(i)});`)
        : `${name} = ${raw(0)};`;
    },
    ints: (m, name) => slices.length > 1 ? name : `w0${m}_ints(${name})`,
    token: inputRow,
  };
  return productTiles({ input, slices, tile: blockTile(tile) }, {
    name: `integer tiles ${weight.type} q${bits}`,
    bindings: [...slices.flatMap(bindingsOf), inputBinding(input)],
    code: `${integerMatrices(namedMatrices(slices), integers)}${tileMemory(tile)}`,
    loop: loopOf(tile, source),
  });
}

/** What a tile's kernel is made for. */
export interface Tile {
  readonly shape: IntegerShape;
  /** 2 where rows of two matrices are multiplied with each other in the end. */
  readonly matrices: number;
  readonly bits: IntegerBits;
  /** Whether any of the formats has them. */
  readonly halves: boolean;
  readonly offsets: boolean;
  readonly cols: number;
}

/** How a tile gets at its operands, in WGSL. */
export interface TileSource {
  /** Declares a variable that holds a block of matrix m. */
  declare(m: number, name: string): string;
  /** The row of a matrix that row `row` of the tile is. */
  row(row: string): string;
  /** Sets that variable. */
  load(m: number, name: string, at: { row: string; block: string }): string;
  /** It as `Ints`. */
  ints(m: number, name: string): string;
  /** The row of records that token `token` of the tile is. */
  token(token: string): string;
}

/** What blocks of any of these matrices have. */
export function formsOf(matrices: readonly GpuWeight[]): { halves: boolean; offsets: boolean } {
  const forms = matrices.map(({ format }) => format.integers!);
  return {
    halves: forms.some(({ halves }) => halves),
    offsets: forms.some(({ offsets }) => offsets),
  };
}

/** Bytes of workgroup memory that a tile takes. */
export function tileBytes(tile: Tile): number {
  const { shape, bits } = tile;
  const weight = 4 * WORDS + 4 * scaleCount(tile);
  const token = 4 * bits + 4 * factorNames(tile).length;
  const blocks = slotsOf(shape) * (shapeRows(shape) * weight + shapeTokens(shape) * token);
  return blocks + partialBytes(blockTile(tile));
}

/** WGSL of the tile's workgroup memory. */
export function tileMemory(tile: Tile): string {
  const { shape, bits } = tile;
  const rowVectors = shapeRows(shape) / 4;
  const width = tokenWidth(shape.tokensEach);
  const tokenVectors = shapeTokens(shape) / width;
  const array = (name: string, type: string, ...[vectors, each]: number[]) =>
    `var<workgroup> ${name}: array<array<array<${type}, ${vectors}>, ${each}>, ${slotsOf(shape)}>;`;
  return `
${array("weightTile", "vec4<u32>", rowVectors, WORDS)}
${array("weightScales", "vec4<f32>", rowVectors, scaleCount(tile))}
${array("inputTile", `vec${width}<u32>`, tokenVectors, bits)}
${array("inputFactors", `vec${width}<f32>`, tokenVectors, factorNames(tile).length)}
${partialMemory(blockTile(tile))}`;
}

/** The tile as the loop over its blocks sees it. */
function blockTile({ shape, matrices, cols }: Tile): BlockTile {
  const width = tokenWidth(shape.tokensEach);
  return { shape, matrices, cols, tokenWidth: width, partialBytes: PARTIAL_BYTES };
}

/** Numbers that a block of weights has besides its words: scales, then offsets. */
function scaleCount({ halves, offsets }: Tile): number {
  return (halves ? 2 : 1) * (offsets ? 2 : 1);
}

/** The members of a record's factors that are needed. */
function factorNames({ halves, offsets }: Tile): string[] {
  if (!offsets) return ["x"];
  return halves ? ["x", "y", "z"] : ["x", "w"];
}

/** Tokens of a vector in workgroup memory. */
function tokenWidth(tokensEach: number): 2 | 4 {
  return tokensEach === 2 ? 2 : 4;
}

/** WGSL statements that compute the tile's sums, which `eachOwn` then reads. */
export function overTiles(tile: Tile, source: TileSource): string {
  return overBlockTiles(blockTile(tile), loopOf(tile, source));
}

function loopOf(tile: Tile, source: TileSource): BlockLoop {
  return {
    operands: [
      ...Array.from({ length: tile.matrices }, (_, m) => weightOperand(tile, { source, m })),
      inputOperand(tile, source),
    ],
    multiply: (slot) => multiplyBlock(tile, slot),
  };
}

/** Blocks of a matrix's rows, one an item. */
function weightOperand(
  tile: Tile,
  { source, m }: { source: TileSource; m: number },
): BlockOperand {
  const slots = slotsOf(tile.shape);
  const size = shapeRows(tile.shape) / tile.matrices;
  return {
    name: `w${m}`,
    items: size * slots,
    declare: (name) => source.declare(m, name),
    load(name, { item, block }) {
      const row = source.row(`${item} / ${slots}u`);
      return source.load(m, name, { row, block: block(`${item} % ${slots}u`) });
    },
    store: (name, item) =>
      `        let row = ${item} / ${slots}u + ${m * size}u;
        let slot = ${item} % ${slots}u;
        let w = ${source.ints(m, name)};
${storeWeights(tile)}`,
  };
}

/** Records, one an item. */
function inputOperand(tile: Tile, source: TileSource): BlockOperand {
  const slots = slotsOf(tile.shape);
  return {
    name: "r",
    items: shapeTokens(tile.shape) * slots,
    declare: (name) => `var ${name}: Record;`,
    load(name, { item, block }) {
      const token = source.token(`${item} / ${slots}u`);
      const at = `${token} * ${blocksOf(tile.cols)}u + ${block(`${item} % ${slots}u`)}`;
      return `${name} = record_at(${at});`;
    },
    store: (name, item) =>
      `        let token = ${item} / ${slots}u;
        let slot = ${item} % ${slots}u;
${storeRecord(tile, name)}`,
  };
}

/** WGSL statements that bring `w: Ints` of row `row` to slot `slot` of workgroup memory. */
function storeWeights({ halves, offsets }: Tile): string {
  const scales = [
    "w.scale.x",
    ...(halves ? ["w.scale.y"] : []),
    ...(offsets ? ["w.offset.x", ...(halves ? ["w.offset.y"] : [])] : []),
  ];
  const at = "[row / 4u][row % 4u]";
  return `${
    unrolled(WORDS, (j) =>
      `        weightTile[slot][${j}]${at} = w.${j < 4 ? "a" : "b"}.${"xyzw"[j % 4]};`)
  }
${scales.map((value, i) => `        weightScales[slot][${i}]${at} = ${value};`).join("\n")}`;
}

/** WGSL statements that bring a record of token `token` there, low words behind high ones. */
function storeRecord(tile: Tile, name: string): string {
  const width = tokenWidth(tile.shape.tokensEach);
  const at = `[token / ${width}u][token % ${width}u]`;
  return `${
    unrolled(tile.bits, (j) =>
      `        inputTile[slot][${j}]${at} = ${name}.v${Math.floor(j / 4)}.${"xyzw"[j % 4]};`)
  }
${
    factorNames(tile).map((factor, i) =>
      `        inputFactors[slot][${i}]${at} = ${name}.factors.${factor};`
    ).join("\n")
  }`;
}

/** WGSL statements that add the products of the block in a slot to the thread's sums. */
function multiplyBlock(tile: Tile, slot: string): string {
  const { shape: { rowsEach, rowThreads, tokensEach, tokenThreads }, bits, halves, offsets } = tile;
  const high = rowsEach / 4;
  const width = tokenWidth(tokensEach);
  const wide = tokensEach / width;
  const rowVector = (h: number) => `rowPlace + ${h * rowThreads}u`;
  const tokenVector = (v: number) => `tokenPlace + ${v * tokenThreads}u`;
  const parts = halves ? [[0, 4], [4, 8]] : [[0, 8]];
  const names = factorNames(tile);
  const factor = (n: number, name: string) =>
    `f${names.indexOf(name)}_${Math.floor(n / width)}.${"xyzw"[n % width]}`;
  const planes = bits / 8;
  return `${
    unrolled(wide, (v) =>
      names.map((_, i) =>
        `      let f${i}_${v} = inputFactors[${slot}][${i}][${tokenVector(v)}];`
      ).join("\n"))
  }
${
    parts.map(([from, to], half) =>
      `      {
${
        unrolled(planes, (p) =>
          unrolled(high * tokensEach, (i) => `        var n${p}_${i} = vec4<i32>();`))
      }
${
        Array.from({ length: to - from }, (_, k) =>
          from + k).map((j) =>
            `        {
${unrolled(high, (h) => `          let a${h} = weightTile[${slot}][${j}][${rowVector(h)}];`)}
${
              unrolled(planes, (p) =>
                unrolled(wide, (v) =>
                  `          let b${p}_${v} = inputTile[${slot}][${p * WORDS + j}][${
                    tokenVector(v)
                  }];`))
            }
${
              unrolled(planes, (p) =>
                unrolled(tokensEach, (n) => {
                  const x = `b${p}_${Math.floor(n / width)}.${"xyzw"[n % width]}`;
                  return unrolled(high, (h) =>
                    `          n${p}_${n * high + h} += vec4<i32>(${
                      "xyzw".split("").map((c) => `dot_4(a${h}.${c}, ${x})`).join(", ")
                    });`);
                }))
            }
        }`
          ).join("\n")
      }
${
        unrolled(
          high,
          (h) =>
            `        let scale${h} = weightScales[${slot}][${half}][${rowVector(h)}];`,
        )
      }
${
        unrolled(tokensEach, (n) =>
          unrolled(high, (h) => {
            const i = n * high + h;
            const products = planes === 1 ? `n0_${i}` : `256 * n0_${i} + n1_${i}`;
            return `        sum${i} = fma(vec4<f32>(${products}), scale${h} * ${
              factor(n, "x")
            }, sum${i});`;
          }))
      }
      }`
    ).join("\n")
  }
${
    !offsets ? "" : parts.map((_, half) =>
      `      {
${
        unrolled(high, (h) =>
          `        let offset${h} = weightScales[${slot}][${parts.length + half}][${
            rowVector(h)
          }];`)
      }
${
        unrolled(tokensEach, (n) =>
          unrolled(high, (h) => {
            const i = n * high + h;
            const sums = factor(n, halves ? "yz"[half] : "w");
            return `        sum${i} = fma(offset${h}, vec4<f32>(${sums}), sum${i});`;
          }))
      }
      }`
    ).join("\n")
  }`;
}

/** WGSL statements for each vector of four rows' results: of one matrix, or of either of two. */
export function eachOwn(tile: Tile, text: Parameters<typeof eachOwnOfBlocks>[1]): string {
  return eachOwnOfBlocks(blockTile(tile), text);
}
