/** The ops that a model's forward pass is given while it is traced. */

import type {
  AttentionParams,
  EmbedParams,
  ExpertsParams,
  GatedLinearParams,
  GateParams,
  GatherRowsParams,
  HeadLinearParams,
  LatentAttentionParams,
  LinearParams,
  Ops,
  RmsNormParams,
  RotateAndCacheLatentParams,
  RotateAndCacheParams,
} from "../../backend/backend.ts";
import { UnsupportedOpError } from "../../errors.ts";
import { attentionNode, type CachedRows, rotateAndCacheNode } from "./rules/attention.ts";
import {
  type CachedTokens,
  latentAttentionNode,
  rotateAndCacheLatentNode,
} from "./rules/latent.ts";
import { expertsNode, gateNode } from "./rules/mixture.ts";
import { gatedLinearNode, headLinearNode, linearNode } from "./rules/products.ts";
import { embedNode, gatherRowsNode, rmsNormNode } from "./rules/rows.ts";
import type { Trace } from "./trace.ts";

export class TracingOps implements Ops {
  readonly #trace: Trace;
  #cached: CachedRows | null = null;
  #cachedTokens: CachedTokens | null = null;

  constructor(trace: Trace) {
    this.#trace = trace;
  }

  embed(params: EmbedParams): void {
    const trace = this.#trace;
    trace.uses(params.table);
    const { orderOf } = trace.options;
    trace.nodes.push(embedNode(trace, { params, orderOf: (ids) => orderOf(ids) }));
  }

  rmsNorm(params: RmsNormParams): void {
    this.#trace.uses(params.weight);
    this.#trace.nodes.push(rmsNormNode(this.#trace, params));
  }

  linear(params: LinearParams): void {
    const { norm, outputs } = params;
    this.#trace.uses(norm?.weight, ...outputs.flatMap(({ weight, bias }) => [weight, bias]));
    this.#trace.nodes.push(linearNode(this.#trace, params));
  }

  gatedLinear(params: GatedLinearParams): void {
    this.#trace.uses(params.norm?.weight, params.gate, params.up);
    this.#trace.nodes.push(gatedLinearNode(this.#trace, params));
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    this.#trace.uses(params.qNorm?.weight, params.kNorm?.weight);
    const { node, cached } = rotateAndCacheNode(this.#trace, params);
    this.#cached = cached;
    this.#trace.nodes.push(node);
  }

  attention(params: AttentionParams): void {
    this.#trace.nodes.push(attentionNode(this.#trace, { params, cached: this.#cached }));
  }

  gatherRows(params: GatherRowsParams): void {
    this.#trace.nodes.push(gatherRowsNode(this.#trace, params));
  }

  headLinear(params: HeadLinearParams): void {
    this.#trace.uses(params.weight);
    this.#trace.nodes.push(headLinearNode(this.#trace, params));
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    this.#trace.uses(params.latentNorm.weight);
    const { node, cached } = rotateAndCacheLatentNode(this.#trace, params);
    this.#cachedTokens = cached;
    this.#trace.nodes.push(node);
  }

  latentAttention(params: LatentAttentionParams): void {
    const cached = this.#cachedTokens;
    this.#trace.nodes.push(latentAttentionNode(this.#trace, { params, cached }));
  }

  gate(params: GateParams): void {
    const trace = this.#trace;
    const { norm, weight, bias, correctionBias = null, topK } = params;
    trace.uses(norm.weight, weight, bias);
    const training = trace.options.gate(trace.gates.length);
    trace.gates.push({ experts: weight.rows, topK, correctionBias });
    trace.nodes.push(gateNode(trace, { params, training }));
  }

  experts(params: ExpertsParams): void {
    this.#trace.experts.add(params.experts);
    this.#trace.nodes.push(expertsNode(this.#trace, params));
  }

  add(): void {
    throw new UnsupportedOpError("cannot train through add: models join rows by their products");
  }

  choose(): void {
    throw new UnsupportedOpError("cannot train through choose: a choice has no gradient");
  }
}
