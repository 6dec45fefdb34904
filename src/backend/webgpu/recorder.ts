/** Turns op calls into dispatches. */

import type {
  AddParams,
  AttentionParams,
  ChooseParams,
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
} from "../backend.ts";
import * as check from "../op_checks.ts";
import type { Dispatch } from "./kernel.ts";
import { attention, rotateAndCache } from "./ops/attention.ts";
import { choose } from "./ops/choose.ts";
import type { TableContext } from "./ops/context.ts";
import { experts } from "./ops/experts.ts";
import { gate } from "./ops/gate.ts";
import { latentAttention, rotateAndCacheLatent } from "./ops/latent.ts";
import { gatedLinear, headLinear, linear } from "./ops/linear.ts";
import { add, embed, gatherRows, rmsNorm } from "./ops/rows.ts";

/** What a recorder gives to its ops, besides the place for their dispatches. */
export type RecorderContext = Omit<TableContext, "run" | "rounded">;

export class GpuRecorder implements Ops {
  readonly dispatches: Dispatch[] = [];
  /** Ops so far. */
  length = 0;
  protected readonly context: TableContext;

  constructor(context: RecorderContext) {
    this.context = { ...context, rounded: new Map(), run: (dispatch) => this.#run(dispatch) };
  }

  embed(params: EmbedParams): void {
    check.checkEmbed(params);
    this.#record(embed, params);
  }

  rmsNorm(params: RmsNormParams): void {
    check.checkRmsNorm(params);
    this.#record(rmsNorm, params);
  }

  linear(params: LinearParams): void {
    check.checkLinear(params);
    this.#record(linear, params);
  }

  gatedLinear(params: GatedLinearParams): void {
    check.checkGatedLinear(params);
    this.#record(gatedLinear, params);
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    check.checkRotateAndCache(params);
    this.#record(rotateAndCache, params);
  }

  attention(params: AttentionParams): void {
    check.checkAttention(params);
    this.#record(attention, params);
  }

  gatherRows(params: GatherRowsParams): void {
    check.checkGatherRows(params);
    this.#record(gatherRows, params);
  }

  add(params: AddParams): void {
    check.checkAdd(params);
    this.#record(add, params);
  }

  headLinear(params: HeadLinearParams): void {
    check.checkHeadLinear(params);
    this.#record(headLinear, params);
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    check.checkRotateAndCacheLatent(params);
    this.#record(rotateAndCacheLatent, params);
  }

  latentAttention(params: LatentAttentionParams): void {
    check.checkLatentAttention(params);
    this.#record(latentAttention, params);
  }

  gate(params: GateParams): void {
    check.checkGate(params);
    this.#record(gate, params);
  }

  experts(params: ExpertsParams): void {
    check.checkExperts(params);
    this.#record(experts, params);
  }

  choose(params: ChooseParams): void {
    check.checkChoose(params);
    this.#record(choose, params);
  }

  #run(dispatch: Dispatch): void {
    this.dispatches.push(dispatch);
    const { rounded } = this.context;
    const written = dispatch.bindings.filter(({ write }) => write).map(({ buffer }) => buffer);
    for (const [x, { memory }] of rounded) {
      if (written.includes(x) || written.includes(memory)) rounded.delete(x);
    }
  }

  #record<P>(op: (context: TableContext, params: P) => void, params: P): void {
    this.length++;
    op(this.context, params);
  }
}
