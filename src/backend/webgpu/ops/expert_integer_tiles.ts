/**
 * Experts of many rows, as integers: tiles (`integer_tiles.ts`) of an expert's rows and of the pairs that
 * have chosen it.
 */

import { type Binding, BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { expertsOf, type GpuWeight } from "../memory.ts";
import {
  ACTIVATIONS,
  biasOf,
  type ExpertRange,
  expertRanges,
  expertsBefore,
} from "./expert_ranges.ts";
import { type Schedule, TILE_WORDS } from "./expert_sort.ts";
import type { ExpertInput, ExpertRows } from "./experts.ts";
import { integerMatrices } from "./integer_products.ts";
import { type IntegerShape, shapeRows, shapeThreads } from "./integer_shapes.ts";
import { eachOwn, formsOf, overTiles, type Tile, tileMemory } from "./integer_tiles.ts";
import { blockOrder, inputBinding, lanesOf } from "./products.ts";
import { partBindings } from "./weights.ts";

/** `middle[pair] = activation(gate x, up x)`. */
export function activatedIntegerTiles(step: ExpertRows, schedule: Schedule): Dispatch[] {
  const { hidden, intermediate, gate, up, biases } = expertsOf(step.experts);
  const bias = biasOf("bias", biases?.gateUp);
  const count = step.experts.count;
  return expertRanges([gate, up], intermediate).map((range) =>
    tiles({
      label: `experts gate and up, integer tiles ${gate.type} ${intermediate}x${hidden}`,
      schedule,
      range,
      input: step.input,
      firstRow: step.firstRow,
      record: (pair) => `(params.firstRow + ${pair} / ${step.topK}u)`,
      rows: intermediate,
      cols: hidden,
      matrices: [gate, up],
      bindings: bias.bindings,
      out: step.middle,
      helpers: ACTIVATIONS[step.activation],
      value: ([a, b]) =>
        `activated(${a}${bias.plus("id", "column")}, ${b}${
          bias.plus(`(id + ${count}u)`, "column")
        })`,
    })
  );
}

/** `values[pair] = down middle[pair]`. */
export function downIntegerTiles(
  step: ExpertRows,
  schedule: Schedule,
  { input, values }: { input: ExpertInput; values: GPUBuffer },
): Dispatch[] {
  const { hidden, intermediate, down, biases } = expertsOf(step.experts);
  const bias = biasOf("bias", biases?.down);
  return expertRanges([down], hidden).map((range) =>
    tiles({
      label: `experts down, integer tiles ${down.type} ${hidden}x${intermediate}`,
      schedule,
      range,
      input,
      firstRow: 0,
      record: (pair) => pair,
      rows: hidden,
      cols: intermediate,
      matrices: [down],
      bindings: bias.bindings,
      out: values,
      helpers: "",
      value: ([a]) => `${a}${bias.plus("id", "column")}`,
    })
  );
}

interface Tiles {
  readonly label: string;
  readonly schedule: Schedule;
  readonly range: ExpertRange;
  readonly input: ExpertInput;
  /** Row of records that the first pair's is, or belongs to. */
  readonly firstRow: number;
  /** WGSL of a pair's row of records; may use `params.firstRow`. */
  readonly record: (pair: string) => string;
  /** Of each expert's matrix. */
  readonly rows: number;
  readonly cols: number;
  readonly matrices: readonly GpuWeight[];
  readonly bindings: readonly Binding[];
  /** f32 [pairs, rows] */
  readonly out: GPUBuffer;
  readonly helpers: string;
  /** WGSL of what is written for the sums of `column`; may use `id`, the expert's. */
  readonly value: (sums: string[]) => string;
}

function tiles(options: Tiles): Dispatch {
  const { schedule, range, input, rows, cols } = options;
  const { tokens } = schedule;
  const integers = input.integers!;
  const named = options.matrices.map((weight, m) => ({ name: `w${m}`, weight }));
  const shape = shapeFor(tokens, lanesOf(cols));
  const matrices = named.length;
  const tile: Tile = { shape, matrices, bits: integers.bits, ...formsOf(options.matrices), cols };
  const size = shapeRows(shape) / matrices;
  const groups = Math.ceil(rows / size);
  return {
    label: options.label,
    bindings: [
      ...named.flatMap(({ name, weight }, m) => partBindings(name, weight, range.parts[m])),
      inputBinding({ ...input, cols, width: cols, rows }),
      { name: "schedule", buffer: schedule.memory, type: "array<u32>" },
      ...options.bindings,
      { name: "out", buffer: options.out, write: true },
    ],
    params: {
      tiles: schedule.tiles,
      firstRow: options.firstRow,
      first: range.first,
      experts: range.end - range.first,
      ...Object.fromEntries(
        range.parts.map((part, m) => [`before${m}`, expertsBefore(range, part, rows)]),
      ),
    },
    workgroups: schedule.tiles * groups,
    code: `${integerMatrices(named, integers)}${options.helpers}${blockOrder(cols)}
${tileMemory(tile)}
var<workgroup> pairs: array<u32, ${tokens}>;
@compute @workgroup_size(${shapeThreads(shape)}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let tile = workgroup / ${groups}u;
  let firstRow = workgroup % ${groups}u * ${size}u;
  if (tile >= params.tiles) { return; }
  let id = schedule[tile * ${TILE_WORDS}u];
  let count = schedule[tile * ${TILE_WORDS}u + 2u];
  let expert = id - params.first;
  if (count == 0u || expert >= params.experts) { return; }
  for (var i = lane; i < ${tokens}u; i += ${shapeThreads(shape)}u) {
    let place = schedule[tile * ${TILE_WORDS}u + 1u] + min(i, count - 1u);
    pairs[i] = schedule[params.tiles * ${TILE_WORDS}u + place];
  }
  workgroupBarrier();
${
      overTiles(tile, {
        declare: (m, name) => `var ${name}: w${m}_Raw;`,
        row: (row) => `min(firstRow + ${row}, ${rows - 1}u)`,
        load: (m, name, { row, block }) =>
          `${name} = w${m}_raw((params.before${m} + expert) * ${rows}u + ${row}, ${block});`,
        ints: (m, name) => `w${m}_ints(${name})`,
        token: (token) => options.record(`pairs[${token}]`),
      })
    }
${
      eachOwn(tile, ({ token, row, values }) =>
        `  {
    let token = ${token};
    if (token < count) {
      let first = firstRow + ${row};
${
          unrolled(4, (j) =>
            `      if (first + ${j}u < ${rows}u) {
        let column = first + ${j}u;
        out[pairs[token] * ${rows}u + column] = ${
              options.value(values.map((sums) => `${sums}.${"xyzw"[j]}`))
            };
      }`)
        }
    }
  }`)
    }
}`,
  };
}

/** The shape of tiles of so many pairs, whose outputs are so many sums each. */
function shapeFor(tokens: number, lanes: number): IntegerShape {
  const shape = SHAPES[tokens];
  return shape.groups <= lanes ? shape : { ...shape, groups: 1 };
}

const SHAPES: Readonly<Record<number, IntegerShape>> = {
  8: {
    ...{ rowsEach: 8, tokensEach: 4, rowThreads: 16, tokenThreads: 2 },
    ...{ blocks: 1, groups: 4, ahead: 2 },
  },
  16: {
    ...{ rowsEach: 8, tokensEach: 4, rowThreads: 8, tokenThreads: 4 },
    ...{ blocks: 1, groups: 4, ahead: 2 },
  },
  32: {
    ...{ rowsEach: 8, tokensEach: 4, rowThreads: 8, tokenThreads: 8 },
    ...{ blocks: 2, groups: 1, ahead: 2 },
  },
};
