/**
 * Sums of columns over rows: gradients of biases and of norms' weights. Rows are cut into runs of one
 * length, whose sums are added in order.
 */

import type { OpContext } from "../ops/context.ts";
import { type Accesses, type Kernel, kernel, reads, writes } from "./arrays.ts";

/** Columns of a workgroup, a thread each. */
const COLUMNS = 64;
/** Rows that a thread adds. */
const RUN = 64;
/** Columns of a workgroup that adds runs, and threads of each. */
const FEW = 16;

type Names<Name extends string> = Readonly<Record<Name, string>>;

/**
 * into[col] += sum over rows of `value`, which WGSL declares from `row` and `col` and may write things
 * besides. Where `into` is null only that is done.
 */
export function addColumnSums<Name extends string>(
  context: OpContext,
  options: {
    label: string;
    arrays: Accesses<Name>;
    params: Kernel<Name>["params"];
    rows: number;
    cols: number;
    into: GPUBuffer | null;
    value: (names: Names<Name>) => string;
    /** Whether `value` writes. */
    always?: boolean;
  },
): void {
  const { label, rows, cols, into, value, always = false } = options;
  if (into === null && !always) return;
  const runs = Math.ceil(rows / RUN);
  const across = Math.ceil(cols / COLUMNS);
  const sums = context.scratch("sums of columns", runs * cols * 4);
  const arrays = { ...options.arrays, sums: writes(sums) } as Accesses<Name | "sums">;
  context.run(kernel<Name | "sums">({
    label,
    arrays,
    params: { rows, cols, across, runs, ...options.params },
    workgroups: runs * across,
    threads: COLUMNS,
    body: (names) => `
  let run = workgroup / params.across;
  let col = workgroup % params.across * ${COLUMNS}u + lane;
  if (run >= params.runs || col >= params.cols) { return; }
  var sum = 0.0;
  for (var row = run * ${RUN}u; row < min((run + 1u) * ${RUN}u, params.rows); row++) {
${value(names)}
    sum += value;
  }
  ${names.sums}[run * params.cols + col] = sum;`,
  }));
  if (into === null) return;
  context.run(kernel({
    label: `${label}, sums`,
    arrays: { sums: reads(sums), into: writes(into) },
    params: { runs, cols },
    workgroups: Math.ceil(cols / FEW),
    threads: FEW * FEW,
    declare: () => `var<workgroup> parts: array<f32, ${FEW * FEW}>;`,
    body: (names) => `
  let col = workgroup * ${FEW}u + lane % ${FEW}u;
  var part = 0.0;
  if (col < params.cols) {
    for (var run = lane / ${FEW}u; run < params.runs; run += ${FEW}u) {
      part += ${names.sums}[run * params.cols + col];
    }
  }
  parts[lane] = part;
  workgroupBarrier();
  if (lane >= ${FEW}u || col >= params.cols) { return; }
  var sum = 0.0;
  for (var i = 0u; i < ${FEW}u; i++) { sum += parts[i * ${FEW}u + lane]; }
  ${names.into}[col] += sum;`,
  }));
}
