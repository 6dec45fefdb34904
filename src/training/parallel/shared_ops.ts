/**
 * The ops of a model's part: what parts compute by themselves goes to the tape as it is, and where they
 * meet, sums are put in between. Before a block's first products stands what adds up their inputs'
 * gradients, behind its last one what adds up its outputs (Megatron-LM's f and g). Routed experts that
 * others hold are asked there.
 */

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
  Norm,
  Ops,
  RmsNormParams,
  RotateAndCacheLatentParams,
  RotateAndCacheParams,
  Weight,
} from "../../backend/backend.ts";
import type { HostExperts, HostSum } from "../tape/rules/exchange.ts";
import type { TracingOps } from "../tape/tracing_ops.ts";
import type { Cut } from "./slices.ts";

export interface SharedOpsOptions {
  createBuffer(options: { kind: "f32"; rows: number; width: number }): Buffer;
  cutOf(name: string): Cut | undefined;
  /** Adds up over the parts; null where there is one only. */
  readonly sum: HostSum | null;
  /** Asks all members' experts; null where all are here. */
  readonly exchange: ((params: ExpertsParams) => HostExperts) | null;
}

/** Products of a block that are still to be added up, and then to be added to `out`. */
interface Pending {
  readonly partial: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

export class SharedOps implements Ops {
  readonly #ops: TracingOps;
  readonly #options: SharedOpsOptions;
  readonly #scratch = new Map<string, Buffer>();
  #pending: Pending | null = null;

  constructor(ops: TracingOps, options: SharedOpsOptions) {
    this.#ops = ops;
    this.#options = options;
  }

  embed(params: EmbedParams): void {
    this.#ops.embed(params);
  }

  rmsNorm(params: RmsNormParams): void {
    this.#settle();
    this.#ops.rmsNorm(params);
  }

  linear(params: LinearParams): void {
    const { outputs, rows } = params;
    const of = (cut: Cut | undefined) =>
      outputs.filter(({ weight }) => this.#options.cutOf(weight.name) === cut);
    for (const { accumulate, out, ...output } of of("columns")) {
      if (accumulate !== true) throw new Error(`${output.weight.name} must add to what is there`);
      const { partial, isNew } = this.#partial(out, rows);
      this.#ops.linear({
        ...{ x: params.x, rows },
        outputs: [{ ...output, out: partial, accumulate: !isNew }],
      });
    }
    const whole = of(undefined);
    if (whole.length > 0) {
      this.#settle();
      this.#ops.linear({ ...params, outputs: whole });
    }
    const split = of("rows");
    if (split.length > 0) {
      const x = this.#normed(params, split[0].weight);
      this.#ops.linear({ x, outputs: split, rows });
    }
  }

  gatedLinear(params: GatedLinearParams): void {
    const { norm, ...rest } = params;
    const isCut = this.#options.cutOf(params.gate.name) === "rows";
    // What a gate has normalised is added up there.
    if (!isCut || norm === undefined) return this.#ops.gatedLinear(params);
    const x = this.#normed(params, params.gate);
    this.#ops.gatedLinear({ ...rest, x });
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    this.#ops.rotateAndCache(params);
  }

  attention(params: AttentionParams): void {
    this.#ops.attention(params);
  }

  headLinear(params: HeadLinearParams): void {
    this.#ops.headLinear(params);
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    this.#ops.rotateAndCacheLatent(params);
    // All heads read the latents.
    const { sum } = this.#options;
    if (sum !== null) this.#ops.sumCachedGradients(sum);
  }

  latentAttention(params: LatentAttentionParams): void {
    this.#ops.latentAttention(params);
  }

  gate(params: GateParams): void {
    this.#settle();
    this.#ops.gate(params);
    const { sum } = this.#options;
    if (sum !== null) this.#ops.sumGradients([params.normed, params.weights], sum);
  }

  experts(params: ExpertsParams): void {
    const { exchange, sum } = this.#options;
    const { rows } = params;
    let { out } = params;
    if (sum !== null) {
      const { partial, isNew } = this.#partial(out, rows);
      if (isNew) this.#ops.zero(partial, rows);
      out = partial;
    }
    if (exchange === null) return this.#ops.experts({ ...params, out });
    const answers = this.#buffer("answers", params.out);
    this.#ops.exchangedExperts({ ...params, out: answers }, exchange(params));
    this.#ops.add({ x: answers, out, rows });
  }

  gatherRows(params: GatherRowsParams): void {
    this.#settle();
    this.#ops.gatherRows(params);
  }

  add(params: AddParams): void {
    this.#settle();
    this.#ops.add(params);
  }

  choose(): void {
    this.#ops.choose();
  }

  /** The input of products that are cut by rows, whose gradient is that of all parts' products. */
  #normed({ x, norm, rows }: { x: Buffer; norm?: Norm; rows: number }, { name }: Weight): Buffer {
    this.#settle();
    if (norm === undefined) throw new Error(`${name} must read rows that are normalised`);
    const normed = this.#buffer("normed", x);
    this.#ops.rmsNorm({ ...norm, x, out: normed, rows });
    this.#ops.sumGradients([normed], this.#options.sum!);
    return normed;
  }

  /** Where products that are to be added to `out` wait for each other. */
  #partial(out: Buffer, rows: number): { partial: Buffer; isNew: boolean } {
    if (this.#pending?.out === out) return { partial: this.#pending.partial, isNew: false };
    this.#settle();
    const partial = this.#buffer("partial", out);
    this.#pending = { partial, out, rows };
    return { partial, isNew: true };
  }

  /** Adds up what is pending: somebody is about to read the sum. */
  #settle(): void {
    if (this.#pending === null) return;
    const { partial, out, rows } = this.#pending;
    this.#pending = null;
    this.#ops.sum(partial, this.#options.sum!);
    this.#ops.add({ x: partial, out, rows });
  }

  #buffer(purpose: string, { rows, width }: Buffer): Buffer {
    const key = `${purpose} ${width}`;
    let buffer = this.#scratch.get(key);
    if (buffer === undefined) {
      buffer = this.#options.createBuffer({ kind: "f32", rows, width });
      this.#scratch.set(key, buffer);
    }
    return buffer;
  }
}
