/**
 * The router in two dispatches: normalised rows with their logits, then each row's choice
 * (`gate_choice.ts`).
 */

import type { GateParams } from "../../backend.ts";
import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { bufferOf, weightOf } from "../memory.ts";
import { BLOCK, blocksOf, DECODE_COMMON } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { choice } from "./gate_choice.ts";
import { checkExpertCount } from "./moe_common.ts";
import { loadEight } from "./products.ts";
import { partBindings } from "./weights.ts";

/** Threads that share a logit's sum, eight neighbouring values each at a time. */
const LANES = 32;
/** Threads of a workgroup, which share each row's norm. */
const THREADS = 128;
/** Rows from which a workgroup computes a tile, so that rows share loads of weights. */
const MANY_ROWS = 16;

export function gate(context: OpContext, params: GateParams): void {
  const experts = params.weight.rows;
  checkExpertCount("gate", experts);
  const logits = context.scratch("gate logits", params.rows * experts * 4);
  context.run(logitsOf(params, logits));
  context.run(choice(params, logits));
}

/**
 * `logits[t, e] = norm(x[t]) . weight[e] + bias[e]`. Each workgroup norms its rows itself; those of the
 * first experts write them down. The order of sums is the same for every size of tile.
 */
export function logitsOf(params: GateParams, logits: GPUBuffer): Dispatch {
  const { x, norm, normed, bias, rows } = params;
  const weight = weightOf(params.weight);
  const hidden = x.width;
  const [tokens, each] = rows < MANY_ROWS ? [1, 1] : [4, 4];
  const sums = tokens * each;
  const expertsOfTile = THREADS / LANES * each;
  const tiles = Math.ceil(weight.rows / expertsOfTile);
  const whole = hidden % BLOCK === 0;
  const row = whole ? "array<vec4<f32>>" : "array<f32>";
  const units = blocksOf(hidden) * BLOCK / 8;
  const sum = (t: number, e: number) => `sum${t * each + e}`;
  return {
    label: `gate logits ${weight.rows}x${hidden}`,
    bindings: [
      ...partBindings("w", weight, weight.parts[0]),
      { name: "x", buffer: bufferOf(x).memory, type: row },
      { name: "norm", buffer: weightOf(norm.weight).parts[0].memory, type: "array<vec4<f32>>" },
      ...(bias ? [{ name: "bias", buffer: weightOf(bias).parts[0].memory }] : []),
      { name: "normed", buffer: bufferOf(normed).memory, type: row, write: true },
      { name: "logits", buffer: logits, write: true },
    ],
    params: { rows, experts: weight.rows, tiles, eps: { f32: norm.eps } },
    workgroups: tiles * Math.ceil(rows / tokens),
    code: `${DECODE_COMMON}${weight.format.decode("w", hidden)}${loadEight(whole, hidden)}
const TOKENS = ${tokens}u;
var<workgroup> sums: array<f32, ${THREADS * sums}>;
fn normed_8(t: u32, unit: u32, factor: f32) -> Eight {
  let v = x_8(t * ${hidden}u, unit);
  return Eight(v.a * factor * norm[unit * 2u], v.b * factor * norm[unit * 2u + 1u]);
}
${storeEight(whole, hidden)}
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let first = workgroup / params.tiles * TOKENS;
  if (first >= params.rows) { return; }
  for (var t = 0u; t < TOKENS; t++) {
    var square = 0.0;
    for (var unit = lane; unit < ${units}u; unit += ${THREADS}u) {
      let v = x_8(min(first + t, params.rows - 1u) * ${hidden}u, unit);
      square = dot_8(v, v, square);
    }
    sums[t * ${THREADS}u + lane] = square;
  }
  workgroupBarrier();
  for (var half = ${THREADS / 2}u; half > 0u; half /= 2u) {
    for (var t = 0u; t < TOKENS; t++) {
      let at = t * ${THREADS}u + lane;
      if (lane < half) { sums[at] += sums[at + half]; }
    }
    workgroupBarrier();
  }
${
      unrolled(tokens, (t) =>
        `  let t${t} = min(first + ${t}u, params.rows - 1u);
  let factor${t} = 1.0 / sqrt(sums[${t * THREADS}] / ${hidden}.0 + params.eps);`)
    }
  workgroupBarrier();
  if (workgroup % params.tiles == 0u) {
    for (var unit = lane; unit < ${units}u; unit += ${THREADS}u) {
${unrolled(tokens, (t) => `      store_8(t${t}, unit, normed_8(t${t}, unit, factor${t}));`)}
    }
  }
  let group = lane / ${LANES}u;
  let expert = (workgroup % params.tiles) * ${expertsOfTile}u + group * ${each}u;
${unrolled(sums, (i) => `  var sum${i} = 0.0;`)}
  for (var unit = lane % ${LANES}u; unit < ${units}u; unit += ${LANES}u) {
${unrolled(tokens, (t) => `    let v${t} = normed_8(t${t}, unit, factor${t});`)}
${
      unrolled(each, (e) =>
        `    let w${e} = w_8(min(expert + ${e}u, params.experts - 1u), unit);
${unrolled(tokens, (t) => `    ${sum(t, e)} = dot_8(w${e}, v${t}, ${sum(t, e)});`)}`)
    }
  }
  // Sum i of a thread lies at place (i + lane) of its run: writing and reading touch all banks alike.
${unrolled(sums, (i) => `  sums[lane * ${sums}u + (${i}u + lane) % ${sums}u] = sum${i};`)}
  workgroupBarrier();
  let i = lane % ${LANES}u;
  let t = first + i / ${each}u;
  let e = expert + i % ${each}u;
  if (i >= ${sums}u || t >= params.rows || e >= params.experts) { return; }
  var logit = 0.0;
  for (var other = group * ${LANES}u; other < (group + 1u) * ${LANES}u; other++) {
    logit += sums[other * ${sums}u + (i + other) % ${sums}u];
  }
  logits[t * params.experts + e] = logit${bias ? " + bias[e]" : ""};
}`,
  };
}

/** WGSL of `store_8(t, unit, values)`, which writes eight values of a normalised row. */
function storeEight(whole: boolean, hidden: number): string {
  const store = whole
    ? `let at = t * ${hidden / 4}u + unit * 2u;
  normed[at] = v.a;
  normed[at + 1u] = v.b;`
    : `for (var j = 0u; j < 8u; j++) {
    let column = unit * 8u + j;
    if (column >= ${hidden}u) { return; }
    normed[t * ${hidden}u + column] = select(v.b[j & 3u], v.a[j & 3u], j < 4u);
  }`;
  return `fn store_8(t: u32, unit: u32, v: Eight) { ${store} }`;
}
