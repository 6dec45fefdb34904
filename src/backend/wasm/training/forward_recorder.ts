/** Records what the forward pass of training has besides the ops of the seam. */

import { UnsupportedOpError } from "../../../errors.ts";
import type { Buffer } from "../../backend.ts";
import * as check from "../../training_checks.ts";
import type * as params from "../../training_params.ts";
import type { Bank } from "../bank.ts";
import { PlanRecorder, type RecorderOptions, vectorIn } from "../recorder.ts";
import { OPCODES } from "./opcodes.ts";
import type { Lookup } from "./parameters.ts";

export interface TrainingRecorderOptions extends RecorderOptions {
  readonly parameterOf: Lookup;
}

export class ForwardRecorder extends PlanRecorder {
  protected readonly bank: Bank;
  protected readonly parameterOf: Lookup;

  constructor(options: TrainingRecorderOptions) {
    super(options);
    this.bank = options.first;
    this.parameterOf = options.parameterOf;
  }

  copy(params: params.CopyParams): void {
    check.checkCopy(params);
    const { from, to, rows } = params;
    this.op(OPCODES.copy, rows, [this.in(from), this.in(to), from.width]);
  }

  fill({ buffer, value }: params.FillParams): void {
    const { rows, width } = buffer;
    this.op(OPCODES.fill, rows, [this.in(buffer), width, this.bits(value)]);
  }

  keepingGatedLinear({ kept, ...params }: params.KeepingGatedLinearParams): void {
    const { x, norm, gate, up, out, rows } = params;
    check.checkKept("keepingGatedLinear", kept, { rows, width: gate.rows });
    const outputs = [{ weight: gate, out: kept.gate }, { weight: up, out: kept.up }];
    this.linear({ x, ...(norm && { norm }), outputs, rows });
    // What the op's own epilogue does with the same two sums.
    this.swiglu({ ...kept, out, rows });
  }

  keepingExperts({ kept, ...params }: params.KeepingExpertsParams): void {
    const { topK, rows, experts } = params;
    check.checkKept("keepingExperts", kept, { rows: rows * topK, width: experts.intermediate });
    this.recordExperts(params, {
      opcode: OPCODES.keepingExperts,
      first: () => [this.in(kept.gate), this.in(kept.up), 1],
    });
  }

  expertGates(params: params.ExpertGatesParams): void {
    check.checkExpertGates(params);
    const { expertIds, kept } = params;
    // Nothing is weighted and nothing answered: any numbers do for the one, any place for the other.
    const unused = { weights: expertIds, out: kept.gate, activation: "silu" } as const;
    this.recordExperts({ ...params, ...unused }, {
      opcode: OPCODES.keepingExperts,
      first: () => [this.in(kept.gate), this.in(kept.up), 0],
    });
  }

  replayGate(params: params.ReplayGateParams): void {
    check.checkReplayGate(params);
    this.recordGate(OPCODES.replayGate, params);
  }

  swiglu(params: params.SwigluParams): void {
    check.checkSwiglu(params);
    const { gate, up, out, rows } = params;
    this.op(OPCODES.swiglu, rows, [this.in(gate), this.in(up), this.in(out), out.width]);
  }

  latentTokens(params: params.LatentTokensParams): void {
    check.checkLatentTokens(params);
    const { kv, latentNorm, cosSin, pairing, out, rows } = params;
    this.op(OPCODES.latentTokens, rows, [
      ...[this.in(kv), kv.width - cosSin.width, cosSin.width],
      ...[vectorIn(latentNorm.weight, this.bank), this.bits(latentNorm.eps)],
      ...[this.in(cosSin), pairing === "interleaved" ? 1 : 0, this.in(out)],
    ]);
  }

  pack(): void {
    throw noHalves();
  }

  unpack(): void {
    throw noHalves();
  }

  protected op(opcode: number, rows: number, fields: readonly number[]): void {
    this.writer.enter(this.bank);
    this.writer.op(opcode, rows, fields);
  }

  /** A buffer's address. All of training happens in one memory, so what it holds is nowhere else. */
  protected in(buffer: Buffer): number {
    this.writer.enter(this.bank);
    return this.writer.update(buffer, buffer.rows);
  }

  protected bits(value: number): number {
    return this.writer.f32(value);
  }
}

export function noHalves(): UnsupportedOpError {
  return new UnsupportedOpError(
    "cannot store activations in halves: the wasm backend's storage must be f32",
  );
}
