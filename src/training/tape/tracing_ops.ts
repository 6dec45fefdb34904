/** The ops that a model's forward pass is given while it is traced. */

import type {
  AddParams,
  AttentionParams,
  Buffer,
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
  addNode,
  exchangedExpertsNode,
  type HostExperts,
  type HostSum,
  sumGradientsNode,
  sumNode,
  zeroNode,
} from "./rules/exchange.ts";
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

  add(params: AddParams): void {
    this.#trace.add(addNode(this.#trace, params));
  }

  choose(): void {
    throw new UnsupportedOpError("cannot train through choose: a choice has no gradient");
  }

  /** The buffer holds zeros. */
  zero(out: Buffer, rows: number): void {
    this.#trace.add(zeroNode(this.#trace, { out, rows }));
  }

  /** Adds the buffer's numbers up over all who take part. */
  sum(buffer: Buffer, sum: HostSum): void {
    this.#trace.add(sumNode(this.#trace, { buffer, sum }));
  }

  /** Adds up, over all who take part, the gradients of what these buffers hold from here on. */
  sumGradients(buffers: readonly Buffer[], sum: HostSum): void {
    const values = buffers.map((buffer) => this.#trace.read(buffer));
    this.#trace.add(sumGradientsNode(values, sum));
  }

  /** The same for the latents that were cached last. */
  sumCachedGradients(sum: HostSum): void {
    if (this.#cachedTokens === null) throw new Error("no latents have been cached");
    this.#trace.add(sumGradientsNode([this.#cachedTokens.tokens], sum));
  }

  /** Experts of which others hold some; `experts` are the own ones, and answers replace `out`. */
  exchangedExperts(params: ExpertsParams, exchange: HostExperts): void {
    const node = exchangedExpertsNode(this.#trace, { params, exchange });
    this.#trace.add(node, { weights: [], experts: params.experts });
  }
}
