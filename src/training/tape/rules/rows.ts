/** How ops that work on rows by themselves are recorded and reversed. */

import type { EmbedParams, GatherRowsParams, RmsNormParams } from "../../../backend/backend.ts";
import type { Buffer } from "../../../backend/backend.ts";
import { targetOf } from "../gradients.ts";
import { type Node, type Scope, single } from "../node.ts";

/** `orderOf`: where the host keeps the rows of an ids buffer sorted by id. */
export function embedNode(
  scope: Scope,
  { params, orderOf }: { params: EmbedParams; orderOf: (ids: Buffer) => Buffer },
): Node {
  const { table, scale = 1, rows } = params;
  const ids = scope.read(params.ids);
  const order = scope.read(orderOf(params.ids));
  const out = scope.write(params.out, { rows });
  return single({
    reads: [ids],
    writes: [out],
    record: (ops, at) => ops.embed({ table, scale, rows, ids: at(ids), out: at(out) }),
  }, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    gradients.emit({
      reads: [ids, order, outGradient],
      acts: true,
      record: (ops, at) =>
        ops.embedBackward({
          ...{ table, scale, rows, ids: at(ids), order: at(order) },
          outGradient: at(outGradient),
        }),
    });
  });
}

export function rmsNormNode(scope: Scope, params: RmsNormParams): Node {
  const { weight, eps, rows } = params;
  const x = scope.read(params.x);
  const out = scope.write(params.out, {
    rows,
    recipe: {
      reads: [x],
      record: (ops, at, to) => ops.rmsNorm({ weight, eps, rows, x: at(x), out: to }),
    },
  });
  return single({
    reads: [x],
    writes: [out],
    record: (ops, at) => ops.rmsNorm({ weight, eps, rows, x: at(x), out: at(out) }),
  }, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    const target = gradients.contribute(x);
    gradients.emit({
      reads: [x, outGradient],
      ...target,
      acts: true,
      record: (ops, at) =>
        ops.rmsNormBackward({
          ...{ weight, eps, rows, x: at(x), outGradient: at(outGradient) },
          target: targetOf(target, at(target.value)),
        }),
    });
  });
}

export function gatherRowsNode(scope: Scope, params: GatherRowsParams): Node {
  const { rows } = params;
  const x = scope.read(params.x);
  const indices = scope.read(params.indices);
  const out = scope.write(params.out, { rows });
  return single({
    reads: [x, indices],
    writes: [out],
    record: (ops, at) => ops.gatherRows({ x: at(x), indices: at(indices), out: at(out), rows }),
  }, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    const target = gradients.contribute(x);
    gradients.emit({
      reads: [indices, outGradient],
      ...target,
      record: (ops, at) =>
        ops.gatherRowsBackward({
          ...{ indices: at(indices), outGradient: at(outGradient) },
          target: targetOf(target, at(target.value)),
          ...{ targetRows: x.rows, rows },
        }),
    });
  });
}
