/** How a gate and the experts that it chooses are recorded and reversed. */

import type { Buffer, ExpertsParams, GateParams } from "../../../backend/backend.ts";
import type { BalanceParams } from "../../../backend/training_params.ts";
import { UnsupportedOpError } from "../../../errors.ts";
import { targetOf } from "../gradients.ts";
import type { Node, Scope } from "../node.ts";
import { Value } from "../value.ts";
import { emitNormBackward } from "./products.ts";

/** What a step does about a gate besides training its weights. */
export interface GateTraining {
  /** The loss that keeps experts in balance. */
  readonly balance?: BalanceParams;
  /** How many rows chose each expert is added up there. */
  readonly counts?: { readonly counted: Buffer; readonly counts: Buffer; readonly row: number };
  /** i32 [rows, topK]: choices that were made before, in the place of the gate's own. */
  readonly chosen?: Buffer;
}

export function gateNode(
  scope: Scope,
  { params, training }: { params: GateParams; training: GateTraining },
): Node {
  const { norm, weight, bias, correctionBias, groups, rows } = params;
  const { score, topK, normalise, scale } = params;
  const { balance, counts, chosen } = training;
  const x = scope.read(params.x);
  const normed = scope.write(params.normed, {
    rows,
    recipe: {
      reads: [x],
      record: (ops, at, to) => ops.rmsNorm({ ...norm, rows, x: at(x), out: to }),
    },
  });
  const given = chosen && new Value({ kind: "i32", rows, width: topK }, { fixed: chosen });
  const made = given ?? new Value({ kind: "i32", rows, width: topK });
  scope.put(params.expertIds, made);
  const weights = scope.write(params.weights, { rows });
  const rule = { weight, ...(bias && { bias }), score, topK, normalise, scale };
  const common = {
    ...{ ...rule, norm, rows },
    ...(correctionBias && { correctionBias }),
    ...(groups && { groups }),
  };
  return {
    forward: [{
      reads: given ? [x, given] : [x],
      writes: given ? [normed, weights] : [normed, made, weights],
      record(ops, at) {
        const places = { x: at(x), normed: at(normed), expertIds: at(made), weights: at(weights) };
        if (given) ops.replayGate({ ...common, ...places });
        else ops.gate({ ...common, ...places });
      },
    }],
    backward(gradients) {
      if (counts !== undefined) {
        gradients.emit({
          reads: [made],
          acts: true,
          record: (ops, at) => ops.countExperts({ ...counts, expertIds: at(made), topK, rows }),
        });
      }
      const weightsGradient = gradients.of(weights);
      if (weightsGradient === undefined) return;
      const target = gradients.contribute(normed);
      gradients.emit({
        reads: [normed, made, weightsGradient],
        ...target,
        acts: true,
        record: (ops, at) =>
          ops.gateBackward({
            ...{ ...rule, normed: at(normed), expertIds: at(made) },
            ...{ weightsGradient: at(weightsGradient), ...(balance && { balance }) },
            target: targetOf(target, at(target.value)),
            rows,
          }),
      });
      emitNormBackward(gradients, { x, norm, outGradient: target.value, rows });
    },
  };
}

/** Throws UnsupportedOpError for an activation that has no backward pass. */
export function checkActivation({ activation }: Pick<ExpertsParams, "activation">): void {
  if (activation === "silu") return;
  throw new UnsupportedOpError(
    `cannot train experts: their activation is ${activation}, must be silu`,
  );
}

export function expertsNode(scope: Scope, params: ExpertsParams): Node {
  checkActivation(params);
  const { experts, topK, activation, scale = 1, rows } = params;
  const [x, expertIds, weights] = [params.x, params.expertIds, params.weights]
    .map((buffer) => scope.read(buffer));
  const out = scope.change(params.out);
  const shape = { rows: rows * topK, width: experts.intermediate };
  const gate = new Value(shape);
  const up = new Value(shape);
  const common = { experts, topK, scale, rows };
  const reads = [x, expertIds, weights];
  return {
    forward: [{
      reads,
      changes: [out],
      record: (ops, at) =>
        ops.experts({
          ...{ ...common, activation, x: at(x), expertIds: at(expertIds) },
          ...{ weights: at(weights), out: at(out.to) },
        }),
    }, {
      reads: [x, expertIds],
      writes: [gate, up],
      record: (ops, at) =>
        ops.expertGates({
          ...{ experts, topK, rows, x: at(x), expertIds: at(expertIds) },
          kept: { gate: at(gate), up: at(up) },
        }),
    }, {
      reads,
      writes: [gate, up],
      changes: [out],
      record: (ops, at) =>
        ops.keepingExperts({
          ...{ ...common, activation, x: at(x), expertIds: at(expertIds) },
          ...{ weights: at(weights), out: at(out.to), kept: { gate: at(gate), up: at(up) } },
        }),
    }],
    backward(gradients) {
      const outGradient = gradients.of(out.to);
      if (outGradient === undefined) return;
      const target = gradients.contribute(x);
      const made = gradients.contribute(weights);
      const [gateChange, upChange] = [gate, up].map((value) => gradients.change(value, value));
      gradients.emit({
        reads: [...reads, outGradient],
        writes: [...target.writes, ...made.writes],
        changes: [...target.changes, gateChange, upChange],
        acts: true,
        record: (ops, at) =>
          ops.expertsBackward({
            ...{ ...common, x: at(x), expertIds: at(expertIds), weights: at(weights) },
            kept: { gate: at(gateChange.to), up: at(upChange.to) },
            outGradient: at(outGradient),
            target: targetOf(target, at(target.value)),
            weightsGradient: at(made.value),
            rows,
          }),
      });
      gradients.set(out.from, outGradient);
    },
  };
}
