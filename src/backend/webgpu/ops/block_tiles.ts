/**
 * The loop of kernels that compute a tile of products in turns: each brings a few blocks of every operand
 * to workgroup memory, and then each thread adds their products to its sums. What the next turn needs is on
 * its way meanwhile. Blocks come in the order of `products.ts`. What an operand is made of, and how it is
 * multiplied, is the business of those who use it.
 */

import { unrolled } from "../kernel.ts";
import { blocksOf } from "../weights/format.ts";
import { type BlockShape, groupThreads, shapeThreads } from "./block_shapes.ts";
import { laneBlocks, lanesOf } from "./products.ts";

/** What the loop must know of a tile. */
export interface BlockTile {
  readonly shape: BlockShape;
  /** 2 where rows of two matrices are multiplied with each other in the end. */
  readonly matrices: number;
  readonly cols: number;
  /** Neighbouring tokens that a thread has, for each of its places among tokens. */
  readonly tokenWidth: 1 | 2 | 4;
  /** Workgroup memory for sums that groups of threads add up, at most. */
  readonly partialBytes: number;
}

/** What turns bring to workgroup memory, in items of which a thread brings one at a time. All is WGSL. */
export interface BlockOperand {
  /** What its variables are called. */
  readonly name: string;
  /** Items of a turn. */
  readonly items: number;
  /** Declares a variable that holds an item. */
  declare(name: string): string;
  /** Sets that variable; `block(slot)` is the block in a slot of the turn. */
  load(name: string, at: { item: string; block: (slot: string) => string }): string;
  /** Statements that bring it to workgroup memory. */
  store(name: string, item: string): string;
}

/** Vectors of four rows' sums that a thread adds to. */
export function sumVectors({ shape: { rowsEach, tokensEach } }: Pick<BlockTile, "shape">): number {
  return rowsEach / 4 * tokensEach;
}

/** Those of which it adds up what all groups have. */
function ownVectors({ shape }: BlockTile): number {
  return sumVectors({ shape }) / shape.groups;
}

/** Vectors of each thread that pass through workgroup memory at a time. */
function partialVectors(tile: BlockTile): number {
  if (tile.shape.groups === 1) return 0;
  let vectors = ownVectors(tile);
  while (vectors > 1 && 16 * vectors * shapeThreads(tile.shape) > tile.partialBytes) vectors /= 2;
  return vectors;
}

/** Bytes of workgroup memory that the loop itself takes. */
export function partialBytes(tile: BlockTile): number {
  return 16 * partialVectors(tile) * shapeThreads(tile.shape);
}

/** WGSL of that memory. */
export function partialMemory(tile: BlockTile): string {
  const partials = partialVectors(tile);
  const { shape } = tile;
  return partials === 0
    ? ""
    : `var<workgroup> partials: array<array<array<vec4<f32>, ${
      groupThreads(shape)
    }>, ${shape.groups}>, ${partials}>;`;
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

function orderOf({ shape: { blocks: each, groups }, cols }: BlockTile): Order {
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

/** What a tile is multiplied from, and how. */
export interface BlockLoop {
  readonly operands: readonly BlockOperand[];
  /** WGSL statements that add the products of the block in a slot to the thread's `sumI`. */
  multiply(slot: string): string;
}

/**
 * WGSL statements that compute the tile's sums, which `eachOwn` then reads. They use `block_at` and `lane`;
 * a thread's places are `rowPlace` and `tokenPlace`.
 */
export function overTiles(tile: BlockTile, loop: BlockLoop): string {
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
      `${declareLoads(tile, { loop, set })}\n{\n${loads(tile, { loop, set, turn: `${set}u` })}\n}`)
  }
  for (var first = 0u; first < ${turns}u; first += ${ahead}u) {
${
    unrolled(ahead, (set) =>
      `    ${set === 0 ? "" : `if (first + ${set}u < ${turns}u) `}{
      let turn = first + ${set}u;
      workgroupBarrier();
${stores(tile, { loop, set })}
      workgroupBarrier();
      if (turn + ${ahead}u < ${turns}u) {
${loads(tile, { loop, set, turn: `(turn + ${ahead}u)` })}
      }
${multiplyTurn(tile, loop)}
    }`)
  }
  }
${shape.groups > 1 ? "" : unrolled(sumVectors(tile), (i) => `  total${i} += sum${i};`)}`;
}

/** One of the sets of variables in which what later turns need is on its way. */
interface LoadSet {
  readonly loop: BlockLoop;
  readonly set: number;
}

/** WGSL for each item of an operand that a thread brings, where it is one. */
function eachItem(
  { shape }: BlockTile,
  { loop, set }: LoadSet,
  text: (item: { operand: BlockOperand; name: string; number: string; guard: string }) => string,
): string {
  const threads = shapeThreads(shape);
  return loop.operands.map((operand) =>
    unrolled(Math.ceil(operand.items / threads), (k) =>
      text({
        operand,
        name: `${operand.name}_${k}_${set}`,
        number: `(lane + ${k * threads}u)`,
        guard: (k + 1) * threads > operand.items
          ? `if (lane + ${k * threads}u < ${operand.items}u) `
          : "",
      }))
  ).join("\n");
}

function declareLoads(tile: BlockTile, set: LoadSet): string {
  return eachItem(tile, set, ({ operand, name }) => `  ${operand.declare(name)}`);
}

function loads(tile: BlockTile, { turn, ...set }: LoadSet & { turn: string }): string {
  const { block } = orderOf(tile);
  return eachItem(tile, set, ({ operand, name, number, guard }) => {
    const at = { item: number, block: (slot: string) => block(turn, slot) };
    return `${guard}{ ${operand.load(name, at)} }`;
  });
}

function stores(tile: BlockTile, set: LoadSet): string {
  return eachItem(
    tile,
    set,
    ({ operand, name, number, guard }) =>
      `      ${guard}{
${operand.store(name, number)}
      }`,
  );
}

/** WGSL statements that multiply what workgroup memory has of `turn`. */
function multiplyTurn(tile: BlockTile, { multiply }: BlockLoop): string {
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
${multiply(shape.groups === 1 ? `${b}` : `group * ${shape.blocks}u + ${b}u`)}
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
function addGroups(tile: BlockTile): string {
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

/** WGSL statements for each vector of four rows' results: of one matrix, or of either of two. */
export function eachOwn(
  tile: BlockTile,
  text: (own: { token: string; row: string; values: string[] }) => string,
): string {
  const { shape: { rowsEach, rowThreads, tokenThreads, groups }, matrices, tokenWidth } = tile;
  const high = rowsEach / 4;
  const own = ownVectors(tile);
  return unrolled(own / matrices, (k) => {
    // Two matrices' vectors of one token follow each other.
    const vector = groups === 1 ? `${k * matrices}u` : `(group * ${own}u + ${k * matrices}u)`;
    const n = `(${vector} / ${high}u)`;
    return text({
      token:
        `(tokenPlace + ${n} / ${tokenWidth}u * ${tokenThreads}u) * ${tokenWidth}u + ${n} % ${tokenWidth}u`,
      row: `(rowPlace${matrices === 2 ? "" : ` + ${vector} % ${high}u * ${rowThreads}u`}) * 4u`,
      values: Array.from({ length: matrices }, (_, m) => `total${k * matrices + m}`),
    });
  });
}
