/** What an update does to parameters, by AdamW, LAMB and LARS. */

import { CLOCK } from "../../training.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import {
  type Accesses,
  each,
  type Kernel,
  kernel,
  reads,
  total,
  totalMemory,
  writes,
} from "./arrays.ts";
import { roundToHalves } from "./halves.ts";
import { type GpuParameter, gpuParameterOf } from "./parameters.ts";

const THREADS = 256;
/** Numbers that a workgroup takes. */
const CHUNK = 8192;

export function update(
  context: OpContext,
  { rule, parameters, clock }: params.UpdateParams,
): void {
  for (const { parameter: of, rate, decay } of parameters) {
    const parameter = gpuParameterOf(of);
    const step = { parameter, rate, decay, clock };
    if (rule.kind === "lars") stepLars(context, { ...step, rule });
    else stepAdaptive(context, { ...step, rule });
    const { value: from, halves: to, padded: count } = parameter;
    if (to !== null) roundToHalves(context, { from, to, count });
  }
}

type Of<Kind> = Extract<params.UpdateRule, { kind: Kind }>;

interface Step {
  readonly parameter: GpuParameter;
  readonly rate: number;
  readonly decay: number;
  readonly clock: params.UpdateParams["clock"];
}

/** WGSL, for the head of a kernel: nothing is changed where the step is left out. */
const unlessLeftOut = (clock: string) => `if (${clock}[${CLOCK.applies}] == 0.0) { return; }`;

/** WGSL of moment `m` after it took in the gradient, and likewise `v`; declares `step`, AdamW's. */
function adaptive(names: Readonly<Record<"p" | "m" | "v" | "clock", string>>): string {
  const { p, m, v, clock } = names;
  return `
    let deviation = sqrt(${v}[i] / ${clock}[${CLOCK.correction2}]);
    let step = fma(params.decay, ${p}[i],
      ${m}[i] / ${clock}[${CLOCK.correction1}] / (deviation + params.eps));`;
}

function stepAdaptive(
  context: OpContext,
  options: Step & { rule: Of<"adamw" | "lamb"> },
): void {
  const { parameter, rate, decay, clock, rule } = options;
  const arrays = {
    ...{ g: reads(parameter.slot("gradient")), p: writes(parameter.value), clock: reads(clock) },
    ...{ m: writes(parameter.slot("first")), v: writes(parameter.slot("second")) },
  };
  const params = {
    rate: { f32: rate },
    decay: { f32: decay },
    eps: { f32: rule.eps },
    beta1: { f32: rule.beta1 },
    rest1: { f32: 1 - rule.beta1 },
    beta2: { f32: rule.beta2 },
    rest2: { f32: 1 - rule.beta2 },
  };
  const moments = (names: Readonly<Record<keyof typeof arrays, string>>) => `
    let gradient = ${names.g}[i] * ${names.clock}[${CLOCK.factor}];
    ${names.m}[i] = fma(params.beta1, ${names.m}[i], params.rest1 * gradient);
    ${names.v}[i] = fma(params.beta2, ${names.v}[i], params.rest2 * gradient * gradient);`;
  if (rule.kind === "adamw" || decay === 0) {
    each(context, {
      label: rule.kind,
      arrays,
      params,
      count: parameter.padded,
      body: (names) => `
    ${unlessLeftOut(names.clock)}
${moments(names)}
${adaptive(names)}
    ${names.p}[i] = fma(-params.rate * ${names.clock}[${CLOCK.rate}], step, ${names.p}[i]);`,
    });
    return;
  }
  const ratios = trustRatios(context, {
    ...{ parameter, arrays, params, label: "lamb" },
    prepare: (names) => `${unlessLeftOut(names.clock)}`,
    squares: (names) =>
      `${moments(names)}
${adaptive(names)}
    let first = ${names.p}[i];
    let second = step;`,
    ratio: () => "select(1.0, p / q, p > 0.0 && q > 0.0)",
  });
  each(context, {
    label: "lamb",
    arrays: {
      ...arrays,
      m: reads(arrays.m.memory),
      v: reads(arrays.v.memory),
      ratios: reads(ratios),
    },
    params: { ...params, each: parameter.paddedEach },
    count: parameter.padded,
    body: (names) => `
    ${unlessLeftOut(names.clock)}
${adaptive(names)}
    let trust = ${names.ratios}[i / params.each];
    ${names.p}[i] = fma(-params.rate * ${names.clock}[${CLOCK.rate}] * trust, step, ${names.p}[i]);`,
  });
}

function stepLars(context: OpContext, options: Step & { rule: Of<"lars"> }): void {
  const { parameter, rate, decay, clock, rule } = options;
  const arrays = {
    ...{ g: reads(parameter.slot("gradient")), p: writes(parameter.value), clock: reads(clock) },
  };
  const params = {
    rate: { f32: rate },
    decay: { f32: decay },
    trust: { f32: rule.trust },
    momentum: { f32: rule.momentum },
    eps: { f32: rule.eps },
  };
  const ratios = decay === 0 ? null : trustRatios(context, {
    ...{ parameter, arrays, params, label: "lars" },
    prepare: (names) => unlessLeftOut(names.clock),
    squares: (names) => `
    let first = ${names.p}[i];
    let second = ${names.g}[i] * ${names.clock}[${CLOCK.factor}];`,
    ratio: () =>
      `select(1.0, params.trust * p / (q + params.decay * p + params.eps),
      params.trust * p > 0.0 && q > 0.0)`,
  });
  each(context, {
    label: "lars",
    arrays: {
      ...{ ...arrays, m: writes(parameter.slot("first")) },
      ratios: reads(ratios ?? parameter.slot("gradient")),
    },
    params: { ...params, each: parameter.paddedEach },
    count: parameter.padded,
    body: (names) => `
    ${unlessLeftOut(names.clock)}
    let trust = ${ratios === null ? "1.0" : `${names.ratios}[i / params.each]`};
    let gradient = ${names.g}[i] * ${names.clock}[${CLOCK.factor}];
    let moment = fma(params.momentum, ${names.m}[i],
      trust * fma(params.decay, ${names.p}[i], gradient));
    ${names.m}[i] = moment;
    ${names.p}[i] = fma(-params.rate * ${names.clock}[${CLOCK.rate}], moment, ${names.p}[i]);`,
  });
}

type Names<Name extends string> = Readonly<Record<Name, string>>;

/**
 * The trust ratio of each tensor of a parameter: WGSL `squares` declares `first` and `second` of number `i`,
 * `ratio` makes it of their norms over the tensor, `p` and `q`.
 */
function trustRatios<Name extends string>(
  context: OpContext,
  options: {
    label: string;
    parameter: GpuParameter;
    arrays: Accesses<Name>;
    params: Kernel<Name>["params"];
    prepare: (names: Names<Name>) => string;
    squares: (names: Names<Name>) => string;
    ratio: () => string;
  },
): GPUBuffer {
  const { label, parameter, arrays, params, prepare, squares, ratio } = options;
  const { paddedEach: count, names: { length: tensors } } = parameter;
  const chunks = Math.ceil(count / CHUNK);
  const sums = context.scratch("tensors' squares", tensors * chunks * 8);
  const ratios = context.scratch("tensors' ratios", tensors * 4);
  context.run(kernel<Name | "sums">({
    label: `${label}, norms`,
    arrays: { ...arrays, sums: writes(sums) } as Accesses<Name | "sums">,
    params: { each: count, chunks, tensors, ...params },
    workgroups: tensors * chunks,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  let tensor = workgroup / params.chunks;
  if (tensor >= params.tensors) { return; }
  ${prepare(names)}
  let chunk = workgroup % params.chunks;
  var square1 = 0.0;
  var square2 = 0.0;
  let end = min((chunk + 1u) * ${CHUNK}u, params.each);
  for (var place = chunk * ${CHUNK}u + lane; place < end; place += ${THREADS}u) {
    let i = tensor * params.each + place;
${squares(names)}
    square1 = fma(first, first, square1);
    square2 = fma(second, second, square2);
  }
${total("sum1", { threads: THREADS, value: "square1" })}
${total("sum2", { threads: THREADS, value: "square2" })}
  if (lane == 0u) {
    ${names.sums}[workgroup * 2u] = sum1;
    ${names.sums}[workgroup * 2u + 1u] = sum2;
  }`,
  }));
  each(context, {
    label: `${label}, ratios`,
    arrays: { sums: reads(sums), ratios: writes(ratios) },
    params: { chunks, ...params },
    count: tensors,
    body: (names) => `
  var sum1 = 0.0;
  var sum2 = 0.0;
  for (var chunk = i * params.chunks; chunk < (i + 1u) * params.chunks; chunk++) {
    sum1 += ${names.sums}[chunk * 2u];
    sum2 += ${names.sums}[chunk * 2u + 1u];
  }
  let p = sqrt(sum1);
  let q = sqrt(sum2);
  ${names.ratios}[i] = ${ratio()};`,
  });
  return ratios;
}
