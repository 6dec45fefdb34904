/** How products with matrices are recorded and reversed. */

import type {
  GatedLinearParams,
  HeadLinearParams,
  LinearParams,
  Norm,
} from "../../../backend/backend.ts";
import type { LinearBackwardParams } from "../../../backend/training_params.ts";
import { type Contribution, type Gradients, targetOf } from "../gradients.ts";
import { type Node, type Scope, single } from "../node.ts";
import { type Change, Value } from "../value.ts";

/** What a product reads: its input, or what the op's norm makes of it. */
interface Input {
  readonly x: Value;
  readonly norm: Norm | undefined;
  /** What the matrices multiply; the backward pass makes it again. */
  readonly multiplied: Value;
  readonly rows: number;
}

function inputOf(x: Value, { norm, rows }: { norm: Norm | undefined; rows: number }): Input {
  if (norm === undefined) return { x, norm, multiplied: x, rows };
  const multiplied = new Value({ rows, width: x.width }, {
    recipe: {
      reads: [x],
      record: (ops, at, to) => ops.rmsNorm({ ...norm, rows, x: at(x), out: to }),
    },
  });
  return { x, norm, multiplied, rows };
}

type Output =
  & Omit<LinearBackwardParams["outputs"][number], "outGradient">
  & { readonly gradient: Value };

/** Reverses products with one input, norm included. */
function emitLinearBackward(gradients: Gradients, input: Input, outputs: readonly Output[]): void {
  const { x, norm, multiplied, rows } = input;
  const target = gradients.contribute(multiplied);
  gradients.emit({
    reads: [multiplied, ...outputs.map(({ gradient }) => gradient)],
    ...target,
    acts: true,
    record: (ops, at) =>
      ops.linearBackward({
        x: at(multiplied),
        outputs: outputs.map(({ gradient, ...output }) => ({
          ...output,
          outGradient: at(gradient),
        })),
        target: targetOf(target, at(target.value)),
        rows,
      }),
  });
  if (norm !== undefined) emitNormBackward(gradients, { x, norm, rows, outGradient: target.value });
}

export function emitNormBackward(
  gradients: Gradients,
  options: { x: Value; norm: Norm; outGradient: Value; rows: number },
): void {
  const { x, norm, outGradient, rows } = options;
  const target: Contribution = gradients.contribute(x);
  gradients.emit({
    reads: [x, outGradient],
    ...target,
    acts: true,
    record: (ops, at) =>
      ops.rmsNormBackward({
        ...{ ...norm, rows, x: at(x), outGradient: at(outGradient) },
        target: targetOf(target, at(target.value)),
      }),
  });
}

export function linearNode(scope: Scope, params: LinearParams): Node {
  const { norm, rows } = params;
  const input = inputOf(scope.read(params.x), { norm, rows });
  const outputs = params.outputs.map(({ out, accumulate = false, ...output }) => {
    if (!accumulate) return { output, accumulate, value: scope.write(out, { rows }) };
    const change = scope.change(out);
    return { output, accumulate, value: change.to, change };
  });
  const changes = outputs.flatMap(({ change }): Change[] => change === undefined ? [] : [change]);
  const writes = outputs.filter(({ accumulate }) => !accumulate).map(({ value }) => value);
  const { x } = input;
  return single({
    reads: [x],
    writes,
    changes,
    record: (ops, at) =>
      ops.linear({
        ...{ x: at(x), ...(norm && { norm }), rows },
        outputs: outputs.map(({ output, accumulate, value }) => ({
          ...{ ...output, accumulate, out: at(value) },
        })),
      }),
  }, (gradients) => {
    const reached = outputs.flatMap(({ output, value }): Output[] => {
      const gradient = gradients.of(value);
      return gradient === undefined ? [] : [{ ...output, gradient }];
    });
    if (reached.length > 0) emitLinearBackward(gradients, input, reached);
    // What was added to has the gradient of the sum.
    for (const { from, to } of changes) {
      const gradient = gradients.of(to);
      if (gradient !== undefined) gradients.set(from, gradient);
    }
  });
}

export function gatedLinearNode(scope: Scope, params: GatedLinearParams): Node {
  const { norm, rows, activation } = params;
  const weights = { gate: params.gate, up: params.up };
  const input = inputOf(scope.read(params.x), { norm, rows });
  const { x } = input;
  const shape = { rows, width: params.gate.rows };
  const gate = new Value(shape);
  const up = new Value(shape);
  const out = scope.write(params.out, {
    rows,
    recipe: {
      reads: [gate, up],
      record: (ops, at, to) => ops.swiglu({ gate: at(gate), up: at(up), out: to, rows }),
    },
  });
  const common = { ...weights, activation, ...(norm && { norm }), rows };
  return {
    forward: [{
      reads: [x],
      writes: [out],
      record: (ops, at) => ops.gatedLinear({ ...common, x: at(x), out: at(out) }),
    }, {
      reads: [x],
      writes: [gate, up],
      record: (ops, at) =>
        ops.linear({
          ...{ x: at(x), ...(norm && { norm }), rows },
          outputs: [
            { weight: weights.gate, out: at(gate) },
            { weight: weights.up, out: at(up) },
          ],
        }),
    }, {
      reads: [x],
      writes: [out, gate, up],
      record: (ops, at) =>
        ops.keepingGatedLinear({
          ...{ ...common, x: at(x), out: at(out) },
          kept: { gate: at(gate), up: at(up) },
        }),
    }],
    backward(gradients) {
      const outGradient = gradients.of(out);
      if (outGradient === undefined) return;
      const [gateGradient, upGradient] = [gate, up].map((value) => gradients.change(value, value));
      gradients.emit({
        reads: [outGradient],
        changes: [gateGradient, upGradient],
        record: (ops, at) =>
          ops.swigluBackward({
            // In place: both are what went in as well.
            ...{ gate: at(gateGradient.to), up: at(upGradient.to) },
            ...{ gateGradient: at(gateGradient.to), upGradient: at(upGradient.to) },
            ...{ outGradient: at(outGradient), rows },
          }),
      });
      emitLinearBackward(gradients, input, [
        { weight: weights.gate, gradient: gateGradient.to },
        { weight: weights.up, gradient: upGradient.to },
      ]);
    },
  };
}

export function headLinearNode(scope: Scope, params: HeadLinearParams): Node {
  const { xStride, weight, heads, rows } = params;
  const x = scope.read(params.x);
  const out = scope.write(params.out, { rows });
  const common = { xStride, weight, heads, rows };
  return single({
    reads: [x],
    writes: [out],
    record: (ops, at) => ops.headLinear({ ...common, x: at(x), out: at(out) }),
  }, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    const target = gradients.contribute(x);
    gradients.emit({
      reads: [x, outGradient],
      ...target,
      acts: true,
      record: (ops, at) =>
        ops.headLinearBackward({
          ...{ ...common, x: at(x), outGradient: at(outGradient) },
          target: targetOf(target, at(target.value)),
        }),
    });
  });
}
