/** What the kernels of sampling have in common besides their code: whom they look at, and what they read. */

import type { ChooseParams } from "../../backend.ts";
import { RULE_FLAGS } from "../../../sampling/rule.ts";
import { WEIGHT_TABLES } from "../../../sampling/weights.ts";
import { type Binding, BUILTINS, WORKGROUP } from "../kernel.ts";
import { LANES, ruleAt, ruleBindings, SEGMENT, segmentsOf, workWords } from "./choose_layout.ts";
import type { TableContext } from "./context.ts";

/** How `work` is bound where several workgroups of a row add to it. */
export const ATOMIC = { type: "array<atomic<u32>>", write: true } as const;

/** What `weight_of` reads. */
export function tables(context: TableContext): Binding {
  return {
    name: "tables",
    buffer: context.table("weights", WEIGHT_TABLES),
    type: "array<u32>",
  };
}

/**
 * Records a kernel with a workgroup for each of `each` parts of a row that is drawn. Its body finds `row`,
 * `segment`, `base` of the row's work, and `first` and `end` of the segment's logits.
 */
export function sampleKernel(
  context: TableContext,
  params: ChooseParams,
  { label, bindings, each, code, body }: {
    label: string;
    bindings: readonly Binding[];
    each: number;
    code: string;
    body: string;
  },
): void {
  const { rows, stride, logits: { width } } = params;
  const segments = segmentsOf(params);
  context.run({
    label,
    bindings: [...bindings, ...ruleBindings(params)],
    params: { width, segments, rows, stride, zero: 0 },
    workgroups: rows * each,
    code: `${code}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup / ${each === 1 ? "1u" : "params.segments"};
  if (row >= params.rows) { return; }
  if ((${ruleAt("row", "flags")} & ${RULE_FLAGS.draws}u) == 0u) { return; }
  let segment = workgroup - row * ${each === 1 ? "1u" : "params.segments"};
  let base = row * ${workWords(params)}u;
  let first = row * params.width + segment * ${SEGMENT}u;
  let end = min(first + ${SEGMENT}u, (row + 1u) * params.width);
${body}
}`,
  });
}
