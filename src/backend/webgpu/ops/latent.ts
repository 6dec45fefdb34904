/** Attention over latents (DeepSeek-V2, section 2.1): all heads share one key, the latent its value. */

import type { LatentAttentionParams, RotateAndCacheLatentParams } from "../../backend.ts";
import { BUILTINS, WORKGROUP } from "../kernel.ts";
import { bufferOf, type GpuLatentCache, latentCacheOf, weightOf } from "../memory.ts";
import { attend } from "./attend.ts";
import { cellBinding, type Cells, readCells } from "./cells.ts";
import type { OpContext } from "./context.ts";
import { KEEP_COMMON, keepCells, keptBinding } from "./kept.ts";
import {
  batchBindings,
  giveBack,
  hold,
  holding,
  LANES,
  normHeld,
  rotateHeld,
  SLOT_OF,
} from "./rotation.ts";

/** A workgroup for each head of a row's queries, and one for what is kept of its token. */
export function rotateAndCacheLatent(
  context: OpContext,
  params: RotateAndCacheLatentParams,
): void {
  const { q, heads, nopeDim, kv, latentNorm, cosSin, pairing, batch, rows } = params;
  const cache = latentCacheOf(params.cache);
  const { type, latentDim, ropeDim } = cache;
  const cells = cellsOf(cache, params.layer);
  const rotary = `(row * ${heads}u + task) * ${nopeDim + ropeDim}u + ${nopeDim}u`;
  const width = latentDim + ropeDim;
  context.run({
    label: `rotateAndCacheLatent ${type}`,
    bindings: [
      { name: "q", buffer: bufferOf(q).memory, write: true },
      { name: "kv", buffer: bufferOf(kv).memory },
      { name: "latent_norm", buffer: weightOf(latentNorm.weight).parts[0].memory },
      { name: "cos_sin", buffer: bufferOf(cosSin).memory },
      keptBinding(cells),
      ...batchBindings(batch),
    ],
    params: { rows, tableWidth: batch.pageTables.width, eps: { f32: latentNorm.eps } },
    workgroups: rows * (heads + 1),
    code: `${holding(width)}${SLOT_OF}${KEEP_COMMON[type]}${keepCells(cells, LANES)}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup / ${heads + 1}u;
  let task = workgroup % ${heads + 1}u;
  if (row >= params.rows) { return; }
  if (task < ${heads}u) {${hold("q", { base: rotary, count: ropeDim })}
    ${rotateHeld({ start: 0, rotaryDim: ropeDim, pairing })}
    ${giveBack("q", { base: rotary, start: 0, count: ropeDim })}
  } else {${hold("kv", { base: `row * ${width}u`, count: width })}
    ${normHeld("latent_norm", { count: latentDim, eps: "params.eps" })}
    ${rotateHeld({ start: latentDim, rotaryDim: ropeDim, pairing })}
    let slot = slot_of(row);
    keep_latent(slot, 0u, 0u, lane);
    keep_rope(slot, 0u, ${latentDim}u, lane);
  }
}`,
  });
}

export function latentAttention(context: OpContext, params: LatentAttentionParams): void {
  const { latentQuery, q, heads, nopeDim, scale, batch, out, rows } = params;
  const cache = latentCacheOf(params.cache);
  const { type, latentDim, ropeDim } = cache;
  const cells = cellsOf(cache, params.layer);
  attend(context, {
    label: `latentAttention ${type}`,
    rows,
    heads,
    kvHeads: 1,
    scale,
    parts: [
      { name: "latent", dim: latentDim, query: latentQuery, headStride: latentDim, start: 0 },
      { name: "rope", dim: ropeDim, query: q, headStride: nopeDim + ropeDim, start: nopeDim },
    ],
    value: { name: "latent", dim: latentDim },
    bindings: [cellBinding(cells)],
    code: readCells(cells),
    batch,
    out: bufferOf(out).memory,
  });
}

function cellsOf(cache: GpuLatentCache, layer: number): Cells {
  const { type, latentDim, ropeDim } = cache;
  return {
    array: "cells",
    type,
    arrays: cache.perLayer[layer],
    vectors: [
      { name: "latent", dim: latentDim, count: 1 },
      { name: "rope", dim: ropeDim, count: 1 },
    ],
  };
}
