/** How attention over latents is recorded and reversed; the backward pass makes the cached tokens again. */

import type {
  LatentAttentionParams,
  RotateAndCacheLatentParams,
} from "../../../backend/backend.ts";
import { type Node, type Scope, single } from "../node.ts";
import { Value } from "../value.ts";
import { readBatch } from "./attention.ts";

/** What the layer whose cache was written last has kept of its rows. */
export interface CachedTokens {
  readonly layer: number;
  readonly tokens: Value;
}

export function rotateAndCacheLatentNode(
  scope: Scope,
  params: RotateAndCacheLatentParams,
): { node: Node; cached: CachedTokens } {
  const { heads, nopeDim, latentNorm, pairing, layer, rows } = params;
  const cache = scope.latentCache(params.cache);
  const cosSin = scope.read(params.cosSin);
  const batch = readBatch(scope, params.batch);
  const q = scope.change(params.q);
  const kv = scope.read(params.kv);
  const tokens = new Value({ rows, width: kv.width }, {
    recipe: {
      reads: [kv, cosSin],
      record: (ops, at, to) =>
        ops.latentTokens({
          ...{ kv: at(kv), latentNorm, cosSin: at(cosSin), pairing, out: to, rows },
        }),
    },
  });
  const node: Node = {
    layer,
    forward: [{
      reads: [kv, cosSin, ...batch.values],
      changes: [q],
      acts: true,
      record: (ops, at) =>
        ops.rotateAndCacheLatent({
          ...{ q: at(q.to), heads, nopeDim, kv: at(kv), latentNorm, cosSin: at(cosSin) },
          ...{ pairing, cache, layer: 0, batch: batch.at(at), rows },
        }),
    }],
    backward(gradients) {
      const [qGradient, tokensGradient] = [gradients.of(q.to), gradients.of(tokens)];
      if (qGradient === undefined || tokensGradient === undefined) return;
      const qChange = gradients.change(qGradient, q.from);
      const kvChange = gradients.change(tokensGradient, kv);
      gradients.emit({
        reads: [kv, cosSin],
        changes: [qChange, kvChange],
        acts: true,
        record: (ops, at) =>
          ops.rotateAndCacheLatentBackward({
            ...{ kv: at(kv), latentNorm, heads, nopeDim, cosSin: at(cosSin), pairing },
            ...{ qGradient: at(qChange.to), tokensGradient: at(kvChange.to) },
            ...{ kvGradient: at(kvChange.to), rows },
          }),
      });
    },
  };
  return { node, cached: { layer, tokens } };
}

export function latentAttentionNode(
  scope: Scope,
  { params, cached }: { params: LatentAttentionParams; cached: CachedTokens | null },
): Node {
  const { heads, nopeDim, scale, layer, rows } = params;
  const { latentDim } = params.cache;
  if (cached?.layer !== layer) {
    throw new RangeError(
      `cannot record latent attention of layer ${layer}: the cache written last is that of ` +
        `layer ${cached?.layer}, must be its own`,
    );
  }
  const { tokens } = cached;
  const cache = scope.latentCache(params.cache);
  const batch = readBatch(scope, params.batch);
  const latentQuery = scope.read(params.latentQuery);
  const q = scope.read(params.q);
  const out = scope.write(params.out, { rows });
  const common = { heads, nopeDim, scale, rows };
  return single({
    reads: [latentQuery, q, ...batch.values],
    writes: [out],
    record: (ops, at) =>
      ops.latentAttention({
        ...{ ...common, latentQuery: at(latentQuery), q: at(q), cache, layer: 0 },
        ...{ batch: batch.at(at), out: at(out) },
      }),
  }, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    const [positions] = batch.values;
    const made = [latentQuery, q, tokens].map((value) => gradients.contribute(value));
    if (made.some(({ accumulate }) => accumulate)) {
      throw new Error("queries or latents are read by more than attention");
    }
    const [latentQueryGradient, qGradient, tokensGradient] = made.map(({ value }) => value);
    gradients.emit({
      reads: [latentQuery, q, tokens, out, outGradient, positions],
      writes: [latentQueryGradient, qGradient, tokensGradient],
      record: (ops, at) =>
        ops.latentAttentionBackward({
          ...{ ...common, latentQuery: at(latentQuery), q: at(q), tokens: at(tokens) },
          ...{ latentDim, out: at(out), outGradient: at(outGradient) },
          ...{ positions: at(positions), latentQueryGradient: at(latentQueryGradient) },
          ...{ qGradient: at(qGradient), tokensGradient: at(tokensGradient) },
        }),
    });
  });
}
