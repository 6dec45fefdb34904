/** Records what the forward pass of training has besides the ops of the seam. */

import type * as params from "../../training_params.ts";
import * as check from "../../training_checks.ts";
import { expertsOf, floats, integers, matrixOf, normOf } from "../memory.ts";
import { replayRow } from "../moe.ts";
import { dot, normalise } from "../ops.ts";
import { Recorder, rowOf } from "../recorder.ts";
import type { TrainingOptions } from "./mod.ts";
import { halvesOf } from "./parameters.ts";
import { latentToken, silu } from "./rows.ts";
import { HALVES } from "./storage.ts";

export class ForwardRecorder extends Recorder {
  protected readonly options: TrainingOptions;

  constructor(steps: (() => void)[], options: TrainingOptions) {
    super(steps);
    this.options = options;
  }

  copy(params: params.CopyParams): void {
    check.checkCopy(params);
    const { from, rows } = params;
    const count = rows * from.width;
    if (from.kind === "f32") {
      const [source, target] = [floats(from), floats(params.to)];
      this.steps.push(() => target.set(source.subarray(0, count)));
    } else {
      const [source, target] = [integers(from), integers(params.to)];
      this.steps.push(() => target.set(source.subarray(0, count)));
    }
  }

  fill({ buffer, value }: params.FillParams): void {
    const values = floats(buffer);
    this.steps.push(() => values.fill(value));
  }

  keepingGatedLinear(params: params.KeepingGatedLinearParams): void {
    const { kept, ...plain } = params;
    check.checkKept("keepingGatedLinear", kept, { rows: params.rows, width: params.gate.rows });
    const outputs = [
      { weight: params.gate, out: kept.gate },
      { weight: params.up, out: kept.up },
    ];
    const { x, norm, rows } = plain;
    this.linear({ x, ...(norm && { norm }), outputs, rows });
    this.gatedLinear(plain);
  }

  keepingExperts(params: params.KeepingExpertsParams): void {
    const { kept: _, ...plain } = params;
    this.experts(plain);
    this.expertGates(params);
  }

  expertGates(params: params.ExpertGatesParams): void {
    check.checkExpertGates(params);
    const { topK, kept, rows } = params;
    const { hidden, intermediate } = params.experts;
    const experts = expertsOf(params.experts);
    const [x, gate, up] = [params.x, kept.gate, kept.up].map(floats);
    const expertIds = integers(params.expertIds);
    this.steps.push(() => {
      for (let i = 0; i < rows * topK; i++) {
        const expert = experts[expertIds[i]];
        const offset = Math.floor(i / topK) * hidden;
        for (let row = 0; row < intermediate; row++) {
          gate[i * intermediate + row] = dot(expert.gate, { row, x, offset });
          up[i * intermediate + row] = dot(expert.up, { row, x, offset });
        }
      }
    });
  }

  replayGate(params: params.ReplayGateParams): void {
    check.checkReplayGate(params);
    const { score, topK, normalise: divides, scale, rows } = params;
    const { width } = params.x;
    const norm = normOf(params.norm);
    const rule = {
      weight: matrixOf(params.weight),
      bias: params.bias && matrixOf(params.bias).values,
      correctionBias: undefined,
      score,
      groups: undefined,
      topK,
      normalise: divides,
      scale,
    };
    const [x, normed, weights] = [params.x, params.normed, params.weights].map(floats);
    const expertIds = integers(params.expertIds);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        normalise(norm, { x, offset: t * width, out: normed });
        replayRow(rule, {
          x: rowOf(normed, t, width),
          expertIds: rowOf(expertIds, t, topK),
          weights: rowOf(weights, t, topK),
        });
      }
    });
  }

  swiglu(params: params.SwigluParams): void {
    check.checkSwiglu(params);
    const [gate, up, out] = [params.gate, params.up, params.out].map(floats);
    const count = params.rows * params.out.width;
    this.steps.push(() => {
      for (let i = 0; i < count; i++) out[i] = silu(gate[i]) * up[i];
    });
  }

  latentTokens(params: params.LatentTokensParams): void {
    check.checkLatentTokens(params);
    const { pairing, rows } = params;
    const [kv, cosSins, out] = [params.kv, params.cosSin, params.out].map(floats);
    const norm = normOf(params.latentNorm);
    const { width } = params.kv;
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const cosSin = rowOf(cosSins, t, params.cosSin.width);
        const [from, to] = [rowOf(kv, t, width), rowOf(out, t, width)];
        latentToken(norm, { kv: from, cosSin, pairing, out: to });
      }
    });
  }

  pack({ values: of, half, rows }: params.PackParams): void {
    check.checkPack({ values: of, half, rows });
    const values = floats(of);
    const { bits } = halvesOf(half);
    const type = HALVES[this.halfType()];
    this.steps.push(() => {
      for (let i = 0; i < rows * of.width; i++) bits[i] = type.bits(values[i]);
    });
  }

  unpack({ values: of, half, rows }: params.PackParams): void {
    check.checkPack({ values: of, half, rows });
    const values = floats(of);
    const { bits } = halvesOf(half);
    const type = HALVES[this.halfType()];
    this.steps.push(() => {
      for (let i = 0; i < rows * of.width; i++) values[i] = type.value(bits[i]);
    });
  }

  private halfType(): "f16" | "bf16" {
    const { storage } = this.options;
    if (storage !== "f32") return storage;
    throw new RangeError("cannot record pack: the backend's storage is f32, must be f16 or bf16");
  }
}
