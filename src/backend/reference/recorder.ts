/** Records the reference backend's ops: checks each and makes it a closure over its arrays. */

import {
  type AddParams,
  type AttentionParams,
  type BatchBuffers,
  type Buffer,
  type ChooseParams,
  type EmbedParams,
  type ExpertsParams,
  type GatedLinearParams,
  type GateParams,
  type GatherRowsParams,
  type HeadLinearParams,
  type LatentAttentionParams,
  type LinearParams,
  NO_EXPERT,
  type Norm,
  type Ops,
  PAGE_TOKENS,
  type RmsNormParams,
  type RotateAndCacheLatentParams,
  type RotateAndCacheParams,
} from "../backend.ts";
import * as check from "../op_checks.ts";
import { chooser } from "./choose.ts";
import { roundKept } from "./kept.ts";
import { attendLatentHead, headLinearRow } from "./latent.ts";
import {
  bufferOf,
  expertsOf,
  floats,
  integers,
  latentLayerOf,
  layerOf,
  matrixOf,
  normOf,
} from "./memory.ts";
import { addExpert, routeRow } from "./moe.ts";
import {
  attendHead,
  gatedLinear,
  linear,
  normalise,
  type NormValues,
  rotateHead,
  slotOf,
} from "./ops.ts";

export class Recorder implements Ops {
  protected readonly steps: (() => void)[];

  constructor(steps: (() => void)[]) {
    this.steps = steps;
  }

  embed(params: EmbedParams): void {
    check.checkEmbed(params);
    const { rows, scale = 1 } = params;
    const table = matrixOf(params.table);
    const ids = integers(params.ids);
    const out = floats(params.out);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const id = checkIndex("token id", ids[t], table.rows);
        const embedding = table.values.subarray(id * table.cols, (id + 1) * table.cols);
        out.set(embedding.map((value) => value * scale), t * table.cols);
      }
    });
  }

  rmsNorm(params: RmsNormParams): void {
    check.checkRmsNorm(params);
    const norm = normOf(params);
    const x = floats(params.x);
    const out = floats(params.out);
    this.steps.push(() => {
      for (let t = 0; t < params.rows; t++) {
        normalise(norm, { x, offset: t * params.x.width, out });
      }
    });
  }

  linear(params: LinearParams): void {
    check.checkLinear(params);
    const { rows } = params;
    const outputs = params.outputs.map(({ weight, bias, out, accumulate = false, scale = 1 }) => ({
      weight: matrixOf(weight),
      bias: bias && matrixOf(bias).values,
      out: floats(out),
      accumulate,
      scale,
    }));
    const prepare = inputOf(params);
    this.steps.push(() => {
      const x = prepare();
      for (const { weight, ...output } of outputs) linear(weight, { ...output, x, rows });
    });
  }

  gatedLinear(params: GatedLinearParams): void {
    check.checkGatedLinear(params);
    const { rows } = params;
    const weights = { gate: matrixOf(params.gate), up: matrixOf(params.up) };
    const out = floats(params.out);
    const prepare = inputOf(params);
    this.steps.push(() => gatedLinear(weights, { x: prepare(), out, rows }));
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    check.checkRotateAndCache(params);
    const { heads, pairing, rows } = params;
    const { kvHeads, keyDim, valueDim } = params.cache;
    const [q, k, v, cosSins] = [params.q, params.k, params.v, params.cosSin].map(floats);
    const qNorm = params.qNorm && normOf(params.qNorm);
    const kNorm = params.kNorm && normOf(params.kNorm);
    const { keys, values } = layerOf(params.cache, params.layer);
    const slots = slotsOf(params.cache, params.batch);
    const keep = (vector: Float32Array, place: Float32Array) => {
      place.set(vector);
      roundKept(params.cache.type, place);
    };
    const rotary = params.cosSin.width;
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const cosSin = cosSins.subarray(t * rotary, (t + 1) * rotary);
        const rotate = (x: Float32Array, at: number, norm: NormValues | undefined) => {
          const head = x.subarray(at * keyDim, (at + 1) * keyDim);
          if (norm !== undefined) normalise(norm, { x: head, offset: 0, out: head });
          rotateHead(head, { cosSin, pairing });
        };
        for (let h = 0; h < heads; h++) rotate(q, t * heads + h, qNorm);
        for (let h = 0; h < kvHeads; h++) rotate(k, t * kvHeads + h, kNorm);
        const { pageTable, position } = slots(t);
        const slot = slotOf(pageTable, position);
        for (let h = 0; h < kvHeads; h++) {
          const row = t * kvHeads + h;
          const place = slot * kvHeads + h;
          keep(rowOf(k, row, keyDim), rowOf(keys, place, keyDim));
          keep(rowOf(v, row, valueDim), rowOf(values, place, valueDim));
        }
      }
    });
  }

  attention(params: AttentionParams): void {
    check.checkAttention(params);
    const { heads, scale, window = Infinity, rows } = params;
    const { kvHeads, keyDim, valueDim } = params.cache;
    const q = floats(params.q);
    const out = floats(params.out);
    const sinks = params.sinks && matrixOf(params.sinks).values;
    const cache = layerOf(params.cache, params.layer);
    const slots = slotsOf(params.cache, params.batch);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const { pageTable, position } = slots(t);
        for (let h = 0; h < heads; h++) {
          const row = t * heads + h;
          attendHead(cache, {
            q: q.subarray(row * keyDim, (row + 1) * keyDim),
            // Consecutive heads share a head of keys and values.
            kvHead: Math.floor(h / (heads / kvHeads)),
            scale,
            pageTable,
            position,
            window,
            sink: sinks?.[h],
            out: out.subarray(row * valueDim, (row + 1) * valueDim),
          });
        }
      }
    });
  }

  gatherRows(params: GatherRowsParams): void {
    check.checkGatherRows(params);
    const { width } = params.x;
    const count = params.rows * params.indices.width;
    const x = bufferOf(params.x).values;
    const out = bufferOf(params.out).values;
    const indices = integers(params.indices);
    this.steps.push(() => {
      for (let i = 0; i < count; i++) {
        const row = checkIndex("row", indices[i], params.x.rows);
        out.set(x.subarray(row * width, (row + 1) * width), i * width);
      }
    });
  }

  add(params: AddParams): void {
    check.checkAdd(params);
    const count = params.rows * params.x.width;
    const [x, out] = [params.x, params.out].map(floats);
    this.steps.push(() => {
      for (let i = 0; i < count; i++) out[i] += x[i];
    });
  }

  headLinear(params: HeadLinearParams): void {
    check.checkHeadLinear(params);
    const { xStride, heads, rows } = params;
    const weight = matrixOf(params.weight);
    const x = floats(params.x);
    const out = floats(params.out);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        headLinearRow(weight, {
          x: rowOf(x, t, heads * xStride),
          xStride,
          heads,
          out: rowOf(out, t, weight.rows),
        });
      }
    });
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    check.checkRotateAndCacheLatent(params);
    const { heads, nopeDim, pairing, rows } = params;
    const { latentDim, ropeDim } = params.cache;
    const [q, kv, cosSins] = [params.q, params.kv, params.cosSin].map(floats);
    const norm = normOf(params.latentNorm);
    const { tokens } = latentLayerOf(params.cache, params.layer);
    const slots = slotsOf(params.cache, params.batch);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const cosSin = rowOf(cosSins, t, ropeDim);
        for (let h = 0; h < heads; h++) {
          const head = rowOf(q, t * heads + h, nopeDim + ropeDim);
          rotateHead(head.subarray(nopeDim), { cosSin, pairing });
        }
        const token = rowOf(kv, t, latentDim + ropeDim).slice();
        normalise(norm, { x: token, offset: 0, out: token });
        rotateHead(token.subarray(latentDim), { cosSin, pairing });
        roundKept(params.cache.type, token.subarray(0, latentDim));
        roundKept(params.cache.type, token.subarray(latentDim));
        const { pageTable, position } = slots(t);
        tokens.set(token, slotOf(pageTable, position) * token.length);
      }
    });
  }

  latentAttention(params: LatentAttentionParams): void {
    check.checkLatentAttention(params);
    const { heads, nopeDim, scale, rows } = params;
    const { latentDim, ropeDim } = params.cache;
    const [latentQuery, q, out] = [params.latentQuery, params.q, params.out].map(floats);
    const layer = latentLayerOf(params.cache, params.layer);
    const slots = slotsOf(params.cache, params.batch);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const { pageTable, position } = slots(t);
        for (let h = 0; h < heads; h++) {
          const head = t * heads + h;
          attendLatentHead(layer, {
            latentQuery: rowOf(latentQuery, head, latentDim),
            ropeQuery: rowOf(q, head, nopeDim + ropeDim).subarray(nopeDim),
            scale,
            pageTable,
            position,
            out: rowOf(out, head, latentDim),
          });
        }
      }
    });
  }

  gate(params: GateParams): void {
    check.checkGate(params);
    const { score, groups, topK, scale, rows } = params;
    const { width } = params.x;
    const norm = normOf(params.norm);
    const rule = {
      weight: matrixOf(params.weight),
      bias: params.bias && matrixOf(params.bias).values,
      correctionBias: params.correctionBias && matrixOf(params.correctionBias).values,
      score,
      groups,
      topK,
      normalise: params.normalise,
      scale,
    };
    const [x, normed, weights] = [params.x, params.normed, params.weights].map(floats);
    const expertIds = integers(params.expertIds);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        normalise(norm, { x, offset: t * width, out: normed });
        routeRow(rule, {
          x: rowOf(normed, t, width),
          expertIds: rowOf(expertIds, t, topK),
          weights: rowOf(weights, t, topK),
        });
      }
    });
  }

  choose(params: ChooseParams): void {
    check.checkChoose(params);
    this.steps.push(chooser(params, { floats, integers }));
  }

  experts(params: ExpertsParams): void {
    check.checkExperts(params);
    const { activation, topK, scale = 1, rows } = params;
    const { hidden } = params.experts;
    const experts = expertsOf(params.experts);
    const [x, weights, out] = [params.x, params.weights, params.out].map(floats);
    const expertIds = integers(params.expertIds);
    this.steps.push(() => {
      for (const id of expertIds.subarray(0, rows * topK)) {
        if (id !== NO_EXPERT) checkIndex("expert id", id, experts.length);
      }
      for (const [id, expert] of experts.entries()) {
        for (let i = 0; i < rows * topK; i++) {
          if (expertIds[i] !== id) continue;
          const t = Math.floor(i / topK);
          addExpert(expert, {
            x: rowOf(x, t, hidden),
            activation,
            factor: scale * weights[i],
            out: rowOf(out, t, hidden),
          });
        }
      }
    });
  }
}

/** Row `index` of rows of `width`, sharing memory. */
export function rowOf<T extends Float32Array | Int32Array>(
  values: T,
  index: number,
  width: number,
): T {
  return values.subarray(index * width, (index + 1) * width) as T;
}

/** The rows an op works on: the buffer itself, or its rows normalised into a scratch copy. */
function inputOf(params: { x: Buffer; norm?: Norm; rows: number }): () => Float32Array {
  const x = floats(params.x);
  if (params.norm === undefined) return () => x;
  const norm = normOf(params.norm);
  const { width } = params.x;
  return () => {
    const out = new Float32Array(params.rows * width);
    for (let t = 0; t < params.rows; t++) normalise(norm, { x, offset: t * width, out });
    return out;
  };
}

/** Row t's position and page table, read when the plan runs and checked against the cache. */
function slotsOf(
  cache: { readonly pages: number },
  batch: BatchBuffers,
): (t: number) => { pageTable: Int32Array; position: number } {
  const positions = integers(batch.positions);
  const sequences = integers(batch.sequences);
  const tables = integers(batch.pageTables);
  const { rows, width } = batch.pageTables;
  return (t) => {
    const sequence = checkIndex("sequence", sequences[t], rows);
    const position = checkIndex("position", positions[t], width * PAGE_TOKENS);
    const pageTable = tables.subarray(sequence * width, (sequence + 1) * width);
    const used = Math.floor(position / PAGE_TOKENS);
    for (let i = 0; i <= used; i++) checkIndex("page", pageTable[i], cache.pages);
    return { pageTable, position };
  };
}

export function checkIndex(what: string, is: number, count: number): number {
  if (is >= 0 && is < count) return is;
  throw new RangeError(`cannot run a plan: a ${what} is ${is}, must be from 0 to ${count - 1}`);
}
