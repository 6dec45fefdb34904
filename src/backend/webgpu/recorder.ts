/** Turns op calls into dispatches. */

import type {
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
import type { OpContext } from "./ops/context.ts";
import { experts } from "./ops/experts.ts";
import { gate } from "./ops/gate.ts";
import { latentAttention, rotateAndCacheLatent } from "./ops/latent.ts";
import { gatedLinear, headLinear, linear } from "./ops/linear.ts";
import { embed, gatherRows, rmsNorm } from "./ops/rows.ts";

/** What a recorder gives to its ops, besides the place for their dispatches. */
export type RecorderContext = Omit<OpContext, "run">;

export class GpuRecorder implements Ops {
  readonly dispatches: Dispatch[] = [];
  /** Ops so far. */
  length = 0;
  protected readonly context: OpContext;

  constructor(context: RecorderContext) {
    this.context = { ...context, run: (dispatch) => this.dispatches.push(dispatch) };
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

  #record<P>(op: (context: OpContext, params: P) => void, params: P): void {
    this.length++;
    op(this.context, params);
  }
}
