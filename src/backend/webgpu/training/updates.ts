/** Around a step: gradients that are forgotten, the norm of all of them, and the clock. */

import { CLOCK } from "../../training.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { kernel, reads, total, totalMemory, writes } from "./arrays.ts";
import { gpuParameterOf } from "./parameters.ts";
import { fillValues } from "./rows.ts";

const THREADS = 256;
/** Numbers that a workgroup takes. */
const CHUNK = 8192;
/** Where PyTorch's `clip_grad_norm_` keeps from dividing by 0. */
const CLIP_EPS = 1e-6;

/** Values that are no numbers or infinite, by their bits: compilers may take for granted that there are none. */
const NOT_FINITE = `
fn not_finite(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u;
}`;

export function zeroGradients(
  context: OpContext,
  { parameters }: params.ZeroGradientsParams,
): void {
  for (const parameter of parameters.map(gpuParameterOf)) {
    fillValues(context, parameter.slot("gradient"), { count: parameter.padded, value: 0 });
  }
}

export function prepareUpdate(context: OpContext, params: params.PrepareUpdateParams): void {
  const parameters = params.parameters.map(gpuParameterOf);
  const chunks = parameters.map(({ padded }) => Math.ceil(padded / CHUNK));
  const count = chunks.reduce((sum, chunks) => sum + chunks, 0);
  // Of each chunk: the sum of squares, and whether one of its values isn't finite.
  const squares = context.scratch("squares of gradients", count * 8);
  let first = 0;
  for (const [i, parameter] of parameters.entries()) {
    context.run(kernel({
      label: "squares of gradients",
      arrays: { gradient: reads(parameter.slot("gradient")), squares: writes(squares) },
      params: { chunks: chunks[i], first, count: parameter.padded },
      workgroups: chunks[i],
      threads: THREADS,
      declare: () => totalMemory(THREADS) + NOT_FINITE,
      body: (names) => `
  if (workgroup >= params.chunks) { return; }
  var square = 0.0;
  var wrong = 0.0;
  let end = min((workgroup + 1u) * ${CHUNK}u, params.count);
  for (var i = workgroup * ${CHUNK}u + lane; i < end; i += ${THREADS}u) {
    let value = ${names.gradient}[i];
    if (not_finite(value)) { wrong = 1.0; } else { square = fma(value, value, square); }
  }
${total("sum", { threads: THREADS, value: "square" })}
${total("wrongs", { threads: THREADS, value: "wrong" })}
  if (lane == 0u) {
    ${names.squares}[(params.first + workgroup) * 2u] = sum;
    ${names.squares}[(params.first + workgroup) * 2u + 1u] = wrongs;
  }`,
    }));
    first += chunks[i];
  }
  setClock(context, params, { squares, count });
}

function setClock(
  context: OpContext,
  { clock, maxNorm, beta1, beta2, scaling }: params.PrepareUpdateParams,
  { squares, count }: { squares: GPUBuffer; count: number },
): void {
  const { lossScale, goodSteps, correction1, correction2 } = CLOCK;
  context.run(kernel({
    label: "clock",
    arrays: { squares: reads(squares), clock: writes(clock) },
    params: {
      count,
      max_norm: { f32: maxNorm ?? 0 },
      beta1: { f32: beta1 },
      rest1: { f32: 1 - beta1 },
      beta2: { f32: beta2 },
      rest2: { f32: 1 - beta2 },
      growth: { f32: scaling?.growth ?? 1 },
      backoff: { f32: scaling?.backoff ?? 1 },
      interval: { f32: scaling?.interval ?? 1 },
    },
    workgroups: 1,
    threads: THREADS,
    declare: () => totalMemory(THREADS) + NOT_FINITE,
    body: ({ squares, clock }) => `
  var square = 0.0;
  var wrong = 0.0;
  for (var i = lane; i < params.count; i += ${THREADS}u) {
    square += ${squares}[i * 2u];
    wrong += ${squares}[i * 2u + 1u];
  }
${total("sum", { threads: THREADS, value: "square" })}
${total("wrongs", { threads: THREADS, value: "wrong" })}
  if (lane != 0u) { return; }
  let scale = ${clock}[${lossScale}];
  let norm = sqrt(sum) / scale;
  let applies = wrongs == 0.0 && !not_finite(sum);
  // What shows that there is none: a NaN of these bits, which no arithmetic makes.
  ${clock}[${CLOCK.norm}] = select(bitcast<f32>(params.count | 0x7fc00000u), norm, applies);
  ${clock}[${CLOCK.applies}] = select(0.0, 1.0, applies);
  ${
      maxNorm === undefined || maxNorm === Infinity
        ? "let shorter = 1.0;"
        : `let shorter = min(1.0, params.max_norm / (norm + ${CLIP_EPS}));`
    }
  ${clock}[${CLOCK.factor}] = select(0.0, shorter / scale, applies);
  if (applies) {
    // 1 - beta^(t + 1) = (1 - beta^t) beta + (1 - beta), without the cancellation.
    ${clock}[${correction1}] = fma(${clock}[${correction1}], params.beta1, params.rest1);
    ${clock}[${correction2}] = fma(${clock}[${correction2}], params.beta2, params.rest2);
    ${clock}[${CLOCK.updates}] += 1.0;
  } else {
    ${clock}[${CLOCK.skipped}] += 1.0;
  }
  ${
      scaling === undefined ? "" : `
  if (!applies) {
    ${clock}[${lossScale}] = scale * params.backoff;
    ${clock}[${goodSteps}] = 0.0;
    return;
  }
  ${clock}[${goodSteps}] += 1.0;
  if (${clock}[${goodSteps}] < params.interval) { return; }
  ${clock}[${lossScale}] = scale * params.growth;
  ${clock}[${goodSteps}] = 0.0;`
    }`,
  }));
}
