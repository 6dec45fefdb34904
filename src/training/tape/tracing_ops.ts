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
    const { orderOf } = this.#trace.options;
    const node = embedNode(this.#trace, { params, orderOf: (ids) => orderOf(ids) });
    this.#trace.add(node, { weights: [params.table] });
  }

  rmsNorm(params: RmsNormParams): void {
    this.#trace.add(rmsNormNode(this.#trace, params), { weights: [params.weight] });
  }

  linear(params: LinearParams): void {
    const { norm, outputs } = params;
    const matrices = outputs.flatMap(({ weight, bias }) => bias ? [weight, bias] : [weight]);
    const weights = norm ? [norm.weight, ...matrices] : matrices;
    this.#trace.add(linearNode(this.#trace, params), { weights });
  }

  gatedLinear(params: GatedLinearParams): void {
    const { norm, gate, up } = params;
    const weights = norm ? [norm.weight, gate, up] : [gate, up];
    this.#trace.add(gatedLinearNode(this.#trace, params), { weights });
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    const { node, cached } = rotateAndCacheNode(this.#trace, params);
    this.#cached = cached;
    const norms = [params.qNorm, params.kNorm].flatMap((norm) => norm ? [norm.weight] : []);
    this.#trace.add(node, { weights: norms });
  }

  attention(params: AttentionParams): void {
    this.#trace.add(attentionNode(this.#trace, { params, cached: this.#cached }));
  }

  gatherRows(params: GatherRowsParams): void {
    this.#trace.add(gatherRowsNode(this.#trace, params));
  }

  headLinear(params: HeadLinearParams): void {
    this.#trace.add(headLinearNode(this.#trace, params), { weights: [params.weight] });
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    const { node, cached } = rotateAndCacheLatentNode(this.#trace, params);
    this.#cachedTokens = cached;
    this.#trace.add(node, { weights: [params.latentNorm.weight] });
  }

  latentAttention(params: LatentAttentionParams): void {
    this.#trace.add(latentAttentionNode(this.#trace, { params, cached: this.#cachedTokens }));
  }

  gate(params: GateParams): void {
    const { norm, weight, bias, correctionBias = null, topK } = params;
    const training = this.#trace.options.gate(this.#trace.gates);
    this.#trace.add(gateNode(this.#trace, { params, training }), {
      weights: bias ? [norm.weight, weight, bias] : [norm.weight, weight],
      gate: { experts: weight.rows, topK, correctionBias },
    });
  }

  experts(params: ExpertsParams): void {
    const node = expertsNode(this.#trace, params);
    this.#trace.add(node, { weights: [], experts: params.experts });
  }

  add(): void {
    throw new UnsupportedOpError("cannot train through add: models join rows by their products");
  }

  choose(): void {
    throw new UnsupportedOpError("cannot train through choose: a choice has no gradient");
  }
}
