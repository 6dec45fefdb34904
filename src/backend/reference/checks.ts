/**
 * Shape checks of every op, made when it is recorded. A failure is a mistake in the calling code,
 * never in a file or a request, and so a RangeError.
 */

import type {
  AttentionParams,
  BatchBuffers,
  Buffer,
  EmbedParams,
  GatedLinearParams,
  GatherRowsParams,
  LinearParams,
  Norm,
  RmsNormParams,
  RotateAndCacheParams,
  Weight,
} from "../backend.ts";

function must(op: string, what: string, is: unknown, right: unknown): void {
  if (is !== right) throw misuse(op, what, is, right);
}

function misuse(op: string, what: string, is: unknown, right: unknown): RangeError {
  return new RangeError(`cannot record ${op}: ${what} is ${is}, must be ${right}`);
}

function checkBuffer(
  op: string,
  buffer: Buffer,
  want: { what: string; kind: Buffer["kind"]; rows: number; width?: number },
): void {
  must(op, `the kind of ${want.what}`, buffer.kind, want.kind);
  if (want.width !== undefined) must(op, `the width of ${want.what}`, buffer.width, want.width);
  if (want.rows > buffer.rows) {
    throw misuse(op, "rows", want.rows, `at most the ${buffer.rows} of ${want.what}`);
  }
}

function checkRows(op: string, rows: number): void {
  if (!Number.isInteger(rows) || rows < 1) throw misuse(op, "rows", rows, "a positive integer");
}

function checkNorm(op: string, norm: Norm | undefined, width: number): void {
  if (norm === undefined) return;
  must(op, "the norm weight's rows", norm.weight.rows, 1);
  must(op, "the norm weight's width", norm.weight.cols, width);
}

function checkBatch(op: string, batch: BatchBuffers, rows: number): void {
  checkBuffer(op, batch.positions, { what: "positions", kind: "i32", rows, width: 1 });
  checkBuffer(op, batch.sequences, { what: "sequences", kind: "i32", rows, width: 1 });
  checkBuffer(op, batch.pageTables, { what: "page tables", kind: "i32", rows: 1 });
}

export function checkEmbed({ table, ids, out, rows }: EmbedParams): void {
  checkRows("embed", rows);
  checkBuffer("embed", ids, { what: "ids", kind: "i32", rows, width: 1 });
  checkBuffer("embed", out, { what: "out", kind: "f32", rows, width: table.cols });
}

export function checkRmsNorm(params: RmsNormParams): void {
  const { x, out, rows } = params;
  checkRows("rmsNorm", rows);
  checkNorm("rmsNorm", params, x.width);
  checkBuffer("rmsNorm", x, { what: "x", kind: "f32", rows });
  checkBuffer("rmsNorm", out, { what: "out", kind: "f32", rows, width: x.width });
}

export function checkLinear({ x, norm, outputs, rows }: LinearParams): void {
  checkRows("linear", rows);
  checkBuffer("linear", x, { what: "x", kind: "f32", rows });
  checkNorm("linear", norm, x.width);
  for (const { weight, bias, out } of outputs) {
    checkMatrix("linear", weight, x.width);
    checkBuffer("linear", out, { what: "out", kind: "f32", rows, width: weight.rows });
    if (out === x) throw misuse("linear", "an output", "its input", "another buffer");
    if (bias === undefined) continue;
    must("linear", "the bias's rows", bias.rows, 1);
    must("linear", "the bias's width", bias.cols, weight.rows);
  }
  must(
    "linear",
    "the number of distinct outputs",
    new Set(outputs.map((o) => o.out)).size,
    outputs.length,
  );
}

export function checkGatedLinear({ x, norm, gate, up, out, rows }: GatedLinearParams): void {
  checkRows("gatedLinear", rows);
  checkBuffer("gatedLinear", x, { what: "x", kind: "f32", rows });
  checkNorm("gatedLinear", norm, x.width);
  checkMatrix("gatedLinear", gate, x.width);
  checkMatrix("gatedLinear", up, x.width);
  must("gatedLinear", "the rows of up", up.rows, gate.rows);
  checkBuffer("gatedLinear", out, { what: "out", kind: "f32", rows, width: gate.rows });
  if (out === x) throw misuse("gatedLinear", "the output", "its input", "another buffer");
}

export function checkRotateAndCache(params: RotateAndCacheParams): void {
  const { q, k, v, heads, qNorm, kNorm, cosSin, cache, layer, batch, rows } = params;
  const op = "rotateAndCache";
  checkRows(op, rows);
  checkBuffer(op, q, { what: "q", kind: "f32", rows, width: heads * cache.keyDim });
  checkBuffer(op, k, { what: "k", kind: "f32", rows, width: cache.kvHeads * cache.keyDim });
  checkBuffer(op, v, { what: "v", kind: "f32", rows, width: cache.kvHeads * cache.valueDim });
  checkNorm(op, qNorm, cache.keyDim);
  checkNorm(op, kNorm, cache.keyDim);
  checkBuffer(op, cosSin, { what: "cosSin", kind: "f32", rows });
  if (cosSin.width % 2 !== 0 || cosSin.width > cache.keyDim) {
    throw misuse(op, "the width of cosSin", cosSin.width, `even and at most ${cache.keyDim}`);
  }
  checkLayer(op, layer, cache.layers);
  checkBatch(op, batch, rows);
}

export function checkAttention(params: AttentionParams): void {
  const { q, heads, cache, layer, batch, out, rows } = params;
  checkRows("attention", rows);
  checkBuffer("attention", q, { what: "q", kind: "f32", rows, width: heads * cache.keyDim });
  checkBuffer("attention", out, { what: "out", kind: "f32", rows, width: heads * cache.valueDim });
  must("attention", "heads modulo key heads", heads % cache.kvHeads, 0);
  checkLayer("attention", layer, cache.layers);
  checkBatch("attention", batch, rows);
}

export function checkGatherRows({ x, indices, out, rows }: GatherRowsParams): void {
  checkRows("gatherRows", rows);
  checkBuffer("gatherRows", x, { what: "x", kind: "f32", rows: 1 });
  checkBuffer("gatherRows", indices, { what: "indices", kind: "i32", rows, width: 1 });
  checkBuffer("gatherRows", out, { what: "out", kind: "f32", rows, width: x.width });
}

function checkMatrix(op: string, weight: Weight, cols: number): void {
  must(op, `the width of ${weight.name}`, weight.cols, cols);
}

function checkLayer(op: string, layer: number, layers: number): void {
  if (!Number.isInteger(layer) || layer < 0 || layer >= layers) {
    throw misuse(op, "layer", layer, `one of the cache's ${layers}`);
  }
}
