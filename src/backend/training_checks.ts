/** Shape checks of the ops of training, made when they are recorded; as `op_checks.ts`. */

import type { Buffer } from "./backend.ts";
import {
  checkBuffer,
  checkCount,
  checkGate,
  checkMatrix,
  checkNorm,
  checkRows,
  checkVector,
  misuse,
  must,
} from "./op_checks.ts";
import { CLOCK_ROWS, TOTALS_ROWS } from "./training.ts";
import type * as params from "./training_params.ts";

type Want = { rows: number; width?: number };

/** Checks float buffers of one shape. */
function checkFloats(op: string, buffers: Readonly<Record<string, Buffer>>, want: Want): void {
  for (const [what, buffer] of Object.entries(buffers)) {
    checkBuffer(op, buffer, { what, kind: "f32", ...want });
  }
}

function checkIntegers(op: string, buffers: Readonly<Record<string, Buffer>>, want: Want): void {
  for (const [what, buffer] of Object.entries(buffers)) {
    checkBuffer(op, buffer, { what, kind: "i32", ...want });
  }
}

export function checkCopy({ from, to, rows }: params.CopyParams): void {
  checkRows("copy", rows);
  checkBuffer("copy", from, { what: "from", kind: from.kind, rows });
  checkBuffer("copy", to, { what: "to", kind: from.kind, rows, width: from.width });
}

export function checkKept(op: string, kept: params.KeptGate, want: Required<Want>): void {
  checkFloats(op, { gate: kept.gate, up: kept.up }, want);
  if (kept.gate === kept.up) throw misuse(op, "kept.up", "kept.gate", "another buffer");
}

export function checkExpertGates(params: params.ExpertGatesParams): void {
  const { x, experts, expertIds, topK, kept, rows } = params;
  const op = "expertGates";
  checkRows(op, rows);
  checkFloats(op, { x }, { rows, width: experts.hidden });
  checkIntegers(op, { expertIds }, { rows, width: topK });
  checkKept(op, kept, { rows: rows * topK, width: experts.intermediate });
}

export function checkReplayGate(params: params.ReplayGateParams): void {
  checkGate(params);
}

export function checkSwiglu({ gate, up, out, rows }: params.SwigluParams): void {
  checkRows("swiglu", rows);
  checkFloats("swiglu", { gate, up, out }, { rows, width: out.width });
}

export function checkLatentTokens(params: params.LatentTokensParams): void {
  const { kv, latentNorm, cosSin, out, rows } = params;
  const op = "latentTokens";
  checkRows(op, rows);
  checkNorm(op, latentNorm, kv.width - cosSin.width);
  checkFloats(op, { kv, out }, { rows, width: out.width });
  checkFloats(op, { cosSin }, { rows });
}

export function checkPack({ values, half, rows }: params.PackParams): void {
  checkRows("pack", rows);
  checkFloats("pack", { values }, { rows, width: half.width });
  if (rows > half.rows) throw misuse("pack", "rows", rows, `at most the ${half.rows} of half`);
}

export function checkTokenLogProbs(params: params.TokenLogProbsParams): void {
  const { logits, targets, temperature, out, entropy, rows } = params;
  const op = "tokenLogProbs";
  checkTokens(op, { logits, targets, temperature, rows });
  checkFloats(op, { out, ...(entropy && { entropy }) }, { rows, width: 1 });
}

export function checkTokenLogProbsBackward(params: params.TokenLogProbsBackwardParams): void {
  const { logits, logitsGradient, outGradient, rows } = params;
  const op = "tokenLogProbsBackward";
  checkTokens(op, params);
  checkFloats(op, { outGradient }, { rows, width: 1 });
  checkFloats(op, { logitsGradient }, { rows, width: logits.width });
}

function checkTokens(
  op: string,
  params: { logits: Buffer; targets: Buffer; temperature: number; rows: number },
): void {
  const { logits, targets, temperature, rows } = params;
  checkRows(op, rows);
  checkFloats(op, { logits }, { rows });
  checkIntegers(op, { targets }, { rows, width: 1 });
  if (!(temperature > 0)) throw misuse(op, "temperature", temperature, "above 0");
}

export function checkLoss(op: string, params: params.LikelihoodLossParams): void {
  const { logProbs, tokenWeights, clock, gradient, totals, rows } = params;
  checkRows(op, rows);
  checkFloats(op, { logProbs, tokenWeights, gradient }, { rows, width: 1 });
  checkClock(op, clock);
  checkFloats(op, { totals }, { rows: TOTALS_ROWS, width: 1 });
}

export function checkPolicyLoss(params: params.PolicyLossParams): void {
  const { oldLogProbs, advantages, referenceLogProbs, rows } = params;
  checkLoss("policyLoss", params);
  const given = { oldLogProbs, advantages, ...(referenceLogProbs && { referenceLogProbs }) };
  checkFloats("policyLoss", given, { rows, width: 1 });
}

export function checkClock(op: string, clock: Buffer): void {
  checkFloats(op, { clock }, { rows: CLOCK_ROWS, width: 1 });
}

export function checkEmbedBackward(params: params.EmbedBackwardParams): void {
  const { table, ids, order, outGradient, rows } = params;
  const op = "embedBackward";
  checkRows(op, rows);
  checkIntegers(op, { ids, order }, { rows, width: 1 });
  checkFloats(op, { outGradient }, { rows, width: table.cols });
}

export function checkRmsNormBackward(params: params.RmsNormBackwardParams): void {
  const { x, outGradient, target, rows } = params;
  const op = "rmsNormBackward";
  checkRows(op, rows);
  checkNorm(op, params, x.width);
  checkFloats(op, { x, outGradient, target: target.buffer }, { rows, width: x.width });
  if (target.buffer === outGradient && target.accumulate) {
    throw misuse(op, "the target it adds to", "outGradient", "another buffer");
  }
}

export function checkLinearBackward(params: params.LinearBackwardParams): void {
  const { x, outputs, target, rows } = params;
  const op = "linearBackward";
  checkRows(op, rows);
  checkFloats(op, { x, target: target.buffer }, { rows, width: x.width });
  for (const { weight, bias, outGradient } of outputs) {
    checkMatrix(op, weight, x.width);
    checkVector(op, bias, weight.rows);
    checkFloats(op, { outGradient }, { rows, width: weight.rows });
    refuseSame(op, target, { outGradient });
  }
  refuseSame(op, target, { x });
}

export function checkSwigluBackward(params: params.SwigluBackwardParams): void {
  const { gate, up, outGradient, gateGradient, upGradient, rows } = params;
  const op = "swigluBackward";
  checkRows(op, rows);
  const all = { gate, up, outGradient, gateGradient, upGradient };
  checkFloats(op, all, { rows, width: gate.width });
  if (gateGradient === upGradient) {
    throw misuse(op, "upGradient", "gateGradient", "another buffer");
  }
}

export function checkRotateAndCacheBackward(params: params.RotateAndCacheBackwardParams): void {
  const { heads, kvHeads, qGradient, kGradient, qNorm, kNorm, cosSin, rows } = params;
  const op = "rotateAndCacheBackward";
  checkRows(op, rows);
  const dim = qGradient.width / heads;
  checkFloats(op, { qGradient, ...(qNorm && { q: qNorm.x }) }, { rows, width: heads * dim });
  checkFloats(op, { kGradient, ...(kNorm && { k: kNorm.x }) }, { rows, width: kvHeads * dim });
  checkNorm(op, qNorm, dim);
  checkNorm(op, kNorm, dim);
  checkRotary(op, cosSin, { rows, most: dim });
}

export function checkAttentionBackward(params: params.AttentionBackwardParams): void {
  const { q, k, v, out, outGradient, heads, kvHeads, positions, rows } = params;
  const { qGradient, kGradient, vGradient, window = 1 } = params;
  const op = "attentionBackward";
  checkRows(op, rows);
  must(op, "heads modulo key heads", heads % kvHeads, 0);
  const [keyDim, valueDim] = [q.width / heads, v.width / kvHeads];
  checkFloats(op, { q, qGradient }, { rows, width: heads * keyDim });
  checkFloats(op, { k, kGradient }, { rows, width: kvHeads * keyDim });
  checkFloats(op, { v, vGradient }, { rows, width: kvHeads * valueDim });
  checkFloats(op, { out, outGradient }, { rows, width: heads * valueDim });
  checkIntegers(op, { positions }, { rows, width: 1 });
  if (!Number.isInteger(window) || window < 1) {
    throw misuse(op, "window", window, "a positive integer");
  }
}

export function checkGatherRowsBackward(params: params.GatherRowsBackwardParams): void {
  const { indices, outGradient, target, targetRows, rows } = params;
  const op = "gatherRowsBackward";
  checkRows(op, rows);
  checkRows(op, targetRows);
  checkIntegers(op, { indices }, { rows, width: 1 });
  checkFloats(op, { outGradient }, { rows, width: target.buffer.width });
  checkFloats(op, { target: target.buffer }, { rows: targetRows });
}

export function checkHeadLinearBackward(params: params.HeadLinearBackwardParams): void {
  const { x, xStride, weight, heads, outGradient, target, rows } = params;
  const op = "headLinearBackward";
  checkRows(op, rows);
  must(op, `the rows of ${weight.name} modulo heads`, weight.rows % heads, 0);
  if (weight.cols > xStride) throw misuse(op, "xStride", xStride, `at least ${weight.cols}`);
  checkFloats(op, { x, target: target.buffer }, { rows, width: heads * xStride });
  checkFloats(op, { outGradient }, { rows, width: weight.rows });
  refuseSame(op, target, { x, outGradient });
}

export function checkRotateAndCacheLatentBackward(
  params: params.RotateAndCacheLatentBackwardParams,
): void {
  const { kv, latentNorm, heads, nopeDim, cosSin, rows } = params;
  const { qGradient, tokensGradient, kvGradient } = params;
  const op = "rotateAndCacheLatentBackward";
  checkRows(op, rows);
  checkRotary(op, cosSin, { rows, most: kv.width });
  checkNorm(op, latentNorm, kv.width - cosSin.width);
  checkFloats(op, { kv, tokensGradient, kvGradient }, { rows, width: kv.width });
  checkFloats(op, { qGradient }, { rows, width: heads * (nopeDim + cosSin.width) });
}

export function checkLatentAttentionBackward(params: params.LatentAttentionBackwardParams): void {
  const { latentQuery, q, tokens, out, outGradient, heads, nopeDim, latentDim } = params;
  const { positions, latentQueryGradient, qGradient, tokensGradient, rows } = params;
  const op = "latentAttentionBackward";
  checkRows(op, rows);
  const latents = { latentQuery, out, outGradient, latentQueryGradient };
  checkFloats(op, latents, { rows, width: heads * latentDim });
  const stride = nopeDim + tokens.width - latentDim;
  checkFloats(op, { q, qGradient }, { rows, width: heads * stride });
  checkFloats(op, { tokens, tokensGradient }, { rows, width: tokens.width });
  checkIntegers(op, { positions }, { rows, width: 1 });
}

export function checkGateBackward(params: params.GateBackwardParams): void {
  const { normed, weight, bias, topK, expertIds, weightsGradient, balance, target, rows } = params;
  const op = "gateBackward";
  checkRows(op, rows);
  checkMatrix(op, weight, normed.width);
  checkVector(op, bias, weight.rows);
  checkFloats(op, { normed, target: target.buffer }, { rows, width: normed.width });
  checkIntegers(op, { expertIds }, { rows, width: topK });
  checkFloats(op, { weightsGradient }, { rows, width: topK });
  refuseSame(op, target, { normed });
  if (balance === undefined) return;
  checkFloats(op, { rowWeights: balance.rowWeights }, { rows, width: 1 });
  checkIntegers(op, { positions: balance.positions }, { rows, width: 1 });
  checkClock(op, balance.clock);
  checkFloats(op, { totals: balance.totals }, { rows: TOTALS_ROWS, width: 1 });
}

export function checkExpertsBackward(params: params.ExpertsBackwardParams): void {
  const { x, experts, expertIds, weights, topK, kept, outGradient, target, rows } = params;
  const op = "expertsBackward";
  checkRows(op, rows);
  const wide = { x, outGradient, target: target.buffer };
  checkFloats(op, wide, { rows, width: experts.hidden });
  checkIntegers(op, { expertIds }, { rows, width: topK });
  checkFloats(op, { weights, weightsGradient: params.weightsGradient }, { rows, width: topK });
  checkKept(op, kept, { rows: rows * topK, width: experts.intermediate });
  refuseSame(op, target, { x, outGradient });
}

export function checkCountExperts(params: params.CountExpertsParams): void {
  const { expertIds, topK, counted, counts, row, rows } = params;
  const op = "countExperts";
  checkRows(op, rows);
  checkIntegers(op, { expertIds }, { rows, width: topK });
  checkFloats(op, { counted }, { rows, width: 1 });
  checkFloats(op, { counts }, { rows: row + 1 });
}

export function checkUpdateCorrectionBias(params: params.UpdateCorrectionBiasParams): void {
  const { bias, counts, row, rate } = params;
  const op = "updateCorrectionBias";
  must(op, `the rows of ${bias.name}`, bias.rows, 1);
  checkFloats(op, { counts }, { rows: row + 1 });
  checkCount(op, { what: "experts", is: bias.cols, most: counts.width });
  checkFloats(op, { rate }, { rows: 1, width: 1 });
}

function checkRotary(
  op: string,
  cosSin: Buffer,
  { rows, most }: { rows: number; most: number },
): void {
  checkFloats(op, { cosSin }, { rows });
  if (cosSin.width % 2 !== 0 || cosSin.width > most) {
    throw misuse(op, "the width of cosSin", cosSin.width, `even and at most ${most}`);
  }
}

function refuseSame(
  op: string,
  target: params.GradientTarget,
  buffers: Readonly<Record<string, Buffer>>,
): void {
  for (const [what, buffer] of Object.entries(buffers)) {
    if (buffer === target.buffer) throw misuse(op, "the target", what, "another buffer");
  }
}
