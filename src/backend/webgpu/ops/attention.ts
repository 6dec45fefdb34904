/** Attention over keys and values: heads that share them in groups, windows, sinks. */

import type { AttentionParams, RotateAndCacheParams } from "../../backend.ts";
import { type Binding, BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { bufferOf, type GpuKvCache, kvCacheOf, weightOf } from "../memory.ts";
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

type Part = "queries" | "keys" | "values";

/** In one dispatch where a kernel may see all buffers, which are eleven with norms. */
export function rotateAndCache(context: OpContext, params: RotateAndCacheParams): void {
  let last: Part[] = [];
  for (const part of ["queries", "keys", "values"] as const) {
    const more = [...last, part];
    if (rotation(params, more).bindings.length <= context.maxBindings) {
      last = more;
    } else {
      context.run(rotation(params, last));
      last = [part];
    }
  }
  context.run(rotation(params, last));
}

/** A workgroup for each head of a row of these parts. */
function rotation(params: RotateAndCacheParams, parts: readonly Part[]): Dispatch {
  const { heads, cosSin, pairing, qNorm, kNorm, rows, batch } = params;
  const cache = kvCacheOf(params.cache);
  const { type, kvHeads, keyDim, valueDim } = cache;
  const { keys, values } = cellsOf(cache, params.layer);
  const rotate = rotateHeld({ start: 0, rotaryDim: cosSin.width, pairing });
  const kinds: Record<Part, { count: number; code: string; bindings: Binding[] }> = {
    queries: {
      count: heads,
      code: hold("q", { base: `(row * ${heads}u + head) * ${keyDim}u`, count: keyDim }) +
        (qNorm ? normHeld("q_norm", { count: keyDim, eps: "params.qEps" }) : "") + rotate +
        giveBack("q", {
          base: `(row * ${heads}u + head) * ${keyDim}u`,
          start: 0,
          count: keyDim,
        }),
      bindings: [
        { name: "q", buffer: bufferOf(params.q).memory, write: true },
        ...(qNorm ? [{ name: "q_norm", buffer: weightOf(qNorm.weight).parts[0].memory }] : []),
      ],
    },
    keys: {
      count: kvHeads,
      code: hold("k", { base: `(row * ${kvHeads}u + head) * ${keyDim}u`, count: keyDim }) +
        (kNorm ? normHeld("k_norm", { count: keyDim, eps: "params.kEps" }) : "") + rotate +
        giveBack("k", {
          base: `(row * ${kvHeads}u + head) * ${keyDim}u`,
          start: 0,
          count: keyDim,
        }) +
        `keep_key(slot_of(row), head, 0u, lane);`,
      bindings: [
        { name: "k", buffer: bufferOf(params.k).memory, write: true },
        ...(kNorm ? [{ name: "k_norm", buffer: weightOf(kNorm.weight).parts[0].memory }] : []),
        keptBinding(keys),
      ],
    },
    values: {
      count: kvHeads,
      code: hold("v", { base: `(row * ${kvHeads}u + head) * ${valueDim}u`, count: valueDim }) +
        `keep_value(slot_of(row), head, 0u, lane);`,
      bindings: [
        { name: "v", buffer: bufferOf(params.v).memory },
        keptBinding(values),
      ],
    },
  };
  const [isRotated, isKept] = [parts[0] !== "values", parts.at(-1) !== "queries"];
  let first = 0;
  const branches = parts.map((part) => {
    const { count, code } = kinds[part];
    const branch = `if (task >= ${first}u && task < ${first + count}u) {
    let head = task - ${first}u;${code}
  }`;
    first += count;
    return branch;
  });
  return {
    label: `rotateAndCache ${type}`,
    bindings: [
      ...parts.flatMap((part) => kinds[part].bindings),
      ...(isRotated ? [{ name: "cos_sin", buffer: bufferOf(cosSin).memory }] : []),
      ...(isKept ? batchBindings(batch) : []),
    ],
    params: {
      rows,
      tableWidth: batch.pageTables.width,
      qEps: { f32: qNorm?.eps ?? 0 },
      kEps: { f32: kNorm?.eps ?? 0 },
    },
    workgroups: rows * first,
    code: `${holding(Math.max(keyDim, valueDim))}${isKept ? SLOT_OF : ""}${KEEP_COMMON[type]}
${parts.includes("keys") ? keepCells(keys, LANES) : ""}${
      parts.includes("values") ? keepCells(values, LANES) : ""
    }
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup / ${first}u;
  let task = workgroup % ${first}u;
  if (row >= params.rows) { return; }
  ${branches.join("\n  ")}
}`,
  };
}

export function attention(context: OpContext, params: AttentionParams): void {
  const { q, heads, scale, batch, out, window, sinks, rows } = params;
  const cache = kvCacheOf(params.cache);
  const { type, kvHeads, keyDim, valueDim } = cache;
  const { keys, values } = cellsOf(cache, params.layer);
  attend(context, {
    label: `attention ${type}`,
    rows,
    heads,
    kvHeads,
    scale,
    parts: [{ name: "key", dim: keyDim, query: q, headStride: keyDim, start: 0 }],
    value: { name: "value", dim: valueDim },
    bindings: [cellBinding(keys), cellBinding(values)],
    code: readCells(keys) + readCells(values),
    batch,
    out: bufferOf(out).memory,
    window,
    sinks: sinks && weightOf(sinks).parts[0].memory,
  });
}

function cellsOf(cache: GpuKvCache, layer: number): { keys: Cells; values: Cells } {
  const { type, kvHeads: count, keyDim, valueDim } = cache;
  const { keys, values } = cache.perLayer[layer];
  return {
    keys: { array: "k_cells", type, arrays: keys, vectors: [{ name: "key", dim: keyDim, count }] },
    values: {
      array: "v_cells",
      type,
      arrays: values,
      vectors: [{ name: "value", dim: valueDim, count }],
    },
  };
}
