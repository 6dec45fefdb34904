/** Ops of a backend for the handles of a tape: each is recorded with what its handles stand for. */

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
} from "../../backend/backend.ts";
import { located } from "./handles.ts";

export class LocatedOps implements Ops {
  readonly #ops: Ops;

  constructor(ops: Ops) {
    this.#ops = ops;
  }

  embed(params: EmbedParams): void {
    this.#ops.embed(located(params));
  }

  rmsNorm(params: RmsNormParams): void {
    this.#ops.rmsNorm(located(params));
  }

  linear(params: LinearParams): void {
    this.#ops.linear(located(params));
  }

  gatedLinear(params: GatedLinearParams): void {
    this.#ops.gatedLinear(located(params));
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    this.#ops.rotateAndCache(located(params));
  }

  attention(params: AttentionParams): void {
    this.#ops.attention(located(params));
  }

  gatherRows(params: GatherRowsParams): void {
    this.#ops.gatherRows(located(params));
  }

  headLinear(params: HeadLinearParams): void {
    this.#ops.headLinear(located(params));
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    this.#ops.rotateAndCacheLatent(located(params));
  }

  latentAttention(params: LatentAttentionParams): void {
    this.#ops.latentAttention(located(params));
  }

  gate(params: GateParams): void {
    this.#ops.gate(located(params));
  }

  experts(params: ExpertsParams): void {
    this.#ops.experts(located(params));
  }

  add(params: AddParams): void {
    this.#ops.add(located(params));
  }

  choose(params: ChooseParams): void {
    this.#ops.choose(located(params));
  }
}
