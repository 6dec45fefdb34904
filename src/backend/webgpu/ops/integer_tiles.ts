/**
 * Matrices of integers times many rows of integers. A workgroup computes a tile of the output: in turns it
 * brings a few blocks of its rows of the matrices and of its rows of `x` to workgroup memory, word
 * by word, from which each thread reads four rows' or tokens' words at a time. What the next turn needs is on
 * its way meanwhile. Blocks come in the order of `products.ts`.
 */

import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import type { GpuWeight } from "../memory.ts";
import { blocksOf } from "../weights/format.ts";
import { integerMatrices } from "./integer_products.ts";
import {
  bestIntegerShape,
  groupThreads,
  type IntegerShape,
  shapeRows,
  shapeThreads,
  shapeTokens,
  slotsOf,
} from "./integer_shapes.ts";
import {
  bindingsOf,
  blockOrder,
  bySlice,
  bySliceNumber,
  finishers,
  finishFour,
  groupSlices,
  type Input,
  inputBinding,
  laneBlocks,
  lanesOf,
  namedMatrices,
  paramsOf,
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
  const { rows, cols } = input;
  const integers = input.integers!;
  const { bits } = integers;
  const { matrices: { length: matrices, 0: { weight } } } = slices[0];
  const all = namedMatrices(slices).map(({ weight }) => weight);
  const tile: Tile = { shape, matrices, bits, ...formsOf(all), cols };
  const tokens = shapeTokens(shape);
  const size = shapeRows(shape) / matrices;
  const tokenTiles = Math.ceil(rows / tokens);
  let end = 0;
  const params = slices.map((slice, i) => paramsOf(slice, i, end += Math.ceil(slice.rows / size)));
  return {
    label: `integer tiles ${weight.type} q${bits} ${
      slices.map(({ rows }) => rows).join("+")
    }x${cols}`,
    bindings: [...slices.flatMap(bindingsOf), inputBinding(input)],
    params: { rows, tokenTiles, ...Object.assign({}, ...params) },
    workgroups: end * tokenTiles,
    code: `${integerMatrices(namedMatrices(slices), integers)}
${finishers(slices)}${finishFour(slices)}${blockOrder(cols)}
${tileMemory(tile)}
@compute @workgroup_size(${shapeThreads(shape)}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let firstToken = workgroup % params.tokenTiles * ${tokens}u;
  let tile = workgroup / params.tokenTiles;
  if (tile >= params.end${slices.length - 1}) { return; }
  var slice = 0u;
  var firstRow = 0u;
  var endRow = 0u;
  ${
      bySlice(slices, (i) =>
        `    slice = ${i}u;
    firstRow = ${i === 0 ? "tile" : `(tile - params.end${i - 1})`} * ${size}u;
    endRow = params.rows${i};`)
    }
${
      overTiles(tile, {
        declare: (m, name) => `var ${name}: ${slices.length > 1 ? "Ints" : `w0${m}_Raw`};`,
        row: (row) => `min(firstRow + ${row}, endRow - 1u)`,
        load: (m, name, { row, block }) => {
          const raw = (i: number) => `w${i}${m}_raw(${row} + params.offset${i}${m}, ${block})`;
          return slices.length > 1
            ? bySliceNumber(slices, (i) => `${name} = w${i}${m}_ints(${raw(i)});`)
            : `${name} = ${raw(0)};`;
        },
        ints: (m, name) => slices.length > 1 ? name : `w0${m}_ints(${name})`,
        token: (token) => `min(firstToken + ${token}, params.rows - 1u)`,
      })
    }
${
      eachOwn(tile, ({ token, row, values }) =>
        `  finish_4(slice, firstToken + ${token}, firstRow + ${row}, endRow, ${
          values.join(", ")
        });`)
    }
}`,
  };
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
  return blocks + 16 * partialVectors(tile) * shapeThreads(shape);
}

/** WGSL of the tile's workgroup memory. */
export function tileMemory(tile: Tile): string {
  const { shape, bits } = tile;
  const rowVectors = shapeRows(shape) / 4;
  const width = tokenWidth(shape.tokensEach);
  const tokenVectors = shapeTokens(shape) / width;
  const array = (name: string, type: string, ...[vectors, each]: number[]) =>
    `var<workgroup> ${name}: array<array<array<${type}, ${vectors}>, ${each}>, ${slotsOf(shape)}>;`;
  const partials = partialVectors(tile);
  return `
${array("weightTile", "vec4<u32>", rowVectors, WORDS)}
${array("weightScales", "vec4<f32>", rowVectors, scaleCount(tile))}
${array("inputTile", `vec${width}<u32>`, tokenVectors, bits)}
${array("inputFactors", `vec${width}<f32>`, tokenVectors, factorNames(tile).length)}
${
    partials === 0
      ? ""
      : `var<workgroup> partials: array<array<array<vec4<f32>, ${
        groupThreads(shape)
      }>, ${shape.groups}>, ${partials}>;`
  }`;
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

/** Vectors of four rows' sums that a thread adds to. */
function sumVectors({ shape: { rowsEach, tokensEach } }: Tile): number {
  return rowsEach / 4 * tokensEach;
}

/** Those of which it adds up what all groups have. */
function ownVectors(tile: Tile): number {
  return sumVectors(tile) / tile.shape.groups;
}

/** Vectors of each thread that pass through workgroup memory at a time. */
function partialVectors(tile: Tile): number {
  if (tile.shape.groups === 1) return 0;
  let vectors = ownVectors(tile);
  while (vectors > 1 && 16 * vectors * shapeThreads(tile.shape) > PARTIAL_BYTES) vectors /= 2;
  return vectors;
}

/** In which order a tile's blocks come, in WGSL. `slot` numbers the blocks of a turn. */
interface Order {
  readonly turns: number;
  /** The block in a slot of a turn; some block where there is none. */
  block(turn: string, slot: string): string;
  /** Whether block b of the thread's group in `turn` is there; always where empty. */
  isThere(b: number): string;
  /** Whether a sum starts with it, by which the one before is complete. */
  starts(b: number): string | undefined;
  /** Whether the groups' sums are complete after `turn`. */
  readonly complete?: string;
}

function orderOf({ shape: { blocks: each, groups }, cols }: Tile): Order {
  const blocks = blocksOf(cols);
  const last = `${blocks - 1}u`;
  if (groups === 1) {
    // One sum's blocks after the other's, wherever a turn ends.
    const whole = blocks % each === 0;
    const place = (turn: string, slot: string) => `${turn} * ${each}u + ${slot}`;
    return {
      turns: Math.ceil(blocks / each),
      block: (turn, slot) =>
        `block_at(${whole ? place(turn, slot) : `min(${place(turn, slot)}, ${last})`}).x`,
      isThere: (b) => whole ? "" : `${place("turn", `${b}u`)} < ${blocks}u`,
      starts: (b) => `block_at(${place("turn", `${b}u`)}).y == 0u`,
    };
  }
  // In each round a group has the blocks of one sum.
  const lanes = lanesOf(cols);
  const ofRound = Math.ceil(laneBlocks(cols) / each);
  const block = (turn: string, group: string, b: string) =>
    `${turn} / ${ofRound}u * ${groups}u + ${group} + (${turn} % ${ofRound}u * ${each}u + ${b}) * ${lanes}u`;
  return {
    turns: lanes / groups * ofRound,
    block: (turn, slot) =>
      `min(${block(turn, `(${slot}) / ${each}u`, `(${slot}) % ${each}u`)}, ${last})`,
    isThere: (b) => `${block("turn", "group", `${b}u`)} < ${blocks}u`,
    starts: () => undefined,
    complete: `turn % ${ofRound}u == ${ofRound - 1}u`,
  };
}

/** WGSL statements that compute the tile's sums, which `eachOwn` then reads. */
export function overTiles(tile: Tile, source: TileSource): string {
  const { shape } = tile;
  const { turns } = orderOf(tile);
  const ahead = Math.min(shape.ahead, turns);
  return `
  let group = lane / ${groupThreads(shape)}u;
  let thread = lane % ${groupThreads(shape)}u;
  let rowPlace = thread / ${shape.tokenThreads}u;
  let tokenPlace = thread % ${shape.tokenThreads}u;
${unrolled(sumVectors(tile), (i) => `  var sum${i} = vec4<f32>();`)}
${unrolled(ownVectors(tile), (i) => `  var total${i} = vec4<f32>();`)}
${
    unrolled(ahead, (set) =>
      `${declareLoads(tile, { source, set })}\n{\n${
        loads(tile, { source, set, turn: `${set}u` })
      }\n}`)
  }
  for (var first = 0u; first < ${turns}u; first += ${ahead}u) {
${
    unrolled(ahead, (set) =>
      `    ${set === 0 ? "" : `if (first + ${set}u < ${turns}u) `}{
      let turn = first + ${set}u;
      workgroupBarrier();
${stores(tile, { source, set })}
      workgroupBarrier();
      if (turn + ${ahead}u < ${turns}u) {
${loads(tile, { source, set, turn: `(turn + ${ahead}u)` })}
      }
${multiplyTurn(tile)}
    }`)
  }
  }
${shape.groups > 1 ? "" : unrolled(sumVectors(tile), (i) => `  total${i} += sum${i};`)}`;
}

/** One of the sets of variables in which what later turns need is on its way. */
interface LoadSet {
  readonly source: TileSource;
  readonly set: number;
}

/** A thread's loads of one kind: number k brings item `number`, where `guard` lets it. */
function itemsOf(
  tile: Tile,
  rows: number,
): { count: number; number: (k: number) => string; guard: (k: number) => string } {
  const items = rows * slotsOf(tile.shape);
  const threads = shapeThreads(tile.shape);
  return {
    count: Math.ceil(items / threads),
    number: (k) => `(lane + ${k * threads}u)`,
    guard: (k) => (k + 1) * threads > items ? `if (lane + ${k * threads}u < ${items}u) ` : "",
  };
}

const weightItems = (tile: Tile) => itemsOf(tile, shapeRows(tile.shape) / tile.matrices);
const inputItems = (tile: Tile) => itemsOf(tile, shapeTokens(tile.shape));

/** WGSL for each load of weights of a thread. */
function eachWeight(tile: Tile, text: (m: number, k: number) => string): string {
  return unrolled(tile.matrices, (m) => unrolled(weightItems(tile).count, (k) => text(m, k)));
}

function declareLoads(tile: Tile, { source, set }: LoadSet): string {
  return `${eachWeight(tile, (m, k) => `  ${source.declare(m, `w${m}_${k}_${set}`)}`)}
${unrolled(inputItems(tile).count, (k) => `  var r${k}_${set}: Record;`)}`;
}

function loads(tile: Tile, { source, set, turn }: LoadSet & { turn: string }): string {
  const slots = slotsOf(tile.shape);
  const order = orderOf(tile);
  const [weights, inputs] = [weightItems(tile), inputItems(tile)];
  return `${
    eachWeight(tile, (m, k) => {
      const row = source.row(`${weights.number(k)} / ${slots}u`);
      const block = order.block(turn, `${weights.number(k)} % ${slots}u`);
      return `${weights.guard(k)}{ ${source.load(m, `w${m}_${k}_${set}`, { row, block })} }`;
    })
  }
${
    unrolled(inputs.count, (k) => {
      const token = source.token(`${inputs.number(k)} / ${slots}u`);
      const block = order.block(turn, `${inputs.number(k)} % ${slots}u`);
      return `${inputs.guard(k)}{ r${k}_${set} = record_at(${token} * ${
        blocksOf(tile.cols)
      }u + ${block}); }`;
    })
  }`;
}

function stores(tile: Tile, { source, set }: LoadSet): string {
  const slots = slotsOf(tile.shape);
  const size = shapeRows(tile.shape) / tile.matrices;
  const [weights, inputs] = [weightItems(tile), inputItems(tile)];
  return `${
    eachWeight(tile, (m, k) =>
      `      ${weights.guard(k)}{
        let row = ${weights.number(k)} / ${slots}u + ${m * size}u;
        let slot = ${weights.number(k)} % ${slots}u;
        let w = ${source.ints(m, `w${m}_${k}_${set}`)};
${storeWeights(tile)}
      }`)
  }
${
    unrolled(inputs.count, (k) =>
      `      ${inputs.guard(k)}{
        let token = ${inputs.number(k)} / ${slots}u;
        let slot = ${inputs.number(k)} % ${slots}u;
${storeRecord(tile, `r${k}_${set}`)}
      }`)
  }`;
}

/** WGSL statements that multiply what workgroup memory has of `turn`. */
function multiplyTurn(tile: Tile): string {
  const { shape } = tile;
  const order = orderOf(tile);
  return `${
    unrolled(shape.blocks, (b) => {
      const there = order.isThere(b);
      const starts = order.starts(b);
      return `      ${there === "" ? "" : `if (${there}) `}{
${
        starts === undefined
          ? ""
          : `      // Where a sum starts, the one before is added to those before it.
      if (${starts}) {
${
            unrolled(
              sumVectors(tile),
              (i) => `        total${i} += sum${i};\n        sum${i} = vec4<f32>();`,
            )
          }
      }`
      }
${multiplyBlock(tile, shape.groups === 1 ? `${b}` : `group * ${shape.blocks}u + ${b}u`)}
      }`;
    })
  }
${
    order.complete === undefined
      ? ""
      : `      if (${order.complete}) {\n${addGroups(tile)}\n      }`
  }`;
}

/**
 * WGSL statements that add the groups' sums, in their order, to the totals of those threads whose they
 * are: group g has the g-th part of the vectors.
 */
function addGroups(tile: Tile): string {
  const { groups } = tile.shape;
  const own = ownVectors(tile);
  const step = partialVectors(tile);
  return `${
    unrolled(sumVectors(tile) / step, (pass) => {
      const first = pass * step;
      return `      workgroupBarrier();
${unrolled(step, (c) => `      partials[${c}][group][thread] = sum${first + c};`)}
      workgroupBarrier();
      if (group == ${Math.floor(first / own)}u) {
        for (var g = 0u; g < ${groups}u; g++) {
${unrolled(step, (c) => `          total${(first + c) % own} += partials[${c}][g][thread];`)}
        }
      }`;
    })
  }
${unrolled(sumVectors(tile), (i) => `      sum${i} = vec4<f32>();`)}`;
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
export function eachOwn(
  tile: Tile,
  text: (own: { token: string; row: string; values: string[] }) => string,
): string {
  const { shape: { rowsEach, rowThreads, tokensEach, tokenThreads, groups }, matrices } = tile;
  const high = rowsEach / 4;
  const width = tokenWidth(tokensEach);
  const own = ownVectors(tile);
  return unrolled(own / matrices, (k) => {
    // Two matrices' vectors of one token follow each other.
    const vector = groups === 1 ? `${k * matrices}u` : `(group * ${own}u + ${k * matrices}u)`;
    const n = `(${vector} / ${high}u)`;
    return text({
      token: `(tokenPlace + ${n} / ${width}u * ${tokenThreads}u) * ${width}u + ${n} % ${width}u`,
      row: `(rowPlace${matrices === 2 ? "" : ` + ${vector} % ${high}u * ${rowThreads}u`}) * 4u`,
      values: Array.from({ length: matrices }, (_, m) => `total${k * matrices + m}`),
    });
  });
}
