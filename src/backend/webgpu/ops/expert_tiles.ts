/**
 * Experts of many rows: tiles of one expert's pairs share loads of its weights. A thread has two weight
 * rows and all pairs of the tile, whose activations lie in workgroup memory, so that each weight is read
 * and decoded once a tile and each of its values is used as many times as the tile has pairs.
 */

import { type Binding, BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { bufferOf, expertsOf, type GpuWeight } from "../memory.ts";
import { BLOCK, blocksOf, DECODE_COMMON } from "../weights/format.ts";
import {
  ACTIVATIONS,
  biasOf,
  type ExpertRange,
  expertRanges,
  expertsBefore,
  wholeRows,
} from "./expert_ranges.ts";
import { type Schedule, TILE_WORDS } from "./expert_sort.ts";
import type { ExpertRows } from "./experts.ts";
import { blockOrder, loadEight } from "./products.ts";
import { partBindings } from "./weights.ts";

/** Threads of a workgroup: those of which the fewest are idle, the first of equals. */
const THREADS: readonly number[] = [128, 160, 192];
/** Activations that lie in workgroup memory at a time. */
const STAGED = 2048;
/** The members of an `Eight`. */
const EIGHT = ["a.x", "a.y", "a.z", "a.w", "b.x", "b.y", "b.z", "b.w"];

/** Threads of workgroups that share so many rows, a thread each. */
function threadsFor(rows: number): number {
  const taken = (threads: number) => Math.ceil(rows / threads) * threads;
  return THREADS.reduce((best, threads) => taken(threads) < taken(best) ? threads : best);
}

type ActivatedRows = Pick<
  ExpertRows,
  "experts" | "x" | "firstRow" | "topK" | "activation" | "middle"
>;

/**
 * `middle[pair] = activation(gate x, up x)`: a thread has the same row of gate and of up. `kept` gets both
 * as they are before the activation.
 */
export function activatedTiles(
  step: ActivatedRows,
  schedule: Schedule,
  kept?: { readonly gate: GPUBuffer; readonly up: GPUBuffer },
): Dispatch[] {
  const { count, hidden, intermediate, gate, up, biases } = expertsOf(step.experts);
  const bias = biasOf("bias", biases?.gateUp);
  const threads = threadsFor(intermediate);
  return expertRanges([gate, up], intermediate).map((range) =>
    tiles({
      label: `experts gate and up, tiles ${gate.type} ${intermediate}x${hidden}`,
      schedule,
      range,
      before: range.parts.map((part) => expertsBefore(range, part, intermediate)),
      x: bufferOf(step.x).memory,
      firstRow: step.firstRow,
      base: (pair) => `(params.firstRow + ${pair} / ${step.topK}u) * ${hidden}u`,
      cols: hidden,
      matrices: { g: gate, u: up },
      bindings: [
        ...bias.bindings,
        ...(kept === undefined ? [] : [
          { name: "kept_gate", buffer: kept.gate, write: true },
          { name: "kept_up", buffer: kept.up, write: true },
        ]),
      ],
      out: step.middle,
      threads,
      groups: Math.ceil(intermediate / threads),
      rows: {
        declare: `
  let row = group * ${threads}u + lane;
  let inside = min(row, ${intermediate - 1}u);
  let rowA = (params.before0 + expert) * ${intermediate}u + inside;
  let rowB = (params.before1 + expert) * ${intermediate}u + inside;`,
        a: "g",
        b: "u",
      },
      helpers: ACTIVATIONS[step.activation],
      store: (pair, a, b) =>
        `if (row < ${intermediate}u) {
    let at = ${pair} * ${intermediate}u + row;
    out[at] = activated(${a}${bias.plus("id", "row")}, ${b}${bias.plus(`(${count}u + id)`, "row")});
    ${kept === undefined ? "" : `kept_gate[at] = ${a}; kept_up[at] = ${b};`}
  }`,
    })
  );
}

/** `values[pair] = down middle[pair]`: a thread has two rows. */
export function downTiles(
  step: Pick<ExpertRows, "experts" | "middle">,
  schedule: Schedule,
  values: GPUBuffer,
): Dispatch[] {
  const { hidden, intermediate, down, biases } = expertsOf(step.experts);
  const bias = biasOf("bias", biases?.down);
  const threads = threadsFor(Math.ceil(hidden / 2));
  const store = (pair: string, row: string, sum: string) =>
    `if (${row} < ${hidden}u) { out[${pair} * ${hidden}u + ${row}] = ${sum}${
      bias.plus("id", row)
    }; }`;
  return expertRanges([down], hidden).map((range) =>
    tiles({
      label: `experts down, tiles ${down.type} ${hidden}x${intermediate}`,
      schedule,
      range,
      before: [0],
      x: step.middle,
      firstRow: 0,
      base: (pair) => `${pair} * ${intermediate}u`,
      cols: intermediate,
      matrices: { w: down },
      bindings: bias.bindings,
      out: values,
      threads,
      groups: Math.ceil(hidden / (2 * threads)),
      rows: {
        declare: `
  let row = group * ${2 * threads}u + lane;
  let next = row + ${threads}u;
  let rowA = (params.before0 + expert) * ${hidden}u + min(row, ${hidden - 1}u);
  let rowB = (params.before0 + expert) * ${hidden}u + min(next, ${hidden - 1}u);`,
        a: "w",
        b: "w",
      },
      helpers: "",
      store: (pair, a, b) => `${store(pair, "row", a)} ${store(pair, "next", b)}`,
    })
  );
}

interface Tiles {
  readonly label: string;
  readonly schedule: Schedule;
  readonly range: ExpertRange;
  /** Of each matrix: experts of its part before the range. */
  readonly before: readonly number[];
  readonly x: GPUBuffer;
  /** Row of `x` that the first pair's activations are, or belong to. */
  readonly firstRow: number;
  /** WGSL of where a pair's activations start in `x`; may use `params.firstRow`. */
  readonly base: (pair: string) => string;
  readonly cols: number;
  /** By name in the kernel. */
  readonly matrices: Readonly<Record<string, GpuWeight>>;
  readonly bindings: readonly Binding[];
  readonly out: GPUBuffer;
  /** Of a workgroup, and workgroups of a tile. */
  readonly threads: number;
  readonly groups: number;
  /** WGSL that declares `rowA` and `rowB` of matrices `a` and `b`, from `group`, `lane` and `expert`. */
  readonly rows: { readonly declare: string; readonly a: string; readonly b: string };
  readonly helpers: string;
  /** WGSL that stores a pair's two sums; may use `id`, the expert's. */
  readonly store: (pair: string, a: string, b: string) => string;
}

function tiles(options: Tiles): Dispatch {
  const { schedule, range, before, cols, matrices, base, threads, groups, rows, store } = options;
  const { tokens } = schedule;
  const whole = wholeRows(cols);
  const quads = tokens / 4;
  const staged = STAGED / tokens / BLOCK;
  const blocks = blocksOf(cols);
  const decode = Object.entries(matrices).map(([name, { format }]) => format.decode(name, cols));
  // Four tokens' sums a variable, as their activations lie in memory.
  const sums = (text: (name: string, q: number) => string) =>
    unrolled(quads, (q) => `${text(`a${q}`, q)} ${text(`b${q}`, q)}`);
  /** Unit j of both rows times those of all pairs. */
  const multiply = (j: string) =>
    `      let wa = ${rows.a}_unit(blockA, ${j});
      let wb = ${rows.b}_unit(blockB, ${j});
${
      unrolled(8, (k) =>
        unrolled(quads, (q) => {
          const v = `v${k}_${q}`;
          const add = (sum: string, weight: string) =>
            `${sum} = fma(vec4<f32>(${weight}.${EIGHT[k]}), ${v}, ${sum});`;
          return `      let ${v} = staged[at + ${j} * ${8 * quads}u + ${k * quads + q}u];
      ${add(`a${q}`, "wa")} ${add(`b${q}`, "wb")}`;
        }))
    }`;
  return {
    label: options.label,
    bindings: [
      ...Object.entries(matrices).flatMap(([name, weight], i) =>
        partBindings(name, weight, range.parts[i])
      ),
      { name: "x", buffer: options.x, type: whole ? "array<vec4<f32>>" : "array<f32>" },
      { name: "schedule", buffer: schedule.memory, type: "array<u32>" },
      ...options.bindings,
      { name: "out", buffer: options.out, write: true },
    ],
    params: {
      tiles: schedule.tiles,
      firstRow: options.firstRow,
      first: range.first,
      experts: range.end - range.first,
      ...Object.fromEntries(before.map((experts, i) => [`before${i}`, experts])),
    },
    workgroups: schedule.tiles * groups,
    code: `${DECODE_COMMON}${decode.join("")}${loadEight(whole, cols)}${options.helpers}
${blockOrder(cols)}
// [value][quad of pairs]
var<workgroup> staged: array<vec4<f32>, ${STAGED / 4}>;
var<workgroup> pairs: array<u32, ${tokens}>;
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let tile = workgroup / ${groups}u;
  let group = workgroup % ${groups}u;
  if (tile >= params.tiles) { return; }
  let id = schedule[tile * ${TILE_WORDS}u];
  let count = schedule[tile * ${TILE_WORDS}u + 2u];
  let expert = id - params.first;
  if (count == 0u || expert >= params.experts) { return; }
  if (lane < ${tokens}u) {
    let place = schedule[tile * ${TILE_WORDS}u + 1u] + min(lane, count - 1u);
    pairs[lane] = schedule[params.tiles * ${TILE_WORDS}u + place];
  }${rows.declare}
${sums((name) => `var ${name} = vec4<f32>(); var total_${name} = vec4<f32>();`)}
  // Places among the row's blocks in the order in which its sums have them.
  for (var first = 0u; first < ${blocks}u; first += ${staged}u) {
    let end = min(first + ${staged}u, ${blocks}u);
    workgroupBarrier();
    for (var i = lane; i < (end - first) * ${4 * quads}u; i += ${threads}u) {
      let unit = i / ${quads}u;
      let source = block_at(first + unit / 4u).x * 4u + unit % 4u;
      let token = i % ${quads}u * 4u;
${unrolled(4, (t) => `      let v${t} = x_8(${base(`pairs[token + ${t}u]`)}, source);`)}
${
      unrolled(8, (k) => {
        const value = EIGHT[k];
        return `      staged[(unit * 8u + ${k}u) * ${quads}u + i % ${quads}u] =
        vec4<f32>(v0.${value}, v1.${value}, v2.${value}, v3.${value});`;
      })
    }
    }
    workgroupBarrier();
    for (var place = first; place < end; place++) {
      let block = block_at(place);
      // Where a sum starts, the one before is added to those before it.
      if (block.y == 0u) {
${sums((name) => `total_${name} += ${name}; ${name} = vec4<f32>();`)}
      }
      let blockA = ${rows.a}_load(rowA, block.x);
      let blockB = ${rows.b}_load(rowB, block.x);
      let at = (place - first) * ${BLOCK * quads}u;
${
      // A tile of few pairs waits for weights: all of a block are asked for at once.
      quads <= 2
        ? unrolled(4, (j) => `{\n${multiply(`${j}u`)}\n}`)
        : `for (var j = 0u; j < 4u; j++) {\n${multiply("j")}\n}`}
    }
  }
${sums((name) => `total_${name} += ${name};`)}
${
      unrolled(tokens, (t) => {
        const part = `${Math.floor(t / 4)}.${"xyzw"[t % 4]}`;
        return `  if (${t}u < count) { let pair = pairs[${t}]; ${
          store("pair", `total_a${part}`, `total_b${part}`)
        } }`;
      })
    }
}`,
  };
}
