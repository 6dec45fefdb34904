/** What the backward pass of routed experts means, expert by expert, on plain arrays. */

import type { ExpertPart, TrainedTensors } from "./parameters.ts";
import { addInputGradient, addWeightGradient } from "./products.ts";
import { silu, siluSlope } from "./rows.ts";

/**
 * One expert's share, `pairs` being the choices (row * topK + rank) that chose it. With
 * `out = scale w down(a)`, `a = silu(g) u`: dw = scale (down^T dout) a, da = scale w down^T dout.
 */
export function expertsBackward(
  chosen: {
    parameters: Readonly<Record<ExpertPart, TrainedTensors>>;
    expert: number;
    pairs: readonly number[];
  },
  options: {
    topK: number;
    scale: number;
    hidden: number;
    intermediate: number;
    round: (value: number) => number;
    x: Float32Array;
    weights: Float32Array;
    outGradient: Float32Array;
    /** [choices, intermediate] each, what went into the activation. */
    gate: Float32Array;
    up: Float32Array;
    weightsGradient: Float32Array;
    /** [rows, hidden], added to. */
    sums: Float64Array;
  },
): void {
  const { parameters, expert, pairs } = chosen;
  const { topK, scale, hidden, intermediate, round, gate, up, sums } = options;
  const count = pairs.length;
  if (count === 0) return;
  const rowOf = (i: number) => Math.floor(pairs[i] / topK);
  const outGradient = { values: options.outGradient, start: (i: number) => rowOf(i) * hidden };
  const x = { values: options.x, start: (i: number) => rowOf(i) * hidden };
  const middle = new Float64Array(count * intermediate);
  const plain = { factor: () => 1, round, count };
  addInputGradient(matrixOf(parameters.down, expert), {
    ...{ gradient: outGradient, ...plain, sums: middle },
  });
  const [activations, gateGradient, upGradient] = [0, 0, 0].map(() =>
    new Float32Array(count * intermediate)
  );
  for (const [i, pair] of pairs.entries()) {
    const factor = scale * options.weights[pair];
    let product = 0;
    for (let c = 0; c < intermediate; c++) {
      const [g, u] = [gate[pair * intermediate + c], up[pair * intermediate + c]];
      const [at, slope] = [i * intermediate + c, middle[i * intermediate + c]];
      activations[at] = silu(g) * u;
      product += slope * silu(g) * u;
      gateGradient[at] = factor * slope * u * siluSlope(g);
      upGradient[at] = factor * slope * silu(g);
    }
    options.weightsGradient[pair] = scale * product;
  }
  const own = (values: Float32Array) => ({ values, start: (i: number) => i * intermediate });
  const inputs = new Float64Array(count * hidden);
  for (const [part, values] of [["gate", gateGradient], ["up", upGradient]] as const) {
    const gradient = { gradient: own(values), ...plain };
    addInputGradient(matrixOf(parameters[part], expert), { ...gradient, sums: inputs });
    addTo(parameters[part], expert, (into) => addWeightGradient(into, { ...gradient, x }));
  }
  addTo(parameters.down, expert, (into) =>
    addWeightGradient(into, {
      gradient: outGradient,
      x: own(activations),
      factor: (i) => scale * options.weights[pairs[i]],
      ...{ round, count },
    }));
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < hidden; c++) sums[rowOf(i) * hidden + c] += inputs[i * hidden + c];
  }
}

function matrixOf({ rows, cols, each, stored }: TrainedTensors, expert: number) {
  return { rows, cols, values: stored.subarray(expert * each, (expert + 1) * each) };
}

/** Calls `add` with the expert's gradient, where there is one. */
function addTo(
  { rows, cols, each, gradient }: TrainedTensors,
  expert: number,
  add: (into: { rows: number; cols: number; values: Float32Array }) => void,
): void {
  if (gradient === null) return;
  add({ rows, cols, values: gradient.subarray(expert * each, (expert + 1) * each) });
}
