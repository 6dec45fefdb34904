/** Records the backward pass of each op; some are several ops of the kernels. */

import type { Buffer, Norm, Weight } from "../../backend.ts";
import type { TrainingOps } from "../../training.ts";
import * as check from "../../training_checks.ts";
import type * as params from "../../training_params.ts";
import { WasmBuffer } from "../memory.ts";
import { SCORES, vectorIn } from "../recorder.ts";
import { LossRecorder } from "./loss_recorder.ts";
import { OPCODES } from "./opcodes.ts";
import {
  type AttentionFields,
  attentionWords,
  type Heads,
  type InputGradient,
  type MatrixGradient,
  productsWords,
} from "./words.ts";
import type { ExpertPart, WasmTrainedExperts } from "./experts.ts";
import { expertsOf } from "./experts.ts";

const BALANCE = { none: 0, sequence: 1, batch: 2 } as const;

export class TrainingRecorder extends LossRecorder implements TrainingOps {
  embedBackward(params: params.EmbedBackwardParams): void {
    check.checkEmbedBackward(params);
    const { table, ids, outGradient, scale = 1, rows } = params;
    const { gradient } = this.parameterOf(table);
    if (gradient === 0) return;
    this.op(OPCODES.embedBackward, rows, [
      ...[this.in(ids), this.in(outGradient), table.cols],
      ...[table.rows, this.bits(scale), gradient],
    ]);
  }

  rmsNormBackward(params: params.RmsNormBackwardParams): void {
    check.checkRmsNormBackward(params);
    const { x, weight, eps, outGradient, target, rows } = params;
    this.#normBackward({ weight, eps }, {
      ...{ x: this.in(x), gradient: this.in(outGradient), out: this.in(target.buffer) },
      ...{ stride: x.width, accumulate: target.accumulate, rows },
    });
  }

  linearBackward(params: params.LinearBackwardParams): void {
    check.checkLinearBackward(params);
    const { x, outputs, target, rows } = params;
    const groups = { matrices: 1, rows };
    const { width } = x;
    const list = outputs.map(({ weight, scale = 1, outGradient }) => ({
      parameter: this.parameterOf(weight),
      gradient: { at: this.in(outGradient), stride: outGradient.width },
      depth: weight.rows,
      scale,
    }));
    this.#products(
      [{
        groups,
        out: { at: this.in(target.buffer), stride: width },
        cols: width,
        accumulate: target.accumulate,
        terms: list.map(({ parameter, gradient, depth, scale }) => ({
          ...{ gradient, matrix: { at: parameter.master, stride: width }, depth, scale },
        })),
      }],
      list.filter(({ parameter }) => parameter.gradient !== 0).map((output) => ({
        ...{ groups, gradient: output.gradient, x: { at: this.in(x), stride: width } },
        out: { at: output.parameter.gradient, stride: width },
        ...{ rows: output.depth, cols: width, scale: output.scale },
      })),
    );
    for (const { bias, outGradient, scale = 1 } of outputs) {
      if (bias !== undefined) this.#addColumns(bias, { from: outGradient, scale, rows });
    }
  }

  swigluBackward(params: params.SwigluBackwardParams): void {
    check.checkSwigluBackward(params);
    const { gate, up, outGradient, gateGradient, upGradient, rows } = params;
    this.op(OPCODES.swigluBackward, rows, [
      ...[gate, up, outGradient, gateGradient, upGradient].map((buffer) => this.in(buffer)),
      gate.width,
    ]);
  }

  rotateAndCacheBackward(params: params.RotateAndCacheBackwardParams): void {
    check.checkRotateAndCacheBackward(params);
    const { heads, kvHeads, qNorm, kNorm, cosSin, pairing, rows } = params;
    const sides = [
      { gradient: params.qGradient, count: heads, norm: qNorm },
      { gradient: params.kGradient, count: kvHeads, norm: kNorm },
    ];
    for (const { gradient, count, norm } of sides) {
      const at = this.in(gradient);
      const stride = gradient.width / count;
      this.#rotateBack({ at, heads: count, stride, start: 0, cosSin, pairing, rows });
      if (norm === undefined) continue;
      this.#normBackward(norm, {
        ...{ x: this.in(norm.x), gradient: at, out: at, stride },
        ...{ accumulate: false, rows: rows * count },
      });
    }
  }

  attentionBackward(params: params.AttentionBackwardParams): void {
    check.checkAttentionBackward(params);
    const { q, k, v, out, outGradient, heads, kvHeads, scale, window = 0 } = params;
    const [keyDim, valueDim] = [q.width / heads, v.width / kvHeads];
    const vectors = (buffer: Buffer, count: number) => this.#heads(buffer, { count });
    this.#attention(params, {
      ...{ heads, kvHeads, scale, window, valueDim },
      v: vectors(v, kvHeads),
      vGradient: vectors(params.vGradient, kvHeads),
      out: vectors(out, heads),
      outGradient: vectors(outGradient, heads),
      parts: [{
        dim: keyDim,
        q: vectors(q, heads),
        k: vectors(k, kvHeads),
        qGradient: vectors(params.qGradient, heads),
        kGradient: vectors(params.kGradient, kvHeads),
      }],
    });
  }

  gatherRowsBackward(params: params.GatherRowsBackwardParams): void {
    check.checkGatherRowsBackward(params);
    const { indices, outGradient, target, targetRows, rows } = params;
    this.op(OPCODES.gatherBackward, rows, [
      ...[this.in(indices), this.in(outGradient), outGradient.width],
      ...[this.in(target.buffer), targetRows, target.accumulate ? 1 : 0],
    ]);
  }

  headLinearBackward(params: params.HeadLinearBackwardParams): void {
    check.checkHeadLinearBackward(params);
    const { x, xStride, weight, heads, outGradient, target, rows } = params;
    const parameter = this.parameterOf(weight);
    const { cols } = weight;
    const outDim = weight.rows / heads;
    const groups = { matrices: heads, rows };
    const gradient = { at: this.in(outGradient), stride: weight.rows, step: outDim };
    const matrix = (at: number) => ({ at, stride: cols, step: outDim * cols });
    const inputs = (buffer: Buffer) => ({
      ...{ at: this.in(buffer), stride: heads * xStride, step: xStride },
    });
    this.#products(
      [{
        ...{ groups, out: inputs(target.buffer), cols, accumulate: target.accumulate },
        gap: xStride - cols,
        terms: [{ gradient, matrix: matrix(parameter.master), depth: outDim, scale: 1 }],
      }],
      parameter.gradient === 0 ? [] : [{
        ...{ groups, gradient, x: inputs(x), out: matrix(parameter.gradient) },
        ...{ rows: outDim, cols, scale: 1 },
      }],
    );
  }

  rotateAndCacheLatentBackward(params: params.RotateAndCacheLatentBackwardParams): void {
    check.checkRotateAndCacheLatentBackward(params);
    const { kv, latentNorm, heads, nopeDim, cosSin, pairing, rows } = params;
    const { qGradient, tokensGradient, kvGradient } = params;
    const rotation = { cosSin, pairing, rows };
    const stride = nopeDim + cosSin.width;
    this.#rotateBack({ ...rotation, at: this.in(qGradient), heads, stride, start: nopeDim });
    if (kvGradient !== tokensGradient) this.copy({ from: tokensGradient, to: kvGradient, rows });
    const at = this.in(kvGradient);
    const start = kv.width - cosSin.width;
    this.#rotateBack({ ...rotation, at, heads: 1, stride: kv.width, start });
    this.#normBackward(latentNorm, {
      ...{ x: this.in(kv), gradient: at, out: at, stride: kv.width, accumulate: false, rows },
    });
  }

  latentAttentionBackward(params: params.LatentAttentionBackwardParams): void {
    check.checkLatentAttentionBackward(params);
    const { latentQuery, q, tokens, heads, nopeDim, latentDim, scale } = params;
    const { latentQueryGradient, qGradient, tokensGradient } = params;
    const ropeDim = tokens.width - latentDim;
    this.fill({ buffer: qGradient, value: 0 });
    const latents = (buffer: Buffer) => this.#heads(buffer, { count: heads });
    const ropes = (buffer: Buffer) => this.#heads(buffer, { count: heads, offset: nopeDim });
    const token = (buffer: Buffer, offset = 0) => this.#heads(buffer, { count: 1, offset });
    this.#attention(params, {
      ...{ heads, kvHeads: 1, scale, window: 0, valueDim: latentDim },
      ...{ v: token(tokens), vGradient: token(tokensGradient) },
      ...{ out: latents(params.out), outGradient: latents(params.outGradient) },
      parts: [{
        dim: latentDim,
        ...{ q: latents(latentQuery), k: token(tokens) },
        ...{ qGradient: latents(latentQueryGradient), kGradient: token(tokensGradient) },
      }, {
        dim: ropeDim,
        ...{ q: ropes(q), k: token(tokens, latentDim) },
        ...{ qGradient: ropes(qGradient), kGradient: token(tokensGradient, latentDim) },
      }],
    });
  }

  gateBackward(params: params.GateBackwardParams): void {
    check.checkGateBackward(params);
    const { normed, weight, bias, score, topK, normalise, scale, balance, target, rows } = params;
    const parameter = this.parameterOf(weight);
    const { rows: experts, cols } = weight;
    this.bank.reserveScratch({ bytes: 8 * experts });
    const logits = this.#logits({ rows, width: experts });
    this.linear({ x: normed, outputs: [{ weight, ...(bias && { bias }), out: logits }], rows });
    const at = this.in(logits);
    this.op(OPCODES.gateSlopes, rows, [
      ...[at, experts, experts, topK, SCORES[score], normalise ? 1 : 0, this.bits(scale)],
      ...[this.in(params.expertIds), this.in(params.weightsGradient)],
      BALANCE[balance?.over ?? "none"],
      ...(balance
        ? [balance.rowWeights, balance.positions, balance.clock, balance.totals]
          .map((buffer) => this.in(buffer))
        : [0, 0, 0, 0]),
      this.bank.area("gate losses", rows * 4),
    ]);
    const groups = { matrices: 1, rows };
    const gradient = { at, stride: experts };
    this.#products(
      [{
        ...{ groups, out: { at: this.in(target.buffer), stride: cols }, cols },
        accumulate: target.accumulate,
        terms: [{
          ...{ gradient, matrix: { at: parameter.master, stride: cols }, depth: experts, scale: 1 },
        }],
      }],
      parameter.gradient === 0 ? [] : [{
        ...{ groups, gradient, x: { at: this.in(normed), stride: cols } },
        out: { at: parameter.gradient, stride: cols },
        ...{ rows: experts, cols, scale: 1 },
      }],
    );
    if (bias !== undefined) this.#addColumns(bias, { from: logits, scale: 1, rows });
  }

  expertsBackward(params: params.ExpertsBackwardParams): void {
    check.checkExpertsBackward(params);
    const { x, expertIds, weights, topK, scale = 1, outGradient, target, rows } = params;
    const experts = expertsOf(params.experts);
    const { count, hidden, intermediate } = experts;
    const pairs = rows * topK;
    const area = this.bank.area("expert order", (count + 1 + 4 * pairs) * 4);
    const starts = area;
    const [order, tokens, factors, places] = [0, 1, 2, 3]
      .map((i) => area + (count + 1 + i * pairs) * 4);
    this.op(OPCODES.sortExperts, rows, [
      ...[this.in(expertIds), this.in(weights), topK, count, this.bits(scale)],
      ...[starts, order, tokens, factors, places],
    ]);
    const slopes = this.bank.area("expert slopes", 2 * pairs * intermediate * 4);
    const activations = slopes + pairs * intermediate * 4;
    const groups = { matrices: count, rows: pairs, starts };
    const own = (at: number) => ({ at, stride: intermediate });
    const dispatched = (buffer: Buffer) => ({
      ...{ at: this.in(buffer), stride: hidden, index: tokens },
    });
    const { down } = experts.parameters;
    this.#products([{
      ...{ groups, out: own(slopes), cols: intermediate, accumulate: false },
      terms: [{
        gradient: dispatched(outGradient),
        matrix: matrixOf(down.master, { rows: hidden, cols: intermediate }),
        ...{ depth: hidden, scale: 1 },
      }],
    }], []);
    const [gate, up] = [params.kept.gate, params.kept.up].map((buffer) => this.in(buffer));
    this.op(OPCODES.expertSlopes, pairs, [
      ...[order, factors, this.bits(scale), slopes, gate, up, activations, intermediate],
      this.in(params.weightsGradient),
    ]);
    const gathered = this.bank.area("expert gradients", pairs * hidden * 4);
    const inward = { rows: intermediate, cols: hidden };
    const sides = [{ part: "gate", at: gate }, { part: "up", at: up }] as const;
    this.#products([{
      ...{ groups, out: { at: gathered, stride: hidden }, cols: hidden, accumulate: false },
      terms: sides.map(({ part, at }) => ({
        gradient: own(at),
        matrix: matrixOf(experts.parameters[part].master, inward),
        ...{ depth: intermediate, scale: 1 },
      })),
    }], [
      ...sides.flatMap(({ part, at }) =>
        matrixGradient(experts, part, {
          ...{ groups, gradient: own(at), x: dispatched(x), ...inward, scale: 1 },
        })
      ),
      ...matrixGradient(experts, "down", {
        ...{ groups, gradient: dispatched(outGradient), factors, x: own(activations) },
        ...{ rows: hidden, cols: intermediate, scale: 1 },
      }),
    ]);
    this.op(OPCODES.expertGather, rows, [
      ...[topK, places, gathered, hidden, this.in(target.buffer), target.accumulate ? 1 : 0],
    ]);
  }

  #products(inputs: readonly InputGradient[], matrices: readonly MatrixGradient[]): void {
    this.#reserveScratch({ group: 1, rows: 0 });
    const words = productsWords(inputs, matrices, (value) => this.bits(value));
    this.op(OPCODES.products, 0, words);
  }

  #normBackward(
    { weight, eps }: Norm,
    rows: {
      x: number;
      gradient: number;
      out: number;
      stride: number;
      accumulate: boolean;
      rows: number;
    },
  ): void {
    const { x, gradient, out, stride, accumulate } = rows;
    this.op(OPCODES.normBackward, rows.rows, [
      ...[x, gradient, out, stride, weight.cols],
      ...[vectorIn(weight, this.bank), this.bits(eps), accumulate ? 1 : 0],
      this.bank.area("norm factors", rows.rows * 8),
      this.parameterOf(weight).gradient,
    ]);
  }

  #rotateBack(options: {
    at: number;
    heads: number;
    stride: number;
    start: number;
    cosSin: Buffer;
    pairing: "halves" | "interleaved";
    rows: number;
  }): void {
    const { at, heads, stride, start, cosSin, pairing, rows } = options;
    this.op(OPCODES.rotateBack, rows, [
      ...[at, heads, stride, start],
      ...[this.in(cosSin), cosSin.width, pairing === "interleaved" ? 1 : 0],
    ]);
  }

  #attention(
    { positions, rows }: { positions: Buffer; rows: number },
    fields: Omit<AttentionFields, "positions">,
  ): void {
    this.#reserveScratch({ group: fields.heads / fields.kvHeads, rows });
    const words = attentionWords(
      { ...fields, positions: this.in(positions) },
      (value) => this.bits(value),
    );
    this.op(OPCODES.attentionBackward, rows, words);
  }

  /** For products, and for the attention of `group` heads that read the same keys. */
  #reserveScratch({ group, rows }: { group: number; rows: number }): void {
    this.bank.reserveScratch({ bytes: this.bank.kernels.training_scratch_bytes(group, rows) });
  }

  /** A buffer's rows as so many heads, of which the numbers from `offset` on are meant. */
  #heads(buffer: Buffer, { count, offset = 0 }: { count: number; offset?: number }): Heads {
    return {
      at: this.in(buffer) + offset * 4,
      row: buffer.width,
      head: buffer.width / count,
    };
  }

  #addColumns(
    bias: Weight,
    { from, scale, rows }: { from: Buffer; scale: number; rows: number },
  ): void {
    const { gradient } = this.parameterOf(bias);
    if (gradient === 0) return;
    this.op(OPCODES.columnSums, rows, [
      ...[this.in(from), from.width, bias.cols, this.bits(scale), gradient],
    ]);
  }

  /** Room for the logits of a gate; the next gate's take its place. */
  #logits({ rows, width }: { rows: number; width: number }): Buffer {
    const known = this.#logitBuffers.get(width);
    if (known !== undefined && known.rows >= rows) return known;
    const buffer = new WasmBuffer({ kind: "f32", rows, width }, this.bank);
    this.#logitBuffers.set(width, buffer);
    return buffer;
  }

  readonly #logitBuffers = new Map<number, Buffer>();
}

function matrixOf(at: number, { rows, cols }: { rows: number; cols: number }) {
  return { at, stride: cols, step: rows * cols };
}

/** The gradient of one matrix of all experts, where there is room for it. */
function matrixGradient(
  { parameters }: WasmTrainedExperts,
  part: ExpertPart,
  fields: Omit<MatrixGradient, "out">,
): MatrixGradient[] {
  const { gradient } = parameters[part];
  return gradient === 0 ? [] : [{ ...fields, out: matrixOf(gradient, fields) }];
}
