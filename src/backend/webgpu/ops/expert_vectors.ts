/**
 * Experts of a few rows each, as integers: what `matrix_vector.ts` does, for the pairs of one expert. Each
 * thread has one of the sums that share a row's blocks, of some rows of the matrices and of all pairs, and
 * pairs that aren't there cost nothing.
 */

import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { expertDispatch, type ExpertTiles, FIND_TILE, pairOf } from "./expert_dispatch.ts";
import { integerMatrices } from "./integer_products.ts";
import { addLanes, laneBlocks, lanesOf, overBlocks } from "./products.ts";
import { blocksOf } from "../weights/format.ts";

const THREADS = 128;
/** Rows of matrices of a thread, of all matrices together. */
const ROWS_EACH = 4;
/** Rows that neighbouring threads have, which read the same records. */
const NEIGHBOURS = 4;
/** Blocks of each of them that it asks for at once. */
const BLOCKS_AHEAD = 2;

/** Pairs of a tile. */
export const VECTOR_PAIRS = 8;

export function vectorTiles(options: ExpertTiles): Dispatch {
  const { cols, rows, matrices } = options;
  const lanes = lanesOf(cols);
  const rowsEach = ROWS_EACH / matrices.length;
  const slots = THREADS / lanes;
  const size = slots * rowsEach;
  const neighbours = Math.min(NEIGHBOURS, slots);
  const groups = Math.ceil(rows / size);
  const named = matrices.map((weight, m) => ({ name: `w${m}`, weight }));
  const own = named.flatMap(({ name }, m) =>
    Array.from({ length: rowsEach }, (_, row) => ({ name, m, row, at: m * rowsEach + row }))
  );
  const load = (k: number) =>
    own.map(({ name, m, row }) =>
      `let b${k}${m}${row} = ${name}_raw((params.before${m} + expert) * ${rows}u + row${row}, at${k});`
    ).join("\n");
  const add = (k: number) =>
    `{
${own.map(({ name, m, row }) => `let u${m}${row} = ${name}_ints(b${k}${m}${row});`).join("\n")}
${
      unrolled(VECTOR_PAIRS, (t) =>
        `if (${t}u < count) {
  let v = record_at(base${t} + at${k});
${
          own.map(({ name, m, row, at }) =>
            `  sum${at}_${t} = ${name}_add(u${m}${row}, v, sum${at}_${t});`
          ).join("\n")
        }
}`)
    }
}`;
  const sums = own.flatMap(({ at }) =>
    Array.from({ length: VECTOR_PAIRS }, (_, t) => `sum${at}_${t}`)
  );
  return expertDispatch(options, {
    groups,
    code: `${integerMatrices(named, options.input.integers!)}${options.helpers}
var<workgroup> sums: array<f32, ${sums.length * THREADS}>;
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let tile = workgroup / ${groups}u;
  let firstRow = workgroup % ${groups}u * ${size}u;
${FIND_TILE}
  let part = lane / ${neighbours}u % ${lanes}u;
  let slot = lane / ${neighbours * lanes}u * ${neighbours}u + lane % ${neighbours}u;
${
      unrolled(rowsEach, (row) =>
        `  let row${row} = min(firstRow + slot + ${row * slots}u, ${rows - 1}u);`)
    }
${
      unrolled(VECTOR_PAIRS, (t) =>
        `  let base${t} = ${options.record(pairOf(`${t}u`))} * ${blocksOf(cols)}u;`)
    }
${sums.map((sum) => `  var ${sum} = 0.0;`).join("\n")}
${overBlocks({ cols, ahead: Math.min(BLOCKS_AHEAD, laneBlocks(cols)), sums, load, add })}
${sums.map((sum, i) => `  sums[${i * THREADS}u + lane] = ${sum};`).join("\n")}
  workgroupBarrier();
  for (var o = lane; o < ${size}u * count; o += ${THREADS}u) {
    let place = o % ${size}u;
    let column = firstRow + place;
    let t = o / ${size}u;
    if (column >= ${rows}u) { continue; }
    let start = place % ${slots}u / ${neighbours}u * ${
      neighbours * lanes
    }u + place % ${neighbours}u;
${
      named.map((_, m) => {
        const first = `${m * rowsEach * VECTOR_PAIRS}u + place / ${slots}u * ${VECTOR_PAIRS}u + t`;
        return `    var total${m} = 0.0;
${
          addLanes(
            cols,
            `total${m}`,
            (l) => `sums[(${first}) * ${THREADS}u + start + ${l} * ${neighbours}u]`,
          )
        }`;
      }).join("\n")
    }
    out[${pairOf("t")} * ${rows}u + column] = ${options.value(named.map((_, m) => `total${m}`))};
  }
}`,
  });
}
