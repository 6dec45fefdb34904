/** What updates do to parameters on any backend that trains, against PyTorch and timm. */

import { assertAlmostEquals, assertEquals } from "@std/assert";
import {
  CLOCK,
  CLOCK_ROWS,
  type Parameter,
  type TrainingBackend,
} from "../../src/backend/training.ts";
import type { UpdateRule } from "../../src/backend/training_params.ts";
import { matrixOf } from "./_differences.ts";
import { fixtureCases, readJson } from "./_fixtures.ts";

export interface TrainingConformance {
  /** For the tests' names. */
  readonly name: string;
  open(): Promise<TrainingBackend>;
}

/** What an update may be off, in the units of float32's own steps from the same start. */
const TOLERANCE = 4e-7;

export function updateTests({ name, open }: TrainingConformance): void {
  for (const kind of ["adamw", "lamb", "lars"] as const) {
    Deno.test(`${name}: ${kind} steps as its implementation does`, async () => {
      const backend = await open();
      const { arrays, info } = fixtureCases(kind).get(kind)!;
      const tensors = arrays.names.filter((name) => name.startsWith("start."))
        .map((name) => name.slice("start.".length));
      const parameters = new Map<string, Parameter>();
      for (const tensor of tensors) {
        const shape = arrays.shape(`start.${tensor}`);
        const [rows, cols] = shape.length === 1 ? [1, shape[0]] : shape;
        const values = arrays.get(`start.${tensor}`, "F32");
        const weight = await backend.upload(matrixOf(tensor, { rows, cols, values }));
        parameters.set(tensor, backend.parameterOf(weight));
      }
      const all = [...parameters.values()];
      backend.allocateGradients(all, { moments: 2 });
      const rule = ruleOf(kind, info);
      const clock = clockOf(backend, { rate: 1 });
      const [beta1, beta2] = kind === "lars" ? [0, 0] : info.betas;
      const plan = backend.recordTraining((ops) => {
        ops.prepareUpdate({ parameters: all, clock, beta1, beta2 });
        ops.update({
          rule,
          parameters: tensors.map((tensor) => ({
            parameter: parameters.get(tensor)!,
            rate: info.lr[tensor],
            decay: info.weight_decay[tensor],
          })),
          clock,
        });
      });
      for (let step = 1; step <= 3; step++) {
        for (const [tensor, parameter] of parameters) {
          backend.writeParameter(parameter, "gradient", arrays.get(`grad${step}.${tensor}`, "F32"));
        }
        backend.submit(plan);
        for (const [tensor, parameter] of parameters) {
          const actual = await backend.readParameter(parameter, "value");
          const expected = arrays.get(`step${step}.${tensor}.f64`, "F64");
          expected.forEach((value, i) =>
            assertAlmostEquals(
              actual[i],
              value,
              TOLERANCE * Math.max(1, Math.abs(value)),
              `${kind}, step ${step}, ${tensor} at ${i} is ${actual[i]}, must be ${value}`,
            )
          );
        }
      }
      backend.close();
    });
  }

  Deno.test(`${name}: the loss's factor follows GradScaler, and updates that are left out count`, async () => {
    const backend = await open();
    const trace = readJson("loss_scaler.json");
    const start = Float32Array.of(1, 1);
    const weight = await backend.upload(matrixOf("p", { rows: 1, cols: 2, values: start }));
    const parameter = backend.parameterOf(weight);
    backend.allocateGradients([parameter], { moments: 1 });
    const clock = clockOf(backend, { rate: trace.lr, lossScale: trace.init_scale });
    const plan = backend.recordTraining((ops) => {
      ops.prepareUpdate({
        ...{ parameters: [parameter], clock, beta1: 0, beta2: 0 },
        scaling: {
          growth: trace.growth_factor,
          backoff: trace.backoff_factor,
          interval: trace.growth_interval,
        },
      });
      const rule = { kind: "lars", momentum: 0, trust: 1, eps: 0 } as const;
      ops.update({ rule, parameters: [{ parameter, rate: 1, decay: 0 }], clock });
    });
    let skipped = 0;
    for (const step of trace.trace) {
      const before = (await backend.read(clock))[CLOCK.lossScale];
      assertEquals(before, step.scale_before, `factor before step ${step.step}`);
      const gradient = Float32Array.from(trace.grad_unscaled, (g: number) => g * before);
      if (step.found_inf) gradient[1] = Infinity;
      backend.writeParameter(parameter, "gradient", gradient);
      backend.submit(plan);
      if (step.skipped) skipped++;
      const after = await backend.read(clock);
      assertEquals(after[CLOCK.lossScale], step.scale_after, `factor after step ${step.step}`);
      assertEquals(after[CLOCK.skipped], skipped);
      assertEquals(after[CLOCK.updates], step.step + 1 - skipped);
      const values = await backend.readParameter(parameter, "value");
      values.forEach((value, i) =>
        assertAlmostEquals(value, step.param_after[i], 2e-7, `value ${i} after ${step.step}`)
      );
    }
    backend.close();
  });

  Deno.test(`${name}: long gradients are shortened, short ones stay, those of NaN are not applied`, async () => {
    const backend = await open();
    const start = Float32Array.of(1, 2, 3);
    const weight = await backend.upload(matrixOf("p", { rows: 1, cols: 3, values: start }));
    const parameter = backend.parameterOf(weight);
    backend.allocateGradients([parameter], { moments: 1 });
    const clock = clockOf(backend, { rate: 1 });
    const plan = backend.recordTraining((ops) => {
      const parameters = [parameter];
      ops.prepareUpdate({ parameters, clock, maxNorm: 2, beta1: 0, beta2: 0 });
      const rule = { kind: "lars", momentum: 0, trust: 1, eps: 0 } as const;
      ops.update({ rule, parameters: [{ parameter, rate: 1, decay: 0 }], clock });
    });
    const step = async (gradient: number[]) => {
      backend.writeParameter(parameter, "value", start);
      backend.writeParameter(parameter, "gradient", Float32Array.from(gradient));
      backend.submit(plan);
      const values = await backend.readParameter(parameter, "value");
      return { moved: Array.from(values, (value, i) => start[i] - value), norm: await normOf() };
    };
    const normOf = async () => (await backend.read(clock))[CLOCK.norm];
    const long = await step([3, 0, 4]);
    assertAlmostEquals(long.norm, 5, 1e-5);
    [1.2, 0, 1.6].forEach((value, i) => assertAlmostEquals(long.moved[i], value, 1e-5));
    const short = await step([0.5, 0, 0]);
    assertAlmostEquals(short.moved[0], 0.5, 1e-6);
    assertEquals((await step([1, NaN, 1])).moved, [0, 0, 0]);
    backend.close();
  });
}

export function clockOf(
  backend: TrainingBackend,
  { rate, lossScale = 1 }: { rate: number; lossScale?: number },
) {
  const clock = backend.createBuffer({ kind: "f32", rows: CLOCK_ROWS, width: 1 });
  const values = new Float32Array(CLOCK_ROWS);
  values[CLOCK.rate] = rate;
  values[CLOCK.lossScale] = lossScale;
  backend.write(clock, values);
  return clock;
}

// deno-lint-ignore no-explicit-any -- as the fixtures state it
function ruleOf(kind: UpdateRule["kind"], info: any): UpdateRule {
  const { eps } = info;
  if (kind === "lars") return { kind, momentum: info.momentum, trust: info.trust_coeff, eps };
  const [beta1, beta2] = info.betas;
  return { kind, beta1, beta2, eps };
}
