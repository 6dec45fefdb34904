/**
 * Matrices of halves times many rows of halves. A workgroup computes a tile of the output: in turns it
 * brings a block of its rows of the matrices and of its rows of `x` to workgroup memory, from which each
 * thread reads vectors of one column of four matrix rows, and eight columns of a row of `x`. So one
 * instruction multiplies two rows' halves, where a GPU has such. Blocks come in the order of `products.ts`,
 * and sums are those of `half_products.ts`.
 */

import { type Dispatch, unrolled } from "../kernel.ts";
import { blocksOf } from "../weights/format.ts";
import { shapeRows, shapeTokens, slotsOf } from "./block_shapes.ts";
import { type BlockOperand, type BlockTile, partialBytes, partialMemory } from "./block_tiles.ts";
import {
  columnOf,
  HALF_COLUMNS,
  HALF_INPUTS,
  halfBindings,
  halfMatrices,
  sumHalves,
} from "./half_products.ts";
import { bestHalfShape, type HalfShape } from "./half_shapes.ts";
import { inputRow, productTiles, sliceRow } from "./product_tiles.ts";
import {
  bySliceNumber,
  groupSlices,
  type Input,
  lanesOf,
  namedMatrices,
  type Slice,
} from "./products.ts";

/** Eights of columns of a block. */
const UNITS = 4;
/** Workgroup memory for sums that groups of threads add up, at most. */
const PARTIAL_BYTES = 2048;

/** Dispatches for any number of rows of halves. */
export function halfMatrixMatrix(
  input: Input,
  slices: readonly Slice[],
  { shape }: { shape?: HalfShape } = {},
): Dispatch[] {
  return groupSlices(slices, { ...input, shared: HALF_INPUTS }).map((group) =>
    dispatchOf(
      input,
      group,
      shape ?? bestHalfShape({
        outputs: group.map(({ rows }) => rows),
        tokens: input.rows,
        matrices: group[0].matrices.length,
        lanes: lanesOf(input.cols),
      }),
    )
  );
}

function dispatchOf(input: Input, slices: readonly Slice[], shape: HalfShape): Dispatch {
  const { matrices: { length: matrices, 0: { weight } } } = slices[0];
  const tile = halfTile({ shape, matrices, cols: input.cols });
  return productTiles({ input, slices, tile }, {
    name: `half tiles ${weight.type}`,
    bindings: halfBindings(input, slices),
    halves: true,
    code: `${halfMatrices(namedMatrices(slices))}
struct FourRows { r0: Halves, r1: Halves, r2: Halves, r3: Halves }
${tileMemory(tile)}`,
    loop: {
      operands: [
        ...Array.from({ length: matrices }, (_, m) => weightOperand(tile, { slices, m })),
        inputOperand(tile),
        factorOperand(tile),
      ],
      multiply: (slot) => multiplyBlock(tile, slot),
    },
  });
}

function halfTile(of: Pick<BlockTile, "shape" | "matrices" | "cols">): BlockTile {
  return { ...of, tokenWidth: 1, partialBytes: PARTIAL_BYTES };
}

/** Bytes of workgroup memory that a tile of some shape takes. */
export function halfTileBytes(of: Pick<BlockTile, "shape" | "matrices" | "cols">): number {
  const { shape } = of;
  const [row, token] = [UNITS * HALF_COLUMNS * 2, UNITS * HALF_COLUMNS * 2 + 4];
  const block = shapeRows(shape) * row + shapeTokens(shape) * token;
  return slotsOf(shape) * block + partialBytes(halfTile(of));
}

/** WGSL of the tile's workgroup memory: columns of four matrix rows, and units of tokens. */
function tileMemory(tile: BlockTile): string {
  const { shape } = tile;
  const { tokensEach, tokenThreads } = shape;
  const units = (inner: string) => `array<array<${inner}, ${UNITS}>, ${slotsOf(shape)}>`;
  const columns = `array<array<vec4<f16>, ${shapeRows(shape) / 4}>, ${HALF_COLUMNS}>`;
  const tokens = (type: string) => `array<array<${type}, ${tokenThreads}>, ${tokensEach}>`;
  return `var<workgroup> weightTile: ${units(columns)};
var<workgroup> inputTile: ${units(tokens("Halves"))};
var<workgroup> inputFactors: array<${tokens("f32")}, ${slotsOf(shape)}>;
${partialMemory(tile)}`;
}

/** WGSL of where a vector of four rows lies among those of a column, so that neighbouring threads use all banks. */
function rowVector(vector: string, unit: string, { shape }: BlockTile): string {
  return `(${vector}) ^ ((${unit} * 4u) & ${shapeRows(shape) / 4 - 1}u)`;
}

/** The same of a token's place among those of neighbouring threads. */
function tokenVector(place: string, unit: string): string {
  return `(${place}) ^ (${unit} * 2u)`;
}

/** Rows of a matrix; an item is a unit of four of them. */
function weightOperand(
  tile: BlockTile,
  { slices, m }: { slices: readonly Slice[]; m: number },
): BlockOperand {
  const { shape, matrices } = tile;
  const slots = slotsOf(shape);
  const vectors = shapeRows(shape) / 4 / matrices;
  const vector = (item: string) => `${item} / ${UNITS * slots}u`;
  return {
    name: `w${m}`,
    items: vectors * slots * UNITS,
    declare: (name) => `var ${name}: FourRows;`,
    load(name, { item, block }) {
      const rows = unrolled(
        4,
        (j) => `let row${j} = ${sliceRow(`${vector(item)} * 4u + ${j}u`)};`,
      );
      const read = (i: number) =>
        unrolled(4, (j) => `w${i}${m}_halves(row${j} + params.offset${i}${m}, unit)`, ", ");
      return `${rows}
let unit = ${block(`${item} / ${UNITS}u % ${slots}u`)} * ${UNITS}u + ${item} % ${UNITS}u;
${bySliceNumber(slices, (i) => `${name} = FourRows(${read(i)});`)}`;
    },
    store: (name, item) =>
      `        let slot = ${item} / ${UNITS}u % ${slots}u;
        let unit = ${item} % ${UNITS}u;
        let vector = ${rowVector(`${vector(item)} + ${m * vectors}u`, "unit", tile)};
${
        unrolled(HALF_COLUMNS, (c) => {
          const rows = unrolled(4, (j) => columnOf(`${name}.r${j}`, c), ", ");
          return `        weightTile[slot][unit][${c}][vector] = vec4<f16>(${rows});`;
        })
      }`,
  };
}

/** Rows of `x`; an item is a unit of one. */
function inputOperand({ shape, cols }: BlockTile): BlockOperand {
  const slots = slotsOf(shape);
  const token = (item: string) => `${item} / ${UNITS * slots}u`;
  const threads = shape.tokenThreads;
  return {
    name: "v",
    items: shapeTokens(shape) * slots * UNITS,
    declare: (name) => `var ${name}: Halves;`,
    load(name, { item, block }) {
      const of = `${inputRow(token(item))} * ${blocksOf(cols)}u`;
      const at = `(${of} + ${block(`${item} / ${UNITS}u % ${slots}u`)}) * ${UNITS}u`;
      return `${name} = x[${at} + ${item} % ${UNITS}u];`;
    },
    store: (name, item) =>
      `        let token = ${token(item)};
        let slot = ${item} / ${UNITS}u % ${slots}u;
        let unit = ${item} % ${UNITS}u;
        let place = ${tokenVector(`token % ${threads}u`, "unit")};
        inputTile[slot][unit][token / ${threads}u][place] = ${name};`,
  };
}

/** Factors of the blocks of `x`. */
function factorOperand({ shape, cols }: BlockTile): BlockOperand {
  const slots = slotsOf(shape);
  const threads = shape.tokenThreads;
  return {
    name: "f",
    items: shapeTokens(shape) * slots,
    declare: (name) => `var ${name}: f32;`,
    load: (name, { item, block }) =>
      `${name} = factors[${inputRow(`${item} / ${slots}u`)} * ${blocksOf(cols)}u + ${
        block(`${item} % ${slots}u`)
      }];`,
    store: (name, item) =>
      `        let token = ${item} / ${slots}u;
        inputFactors[${item} % ${slots}u][token / ${threads}u][token % ${threads}u] = ${name};`,
  };
}

/** WGSL statements that add the products of the block in a slot to the thread's sums. */
function multiplyBlock(tile: BlockTile, slot: string): string {
  const { rowsEach, rowThreads, tokensEach } = tile.shape;
  const high = rowsEach / 4;
  return `      let slot = ${slot};
${unrolled(tokensEach, (n) => `      let f${n} = inputFactors[slot][${n}][tokenPlace];`)}
      for (var unit = 0u; unit < ${UNITS}u; unit++) {
        let place = ${tokenVector("tokenPlace", "unit")};
${
    unrolled(high, (h) =>
      `        let row${h} = ${rowVector(`rowPlace + ${h * rowThreads}u`, "unit", tile)};
${
        unrolled(HALF_COLUMNS, (c) =>
          `        let a${h}_${c} = weightTile[slot][unit][${c}][row${h}];`)
      }`)
  }
${
    unrolled(tokensEach, (n) =>
      `        {
          let b = inputTile[slot][unit][${n}][place];
${
        unrolled(high, (h) =>
          sumHalves(`h${h}`, {
            type: "vec4<f16>",
            w: (c) => `a${h}_${c}`,
            x: (c) => `vec4<f16>(${columnOf("b", c)})`,
          }))
      }
${
        unrolled(high, (h) => {
          const sum = `sum${n * high + h}`;
          return `          ${sum} = fma(vec4<f32>(h${h}), vec4<f32>(f${n}), ${sum});`;
        })
      }
        }`)
  }
      }`;
}
