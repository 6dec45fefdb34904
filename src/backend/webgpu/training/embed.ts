/**
 * The backward pass of an embedding: rows with one id are neighbours in the sorted order and are added up in
 * it. The order is cut into runs; what reaches over a run's border is added up behind the runs, by the one
 * in which it begins.
 */

import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { kernel, reads, writes } from "./arrays.ts";
import type { Trained } from "./parameters.ts";

/** Columns of a workgroup, a thread each. */
const LANES = 64;
/** Rows of a run. */
const RUN = 64;

type Name = "ids" | "order" | "out" | "sums";

export function embedBackward(
  context: OpContext,
  params: params.EmbedBackwardParams,
  trained: Trained,
): void {
  const { ids, order, outGradient, scale = 1, rows } = params;
  const { gradient, stride, cols, rows: tableRows } = trained.parameterOf(params.table);
  if (gradient === null) return;
  const across = Math.ceil(cols / LANES);
  const runs = Math.ceil(rows / RUN);
  // Of each run: the sum of what began before it, and of what goes on behind it.
  const sums = context.scratch("embeddings over runs", runs * 2 * cols * 4);
  const common = { rows, runs, across, cols, stride, scale: { f32: scale } };
  const arrays = { ids: reads(ids), order: reads(order), out: writes(gradient) };
  const idOf = (names: Readonly<Record<"ids" | "order", string>>) => `
  fn id_of(place: u32) -> u32 { return u32(${names.ids}[${names.order}[place]]); }`;
  const place = `
  let run = workgroup / params.across;
  let col = workgroup % params.across * ${LANES}u + lane;
  if (run >= params.runs || col >= params.cols) { return; }
  let start = run * ${RUN}u;
  let end = min(start + ${RUN}u, params.rows);`;
  const dispatch = { workgroups: runs * across, threads: LANES, params: common };
  const add = (out: string, id: string) =>
    `if (${id} < ${tableRows}u) {
        let at = ${id} * params.stride + col;
        ${out}[at] = fma(params.scale, sum, ${out}[at]);
      }`;
  context.run(kernel<Name | "outGradient">({
    label: "embedBackward",
    ...dispatch,
    arrays: { ...arrays, outGradient: reads(outGradient), sums: writes(sums) },
    declare: idOf,
    body: (names) =>
      `${place}
  var before = select(0xffffffffu, id_of(max(start, 1u) - 1u), start > 0u);
  var sum = 0.0;
  var id = id_of(start);
  for (var row = start; row < end; row++) {
    sum += ${names.outGradient}[u32(${names.order}[row]) * params.cols + col];
    let next = select(0xffffffffu, id_of(min(row + 1u, params.rows - 1u)), row + 1u < params.rows);
    if (row + 1u < end && next == id) { continue; }
    // The last one of its id in this run.
    if (id == before) {
      ${names.sums}[run * 2u * params.cols + col] = sum;
    } else if (next == id) {
      ${names.sums}[(run * 2u + 1u) * params.cols + col] = sum;
    } else {
      ${add(names.out, "id")}
    }
    before = 0xffffffffu;
    sum = 0.0;
    id = next;
  }`,
  }));
  context.run(kernel<Name>({
    label: "embedBackward over runs",
    ...dispatch,
    arrays: { ...arrays, sums: reads(sums) },
    declare: idOf,
    body: (names) =>
      `${place}
  let id = id_of(end - 1u);
  let begins = start == 0u || id_of(start) != id || id_of(start - 1u) != id;
  if (!begins || end == params.rows || id_of(end) != id) { return; }
  var sum = ${names.sums}[(run * 2u + 1u) * params.cols + col];
  for (var later = run + 1u; later < params.runs; later++) {
    if (id_of(later * ${RUN}u) != id) { break; }
    sum += ${names.sums}[later * 2u * params.cols + col];
    // Whether all of that run is of this id.
    if (id_of(min((later + 1u) * ${RUN}u, params.rows) - 1u) != id) { break; }
  }
  ${add(names.out, "id")}`,
  }));
}
