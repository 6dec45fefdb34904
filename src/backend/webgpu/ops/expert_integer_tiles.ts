/**
 * Experts of many rows, as integers: tiles of an expert's rows and of the pairs that have chosen it. Those of
 * few pairs are products with vectors (`expert_vectors.ts`), others tiles as in `integer_tiles.ts`.
 */

import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { expertsOf } from "../memory.ts";
import { expertDispatch, type ExpertTiles, findTile } from "./expert_dispatch.ts";
import { ACTIVATIONS, biasOf, expertRanges } from "./expert_ranges.ts";
import type { Schedule } from "./expert_sort.ts";
import { VECTOR_PAIRS, vectorTiles } from "./expert_vectors.ts";
import type { ExpertInput, ExpertRows } from "./experts.ts";
import { integerMatrices } from "./integer_products.ts";
import { type IntegerShape, shapeRows, shapeThreads } from "./integer_shapes.ts";
import { eachOwn, formsOf, overTiles, type Tile, tileMemory } from "./integer_tiles.ts";
import { blockOrder } from "./products.ts";

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

function tiles(options: ExpertTiles): Dispatch {
  return options.schedule.tokens === VECTOR_PAIRS ? vectorTiles(options) : tilesOf(options);
}

function tilesOf(options: ExpertTiles): Dispatch {
  const { schedule: { tokens }, input, rows, cols } = options;
  const integers = input.integers!;
  const named = options.matrices.map((weight, m) => ({ name: `w${m}`, weight }));
  const matrices = named.length;
  const tile: Tile = {
    shape: SHAPE,
    matrices,
    bits: integers.bits,
    ...formsOf(options.matrices),
    cols,
  };
  const size = shapeRows(SHAPE) / matrices;
  const groups = Math.ceil(rows / size);
  return expertDispatch(options, {
    groups,
    code: `${integerMatrices(named, integers)}${options.helpers}${blockOrder(cols)}
${tileMemory(tile)}
var<workgroup> pairs: array<u32, ${tokens}>;
@compute @workgroup_size(${shapeThreads(SHAPE)}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let tile = workgroup / ${groups}u;
  let firstRow = workgroup % ${groups}u * ${size}u;
${findTile(tokens, shapeThreads(SHAPE))}
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
  });
}

/** The shape of tiles of 32 pairs. */
const SHAPE: IntegerShape = {
  ...{ rowsEach: 8, tokensEach: 4, rowThreads: 8, tokenThreads: 8 },
  ...{ blocks: 2, groups: 1, ahead: 1 },
};
