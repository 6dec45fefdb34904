/** How attention over keys and values is recorded and reversed; keys are read from rows, not from the cache. */

import type { AttentionParams, Norm, RotateAndCacheParams } from "../../../backend/backend.ts";
import { UnsupportedOpError } from "../../../errors.ts";
import { type Node, type Scope, single } from "../node.ts";
import type { Value } from "../value.ts";

/** The rotated keys and the values of the layer whose cache was written last. */
export interface CachedRows {
  readonly layer: number;
  readonly k: Value;
  readonly v: Value;
}

export function rotateAndCacheNode(
  scope: Scope,
  params: RotateAndCacheParams,
): { node: Node; cached: CachedRows } {
  const { heads, qNorm, kNorm, pairing, layer, rows } = params;
  const { kvHeads } = params.cache;
  const cache = scope.kvCache(params.cache);
  const cosSin = scope.read(params.cosSin);
  const batch = readBatch(scope, params.batch);
  const q = scope.change(params.q);
  const k = scope.change(params.k);
  const v = scope.read(params.v);
  const norms = { ...(qNorm && { qNorm }), ...(kNorm && { kNorm }) };
  const node: Node = {
    layer,
    forward: [{
      reads: [v, cosSin, ...batch.values],
      changes: [q, k],
      acts: true,
      record: (ops, at) =>
        ops.rotateAndCache({
          ...{ q: at(q.to), k: at(k.to), v: at(v), heads, ...norms },
          ...{ cosSin: at(cosSin), pairing, cache, layer: 0, batch: batch.at(at), rows },
        }),
    }],
    backward(gradients) {
      const [qGradient, kGradient] = [gradients.of(q.to), gradients.of(k.to)];
      if (qGradient === undefined || kGradient === undefined) return;
      const [qChange, kChange] = [
        gradients.change(qGradient, q.from),
        gradients.change(kGradient, k.from),
      ];
      const withInput = (norm: Norm, x: Value) => ({ norm, x });
      const inputs = [
        ...(qNorm ? [withInput(qNorm, q.from)] : []),
        ...(kNorm ? [withInput(kNorm, k.from)] : []),
      ];
      gradients.emit({
        reads: [cosSin, ...inputs.map(({ x }) => x)],
        changes: [qChange, kChange],
        acts: inputs.length > 0,
        record: (ops, at) =>
          ops.rotateAndCacheBackward({
            ...{ heads, kvHeads, qGradient: at(qChange.to), kGradient: at(kChange.to) },
            ...(qNorm && { qNorm: { ...qNorm, x: at(q.from) } }),
            ...(kNorm && { kNorm: { ...kNorm, x: at(k.from) } }),
            ...{ cosSin: at(cosSin), pairing, rows },
          }),
      });
    },
  };
  return { node, cached: { layer, k: k.to, v } };
}

export function attentionNode(
  scope: Scope,
  { params, cached }: { params: AttentionParams; cached: CachedRows | null },
): Node {
  const { heads, scale, window, sinks, layer, rows } = params;
  const { kvHeads } = params.cache;
  if (sinks !== undefined) {
    throw new UnsupportedOpError(
      `cannot train attention with sinks: ${sinks.name} is one, must be left out`,
    );
  }
  if (cached?.layer !== layer) {
    throw new RangeError(
      `cannot record attention of layer ${layer}: the cache written last is that of layer ` +
        `${cached?.layer}, must be its own`,
    );
  }
  const { k, v } = cached;
  const cache = scope.kvCache(params.cache);
  const batch = readBatch(scope, params.batch);
  const q = scope.read(params.q);
  const out = scope.write(params.out, { rows });
  const common = { heads, scale, ...(window !== undefined && { window }), rows };
  return single({
    // Keys and values are in the cache; reading them here keeps the one op behind the other.
    reads: [q, k, v, ...batch.values],
    writes: [out],
    record: (ops, at) =>
      ops.attention({
        ...{ ...common, q: at(q), cache, layer: 0, batch: batch.at(at), out: at(out) },
      }),
  }, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    const [positions] = batch.values;
    const made = [q, k, v].map((value) => gradients.contribute(value));
    if (made.some(({ accumulate }) => accumulate)) {
      throw new Error("queries, keys or values are read by more than attention");
    }
    const [qGradient, kGradient, vGradient] = made.map(({ value }) => value);
    gradients.emit({
      reads: [q, k, v, out, outGradient, positions],
      writes: [qGradient, kGradient, vGradient],
      record: (ops, at) =>
        ops.attentionBackward({
          ...{ ...common, q: at(q), k: at(k), v: at(v), out: at(out) },
          ...{ outGradient: at(outGradient), kvHeads, positions: at(positions) },
          ...{ qGradient: at(qGradient), kGradient: at(kGradient), vGradient: at(vGradient) },
        }),
    });
  });
}

/** The buffers that say where rows belong, as values: positions, sequences, page tables. */
export function readBatch(scope: Scope, batch: AttentionParams["batch"]) {
  const values = [batch.positions, batch.sequences, batch.pageTables].map((buffer) =>
    scope.read(buffer)
  );
  return {
    values,
    at(at: (value: Value) => AttentionParams["q"]): AttentionParams["batch"] {
      const [positions, sequences, pageTables] = values.map(at);
      return { positions, sequences, pageTables };
    },
  };
}
