/**
 * Shape checks of every op, made when it is recorded. A failure is a mistake in the calling code,
 * never in a file or a request, and so a RangeError.
 */

import { RULE_WORDS } from "../sampling/rule.ts";
import type {
  AddParams,
  AttentionParams,
  BatchBuffers,
  Buffer,
  ChooseParams,
  EmbedParams,
  ExpertsParams,
  GatedLinearParams,
  GateParams,
  GatherRowsParams,
  HeadLinearParams,
  LatentAttentionParams,
  LinearParams,
  Norm,
  RmsNormParams,
  RotateAndCacheLatentParams,
  RotateAndCacheParams,
  Weight,
} from "./backend.ts";

export function must(op: string, what: string, is: unknown, right: unknown): void {
  if (is !== right) throw misuse(op, what, is, right);
}

export function misuse(op: string, what: string, is: unknown, right: unknown): RangeError {
  return new RangeError(`cannot record ${op}: ${what} is ${is}, must be ${right}`);
}

export function checkBuffer(
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

export function checkRows(op: string, rows: number): void {
  if (!Number.isInteger(rows) || rows < 1) throw misuse(op, "rows", rows, "a positive integer");
}

export function checkNorm(op: string, norm: Norm | undefined, width: number): void {
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
    checkVector("linear", bias, weight.rows);
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
  const { q, heads, cache, layer, batch, out, window = 1, sinks, rows } = params;
  checkRows("attention", rows);
  checkBuffer("attention", q, { what: "q", kind: "f32", rows, width: heads * cache.keyDim });
  checkBuffer("attention", out, { what: "out", kind: "f32", rows, width: heads * cache.valueDim });
  must("attention", "heads modulo key heads", heads % cache.kvHeads, 0);
  if (!Number.isInteger(window) || window < 1) {
    throw misuse("attention", "window", window, "a positive integer");
  }
  checkVector("attention", sinks, heads);
  checkLayer("attention", layer, cache.layers);
  checkBatch("attention", batch, rows);
}

export function checkGatherRows({ x, indices, out, rows }: GatherRowsParams): void {
  checkRows("gatherRows", rows);
  checkBuffer("gatherRows", x, { what: "x", kind: x.kind, rows: 1 });
  checkBuffer("gatherRows", indices, { what: "indices", kind: "i32", rows });
  const width = indices.width * x.width;
  checkBuffer("gatherRows", out, { what: "out", kind: x.kind, rows, width });
}

export function checkAdd({ x, out, rows }: AddParams): void {
  checkRows("add", rows);
  checkBuffer("add", x, { what: "x", kind: "f32", rows });
  checkBuffer("add", out, { what: "out", kind: "f32", rows, width: x.width });
  if (out === x) throw misuse("add", "the output", "its input", "another buffer");
}

export function checkHeadLinear({ x, xStride, weight, heads, out, rows }: HeadLinearParams): void {
  const op = "headLinear";
  checkRows(op, rows);
  checkBuffer(op, x, { what: "x", kind: "f32", rows, width: heads * xStride });
  if (weight.cols > xStride) {
    throw misuse(op, `the width of ${weight.name}`, weight.cols, `at most xStride, ${xStride}`);
  }
  must(op, `the rows of ${weight.name} modulo heads`, weight.rows % heads, 0);
  checkBuffer(op, out, { what: "out", kind: "f32", rows, width: weight.rows });
  if (out === x) throw misuse(op, "the output", "its input", "another buffer");
}

export function checkRotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
  const { q, heads, nopeDim, kv, latentNorm, cosSin, cache, layer, batch, rows } = params;
  const { latentDim, ropeDim } = cache;
  const op = "rotateAndCacheLatent";
  checkRows(op, rows);
  checkBuffer(op, q, { what: "q", kind: "f32", rows, width: heads * (nopeDim + ropeDim) });
  checkBuffer(op, kv, { what: "kv", kind: "f32", rows, width: latentDim + ropeDim });
  checkNorm(op, latentNorm, latentDim);
  must(op, "the cache's ropeDim modulo 2", ropeDim % 2, 0);
  checkBuffer(op, cosSin, { what: "cosSin", kind: "f32", rows, width: ropeDim });
  checkLayer(op, layer, cache.layers);
  checkBatch(op, batch, rows);
}

export function checkLatentAttention(params: LatentAttentionParams): void {
  const { latentQuery, q, heads, nopeDim, cache, layer, batch, out, rows } = params;
  const { latentDim, ropeDim } = cache;
  const op = "latentAttention";
  checkRows(op, rows);
  checkBuffer(op, latentQuery, {
    what: "latentQuery",
    kind: "f32",
    rows,
    width: heads * latentDim,
  });
  checkBuffer(op, q, { what: "q", kind: "f32", rows, width: heads * (nopeDim + ropeDim) });
  checkBuffer(op, out, { what: "out", kind: "f32", rows, width: heads * latentDim });
  checkLayer(op, layer, cache.layers);
  checkBatch(op, batch, rows);
}

export function checkGate(params: GateParams): void {
  const { x, norm, normed, weight, bias, correctionBias, groups, topK, rows } = params;
  const op = "gate";
  checkRows(op, rows);
  checkBuffer(op, x, { what: "x", kind: "f32", rows });
  checkNorm(op, norm, x.width);
  checkBuffer(op, normed, { what: "normed", kind: "f32", rows, width: x.width });
  if (normed === x) throw misuse(op, "normed", "x", "another buffer");
  checkMatrix(op, weight, x.width);
  checkVector(op, bias, weight.rows);
  checkVector(op, correctionBias, weight.rows);
  checkBuffer(op, params.expertIds, { what: "expertIds", kind: "i32", rows, width: topK });
  checkBuffer(op, params.weights, { what: "weights", kind: "f32", rows, width: topK });
  const { count = 1, used = 1, rank = "max" } = groups ?? {};
  must(op, "experts modulo groups", weight.rows % count, 0);
  const size = weight.rows / count;
  if (rank === "topTwo" && size < 2) throw misuse(op, "experts a group", size, "at least 2");
  checkCount(op, { what: "groups used", is: used, most: count });
  checkCount(op, { what: "topK", is: topK, most: used * size });
}

export function checkExperts(params: ExpertsParams): void {
  const { x, experts, expertIds, weights, topK, out, rows } = params;
  const op = "experts";
  checkRows(op, rows);
  checkBuffer(op, x, { what: "x", kind: "f32", rows, width: experts.hidden });
  checkBuffer(op, expertIds, { what: "expertIds", kind: "i32", rows, width: topK });
  checkBuffer(op, weights, { what: "weights", kind: "f32", rows, width: topK });
  checkBuffer(op, out, { what: "out", kind: "f32", rows, width: experts.hidden });
  if (out === x) throw misuse(op, "the output", "its input", "another buffer");
}

export function checkChoose(params: ChooseParams): void {
  const { logits, sequences, ids, latest, history, turn, stride, sampling, rows } = params;
  const op = "choose";
  checkRows(op, rows);
  checkBuffer(op, logits, { what: "logits", kind: "f32", rows });
  checkBuffer(op, sequences, { what: "sequences", kind: "i32", rows, width: 1 });
  checkBuffer(op, ids, { what: "ids", kind: "i32", rows, width: 1 });
  checkBuffer(op, latest, { what: "latest", kind: "i32", rows: 1, width: 1 });
  checkBuffer(op, history, { what: "history", kind: "i32", rows: stride, width: 1 });
  checkBuffer(op, turn, { what: "turn", kind: "i32", rows: 1, width: 1 });
  if (rows > stride) throw misuse(op, "rows", rows, `at most the stride, ${stride}`);
  if (sampling === undefined) return;
  const { rules, draws, tallies, biases } = sampling;
  const cells = latest.rows * logits.width;
  checkBuffer(op, rules, { what: "rules", kind: "i32", rows: latest.rows, width: RULE_WORDS });
  checkBuffer(op, draws, { what: "draws", kind: "i32", rows: history.rows, width: 2 });
  checkBuffer(op, tallies, { what: "tallies", kind: "i32", rows: cells, width: 1 });
  checkBuffer(op, biases, { what: "biases", kind: "f32", rows: cells, width: 1 });
}

export function checkCount(
  op: string,
  { what, is, most }: { what: string; is: number; most: number },
) {
  if (!Number.isInteger(is) || is < 1 || is > most) {
    throw misuse(op, what, is, `an integer from 1 to ${most}`);
  }
}

export function checkVector(op: string, vector: Weight | undefined, cols: number): void {
  if (vector === undefined) return;
  must(op, `the rows of ${vector.name}`, vector.rows, 1);
  must(op, `the width of ${vector.name}`, vector.cols, cols);
}

export function checkMatrix(op: string, weight: Weight, cols: number): void {
  must(op, `the width of ${weight.name}`, weight.cols, cols);
}

function checkLayer(op: string, layer: number, layers: number): void {
  if (!Number.isInteger(layer) || layer < 0 || layer >= layers) {
    throw misuse(op, "layer", layer, `one of the cache's ${layers}`);
  }
}

/** For a handle that another backend has made. */
export function foreign(what: string): RangeError {
  return new RangeError(`cannot use a ${what}: it is another backend's, must be of this one`);
}
