/** Records the backward pass of each op: checks it and makes it a closure over its arrays. */

import type { Buffer, Weight } from "../../backend.ts";
import type { TrainingOps } from "../../training.ts";
import type * as params from "../../training_params.ts";
import * as check from "../../training_checks.ts";
import { floats, integers, matrixOf, normOf } from "../memory.ts";
import { dot } from "../ops.ts";
import { checkIndex, rowOf } from "../recorder.ts";
import { type AttentionBackward, attentionBackwardHead, headsOf } from "./attention.ts";
import { balanceLoss } from "./balance.ts";
import { expertsBackward } from "./experts.ts";
import { addWeightsBackward, scoresBackward, scoresOf } from "./gate.ts";
import { LossRecorder } from "./loss_recorder.ts";
import { trainedExpertsOf, trainedOf } from "./parameters.ts";
import {
  addBiasGradient,
  addInputGradient,
  addWeightGradient,
  deliver,
  rowsOf,
} from "./products.ts";
import { normBackward, rotateBack, silu, siluSlope } from "./rows.ts";
import { roundingOf } from "./storage.ts";

export class TrainingRecorder extends LossRecorder implements TrainingOps {
  embedBackward(params: params.EmbedBackwardParams): void {
    check.checkEmbedBackward(params);
    const { scale = 1, rows } = params;
    const table = trainedOf(params.table);
    const ids = integers(params.ids);
    const outGradient = floats(params.outGradient);
    this.steps.push(() => {
      if (table.gradient === null) return;
      for (let t = 0; t < rows; t++) {
        const id = checkIndex("token id", ids[t], table.rows);
        const into = rowOf(table.gradient, id, table.cols);
        const from = rowOf(outGradient, t, table.cols);
        for (const [c, value] of from.entries()) into[c] += scale * value;
      }
    });
  }

  rmsNormBackward(params: params.RmsNormBackwardParams): void {
    check.checkRmsNormBackward(params);
    const { rows } = params;
    const { accumulate } = params.target;
    const { width } = params.x;
    const norm = normOf(params);
    const [x, outGradient] = [params.x, params.outGradient].map(floats);
    const out = floats(params.target.buffer);
    const add = this.#normGradient(params.weight);
    this.steps.push(() => {
      const weightSums = new Float64Array(width);
      for (let t = 0; t < rows; t++) {
        normBackward(norm, {
          x: rowOf(x, t, width),
          gradient: rowOf(outGradient, t, width),
          out: rowOf(out, t, width),
          accumulate,
          weightSums,
        });
      }
      add(weightSums);
    });
  }

  linearBackward(params: params.LinearBackwardParams): void {
    check.checkLinearBackward(params);
    const { rows, target } = params;
    const { width } = params.x;
    const round = roundingOf(this.options.storage);
    const x = rowsOf(floats(params.x), width);
    const out = floats(target.buffer);
    const outputs = params.outputs.map(({ weight, bias, scale = 1, outGradient }) => ({
      weight: matrixOf(weight),
      trained: trainedOf(weight),
      bias: bias && trainedOf(bias),
      scale,
      gradient: rowsOf(floats(outGradient), outGradient.width),
    }));
    this.steps.push(() => {
      const sums = new Float64Array(rows * width);
      for (const { weight, trained, bias, scale, gradient } of outputs) {
        const common = { gradient, factor: () => scale, round, count: rows };
        addInputGradient(weight, { ...common, sums });
        if (trained.gradient !== null) {
          addWeightGradient({ ...shapeOf(trained), values: trained.gradient }, { ...common, x });
        }
        if (bias?.gradient) {
          addBiasGradient(bias.gradient, { gradient, factor: scale, count: rows });
        }
      }
      deliver(sums, { out, accumulate: target.accumulate });
    });
  }

  swigluBackward(params: params.SwigluBackwardParams): void {
    check.checkSwigluBackward(params);
    const [gate, up, outGradient] = [params.gate, params.up, params.outGradient].map(floats);
    const [gateGradient, upGradient] = [params.gateGradient, params.upGradient].map(floats);
    const count = params.rows * params.outGradient.width;
    this.steps.push(() => {
      for (let i = 0; i < count; i++) {
        const [g, u, d] = [gate[i], up[i], outGradient[i]];
        gateGradient[i] = d * u * siluSlope(g);
        upGradient[i] = d * silu(g);
      }
    });
  }

  rotateAndCacheBackward(params: params.RotateAndCacheBackwardParams): void {
    check.checkRotateAndCacheBackward(params);
    const { heads, kvHeads, pairing, rows } = params;
    const cosSins = floats(params.cosSin);
    const sides = [
      { gradient: params.qGradient, count: heads, norm: params.qNorm },
      { gradient: params.kGradient, count: kvHeads, norm: params.kNorm },
    ].map(({ gradient, count, norm }) => ({
      values: floats(gradient),
      count,
      dim: gradient.width / count,
      norm: norm && { ...normOf(norm), x: floats(norm.x), add: this.#normGradient(norm.weight) },
    }));
    this.steps.push(() => {
      for (const { values, count, dim, norm } of sides) {
        const weightSums = new Float64Array(dim);
        for (let i = 0; i < rows * count; i++) {
          const cosSin = rowOf(cosSins, Math.floor(i / count), params.cosSin.width);
          const gradient = rowOf(values, i, dim);
          rotateBack(gradient, { cosSin, pairing });
          if (norm === undefined) continue;
          const x = rowOf(norm.x, i, dim);
          normBackward(norm, { x, gradient, out: gradient, accumulate: false, weightSums });
        }
        norm?.add(weightSums);
      }
    });
  }

  attentionBackward(params: params.AttentionBackwardParams): void {
    check.checkAttentionBackward(params);
    const { heads, kvHeads, scale, window = Infinity } = params;
    const keyDim = params.q.width / heads;
    const valueDim = params.v.width / kvHeads;
    const [q, k, v, out, outGradient] = [
      ...[params.q, params.k, params.v],
      ...[params.out, params.outGradient],
    ].map(floats);
    const qGradient = floats(params.qGradient);
    const queries = { heads, stride: keyDim };
    const keys = { heads: kvHeads, stride: keyDim };
    const values = { heads: kvHeads, stride: valueDim };
    const outs = { heads, stride: valueDim };
    this.#attention(params, () => {
      const kSums = new Float64Array(params.rows * params.k.width);
      const vSums = new Float64Array(params.rows * params.v.width);
      return {
        attention: {
          parts: [{
            dim: keyDim,
            q: headsOf(q, queries),
            k: headsOf(k, keys),
            qGradient: headsOf(qGradient, queries),
            kGradient: headsOf(kSums, keys),
          }],
          ...{ valueDim, v: headsOf(v, values), vGradient: headsOf(vSums, values) },
          ...{ out: headsOf(out, outs), outGradient: headsOf(outGradient, outs) },
          ...{ heads, kvHeads, scale, window },
        },
        deliver() {
          floats(params.kGradient).set(kSums);
          floats(params.vGradient).set(vSums);
        },
      };
    });
  }

  gatherRowsBackward(params: params.GatherRowsBackwardParams): void {
    check.checkGatherRowsBackward(params);
    const { target, targetRows, rows } = params;
    const { width } = target.buffer;
    const indices = integers(params.indices);
    const outGradient = floats(params.outGradient);
    const out = floats(target.buffer);
    this.steps.push(() => {
      if (!target.accumulate) out.fill(0, 0, targetRows * width);
      for (let i = 0; i < rows; i++) {
        const into = rowOf(out, checkIndex("row", indices[i], targetRows), width);
        for (const [c, value] of rowOf(outGradient, i, width).entries()) into[c] += value;
      }
    });
  }

  headLinearBackward(params: params.HeadLinearBackwardParams): void {
    check.checkHeadLinearBackward(params);
    const { xStride, heads, rows, target } = params;
    const weight = matrixOf(params.weight);
    const trained = trainedOf(params.weight);
    const { cols } = weight;
    const outDim = weight.rows / heads;
    const round = roundingOf(this.options.storage);
    const [x, outGradient] = [params.x, params.outGradient].map(floats);
    const out = floats(target.buffer);
    this.steps.push(() => {
      if (!target.accumulate) out.fill(0, 0, rows * heads * xStride);
      for (let h = 0; h < heads; h++) {
        const values = weight.values.subarray(h * outDim * cols, (h + 1) * outDim * cols);
        const start = (width: number) => (t: number) => (t * heads + h) * width;
        const common = {
          gradient: { values: outGradient, start: start(outDim) },
          ...{ factor: () => 1, round, count: rows },
        };
        const sums = new Float64Array(rows * cols);
        addInputGradient({ rows: outDim, cols, values }, { ...common, sums });
        for (let t = 0; t < rows; t++) {
          const into = start(xStride)(t);
          for (let c = 0; c < cols; c++) out[into + c] += sums[t * cols + c];
        }
        if (trained.gradient === null) continue;
        const gradient = trained.gradient.subarray(h * outDim * cols, (h + 1) * outDim * cols);
        const inputs = { values: x, start: start(xStride) };
        addWeightGradient({ rows: outDim, cols, values: gradient }, { ...common, x: inputs });
      }
    });
  }

  rotateAndCacheLatentBackward(params: params.RotateAndCacheLatentBackwardParams): void {
    check.checkRotateAndCacheLatentBackward(params);
    const { heads, nopeDim, pairing, rows } = params;
    const norm = normOf(params.latentNorm);
    const [kv, cosSins, queries] = [params.kv, params.cosSin, params.qGradient].map(floats);
    const [tokens, kvGradient] = [params.tokensGradient, params.kvGradient].map(floats);
    const ropeDim = params.cosSin.width;
    const latentDim = norm.weight.length;
    const width = latentDim + ropeDim;
    const add = this.#normGradient(params.latentNorm.weight);
    this.steps.push(() => {
      const weightSums = new Float64Array(latentDim);
      for (let t = 0; t < rows; t++) {
        const cosSin = rowOf(cosSins, t, ropeDim);
        for (let h = 0; h < heads; h++) {
          const head = rowOf(queries, t * heads + h, nopeDim + ropeDim);
          rotateBack(head.subarray(nopeDim), { cosSin, pairing });
        }
        const out = rowOf(kvGradient, t, width);
        out.set(rowOf(tokens, t, width));
        rotateBack(out.subarray(latentDim), { cosSin, pairing });
        const x = rowOf(kv, t, width);
        normBackward(norm, { x, gradient: out, out, accumulate: false, weightSums });
      }
      add(weightSums);
    });
  }

  latentAttentionBackward(params: params.LatentAttentionBackwardParams): void {
    check.checkLatentAttentionBackward(params);
    const { heads, nopeDim, latentDim, scale, rows } = params;
    const { width } = params.tokens;
    const ropeDim = width - latentDim;
    const [latentQuery, q, tokens] = [params.latentQuery, params.q, params.tokens].map(floats);
    const [out, outGradient] = [params.out, params.outGradient].map(floats);
    const [latentQueryGradient, qGradient] = [params.latentQueryGradient, params.qGradient]
      .map(floats);
    const latents = { heads, stride: latentDim };
    const ropes = { heads, stride: nopeDim + ropeDim, offset: nopeDim };
    const token = { heads: 1, stride: width };
    const ropeKey = { ...token, offset: latentDim };
    this.#attention(params, () => {
      qGradient.fill(0, 0, rows * params.q.width);
      const sums = new Float64Array(rows * width);
      return {
        attention: {
          parts: [{
            dim: latentDim,
            q: headsOf(latentQuery, latents),
            k: headsOf(tokens, token),
            qGradient: headsOf(latentQueryGradient, latents),
            kGradient: headsOf(sums, token),
          }, {
            dim: ropeDim,
            q: headsOf(q, ropes),
            k: headsOf(tokens, ropeKey),
            qGradient: headsOf(qGradient, ropes),
            kGradient: headsOf(sums, ropeKey),
          }],
          ...{ valueDim: latentDim, v: headsOf(tokens, token), vGradient: headsOf(sums, token) },
          ...{ out: headsOf(out, latents), outGradient: headsOf(outGradient, latents) },
          ...{ heads, kvHeads: 1, scale, window: Infinity },
        },
        deliver: () => floats(params.tokensGradient).set(sums),
      };
    });
  }

  gateBackward(params: params.GateBackwardParams): void {
    check.checkGateBackward(params);
    const { score, topK, balance, target, rows } = params;
    const weight = matrixOf(params.weight);
    const trained = trainedOf(params.weight);
    const bias = params.bias && trainedOf(params.bias);
    const { rows: experts, cols: width } = weight;
    const [normed, weightsGradient] = [params.normed, params.weightsGradient].map(floats);
    const expertIds = integers(params.expertIds);
    const out = floats(target.buffer);
    const loss = balance && balanceLoss(balance, { expertIds, topK, experts, rows });
    this.steps.push(() => {
      const gradients = new Float32Array(rows * experts);
      const share = loss?.();
      for (let t = 0; t < rows; t++) {
        const x = rowOf(normed, t, width);
        const logits = Float64Array.from(
          { length: experts },
          (_, e) => dot(weight, { row: e, x, offset: 0 }) + (bias?.stored[e] ?? 0),
        );
        const chosen = rowOf(expertIds, t, topK);
        const scores = scoresOf(logits, { score, chosen });
        const gradient = new Float64Array(experts);
        addWeightsBackward(params, {
          ...{ scores, chosen, scoresGradient: gradient },
          weightsGradient: rowOf(weightsGradient, t, topK),
        });
        share?.add(t, { scores, gradient });
        scoresBackward(scores, { score, gradient });
        gradients.set(gradient, t * experts);
      }
      share?.finish();
      const same = (value: number) => value;
      const common = {
        gradient: rowsOf(gradients, experts),
        ...{ factor: () => 1, round: same, count: rows },
      };
      const sums = new Float64Array(rows * width);
      addInputGradient(weight, { ...common, sums });
      if (trained.gradient !== null) {
        const into = { ...shapeOf(trained), values: trained.gradient };
        addWeightGradient(into, { ...common, x: rowsOf(normed, width) });
      }
      if (bias?.gradient) addBiasGradient(bias.gradient, { ...common, factor: 1 });
      deliver(sums, { out, accumulate: target.accumulate });
    });
  }

  expertsBackward(params: params.ExpertsBackwardParams): void {
    check.checkExpertsBackward(params);
    const { topK, scale = 1, target, rows } = params;
    const { hidden, intermediate } = params.experts;
    const parameters = trainedExpertsOf(params.experts);
    const [x, weights, outGradient] = [params.x, params.weights, params.outGradient].map(floats);
    const [gate, up] = [params.kept.gate, params.kept.up].map(floats);
    const weightsGradient = floats(params.weightsGradient);
    const out = floats(target.buffer);
    const expertIds = integers(params.expertIds);
    const round = roundingOf(this.options.storage);
    this.steps.push(() => {
      const sums = new Float64Array(rows * hidden);
      for (let expert = 0; expert < params.experts.count; expert++) {
        const pairs = Array.from(expertIds.keys()).filter((i) =>
          i < rows * topK && expertIds[i] === expert
        );
        expertsBackward({ parameters, expert, pairs }, {
          ...{ topK, scale, hidden, intermediate, round },
          ...{ x, weights, outGradient, gate, up, weightsGradient, sums },
        });
      }
      deliver(sums, { out, accumulate: target.accumulate });
    });
  }

  /** Runs attention's backward pass over all heads of all rows. */
  #attention(
    { positions: of, heads, rows }: { positions: Buffer; heads: number; rows: number },
    begin: () => { attention: AttentionBackward; deliver: () => void },
  ): void {
    const positions = integers(of);
    this.steps.push(() => {
      const { attention, deliver } = begin();
      for (let row = 0; row < rows; row++) {
        const position = checkIndex("position", positions[row], row + 1);
        for (let head = 0; head < heads; head++) {
          attentionBackwardHead(attention, { row, position, head });
        }
      }
      deliver();
    });
  }

  /** Adds sums to the gradient of a norm's weight, where that is trained. */
  #normGradient(weight: Weight): (sums: Float64Array) => void {
    const trained = trainedOf(weight);
    return (sums) => {
      const { gradient } = trained;
      if (gradient !== null) { for (const [i, sum] of sums.entries()) gradient[i] += sum; }
    };
  }
}

function shapeOf({ rows, cols }: { rows: number; cols: number }): { rows: number; cols: number } {
  return { rows, cols };
}
