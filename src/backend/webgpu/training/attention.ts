/**
 * The backward pass of attention, without a matrix of probabilities in memory. With
 * p = softmax(scale * q k) and out = p v: dv = p dout, dp = dout v, ds = scale p (dp - dout out),
 * dq = ds k, dk = ds q. One kernel goes over the keys of some queries, and finds their softmax on its way;
 * another goes over the queries of some keys, and computes p and ds anew (`attention_tiles.ts`). So each
 * number has one writer.
 */

import type { Buffer } from "../../backend.ts";
import type {
  AttentionBackwardParams,
  LatentAttentionBackwardParams,
} from "../../training_params.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import type { Attention } from "./attention_layout.ts";
import { gradientTiles, outProducts } from "./attention_tiles.ts";
import { fillValues } from "./rows.ts";
import type { Vectors } from "./vectors.ts";

export function attentionBackward(context: OpContext, params: AttentionBackwardParams): void {
  const { heads, kvHeads, scale, window, positions, rows } = params;
  backward(context, {
    parts: [{
      dim: params.q.width / heads,
      query: vectorsOf(params.q, heads),
      key: vectorsOf(params.k, kvHeads),
    }],
    value: {
      dim: params.v.width / kvHeads,
      query: vectorsOf(params.outGradient, heads),
      key: vectorsOf(params.v, kvHeads),
    },
    out: vectorsOf(params.out, heads),
    queryGradients: [vectorsOf(params.qGradient, heads)],
    keyGradients: [vectorsOf(params.kGradient, kvHeads), vectorsOf(params.vGradient, kvHeads)],
    ...{ heads, kvHeads, scale, window, positions, rows },
  });
}

export function latentAttentionBackward(
  context: OpContext,
  params: LatentAttentionBackwardParams,
): void {
  const { tokens, heads, nopeDim, latentDim, scale, positions, rows } = params;
  const ropeDim = tokens.width - latentDim;
  const queries = bufferOf(params.qGradient).memory;
  fillValues(context, queries, { count: rows * params.q.width, value: 0 });
  const latent = vectorsOf(tokens, 1);
  const latentGradient = vectorsOf(params.tokensGradient, 1);
  backward(context, {
    parts: [
      { dim: latentDim, query: vectorsOf(params.latentQuery, heads), key: latent },
      {
        dim: ropeDim,
        query: vectorsOf(params.q, heads, nopeDim),
        key: vectorsOf(tokens, 1, latentDim),
      },
    ],
    value: { dim: latentDim, query: vectorsOf(params.outGradient, heads), key: latent },
    out: vectorsOf(params.out, heads),
    queryGradients: [
      vectorsOf(params.latentQueryGradient, heads),
      vectorsOf(params.qGradient, heads, nopeDim),
    ],
    keyGradients: [
      latentGradient,
      vectorsOf(params.tokensGradient, 1, latentDim),
      latentGradient,
    ],
    ...{ heads, kvHeads: 1, scale, window: undefined, positions, rows },
  });
}

/** Of each row's `count` heads, what lies `offset` behind its beginning. */
function vectorsOf(buffer: Buffer, count: number, offset = 0): Vectors {
  const { memory } = bufferOf(buffer);
  return { memory, stride: buffer.width, each: buffer.width / count, offset };
}

function backward(context: OpContext, attention: Attention): void {
  const { rows, heads } = attention;
  // Of each row and head: the logarithm of the sum of powers, and dout out.
  const stats = context.scratch("attention's softmax", rows * heads * 8);
  context.run(outProducts(attention, stats));
  context.run(gradientTiles(attention, { stats, of: "queries" }));
  context.run(gradientTiles(attention, { stats, of: "keys" }));
}
