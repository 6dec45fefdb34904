/**
 * Steps of training of made-up models: `deno run -A src/bench/training.ts [--backend webgpu|wasm]
 * [--storage f32|f16] [--shape 10m|dense] [--tokens N] [--length N] [--even] [--steps N] [--kernels]`.
 * Useful work is six operations for each token and parameter that takes part, whatever was computed. The
 * last line is JSON.
 */

import { createWasmTrainingBackend } from "../backend/wasm/training/mod.ts";
import type { TrainingBackend } from "../backend/training.ts";
import { type KernelTime, Profiler } from "../backend/webgpu/profiler.ts";
import {
  choiceFlag,
  type FlagTable,
  helpText,
  integerFlag,
  parseFlags,
  switchFlag,
} from "../cli/flags.ts";
import { OptionError } from "../errors.ts";
import { loadModel } from "../model/registry.ts";
import { initialWeights } from "../training/initial_weights.ts";
import { microBatches } from "../training/phases/micro_batches.ts";
import { TapeBackend } from "../training/tape/mod.ts";
import { F16_LOSS_SCALE, Trainer } from "../training/trainer.ts";
import { formatKernels, kernelFigures } from "./kernel_times.ts";
import { threeDigits } from "./statistics.ts";
import {
  madeUpSamples,
  parametersOf,
  TRAINING_SHAPES,
  type TrainingShape,
} from "./training_shapes.ts";

const SHAPE_NAMES = Object.keys(TRAINING_SHAPES) as TrainingShape[];

const FLAGS = {
  backend: choiceFlag({
    help: "what computes",
    words: ["wasm", "webgpu"],
    fallback: "webgpu",
  }),
  storage: choiceFlag({
    help: "weights and kept activations; halves on webgpu only",
    words: ["f32", "f16"],
    fallback: "f32",
  }),
  shape: choiceFlag({ help: "the model", words: SHAPE_NAMES, fallback: "10m" }),
  vocabulary: integerFlag({ help: "tokens of its vocabulary", min: 2, max: 65536, fallback: 2048 }),
  tokens: integerFlag({ help: "tokens of a step", min: 2, max: 1 << 20, fallback: 32768 }),
  length: integerFlag({ help: "tokens of a sample", min: 2, max: 1024, fallback: 120 }),
  even: switchFlag({ help: "every sample has exactly that length" }),
  steps: integerFlag({ help: "steps that are timed", min: 1, max: 10000, fallback: 20 }),
  threads: integerFlag({
    help: "threads of the wasm backend",
    min: 1,
    max: 64,
    fallback: undefined,
    shown: "one for each core",
  }),
  checkpoint: switchFlag({ help: "run layers again in the backward pass" }),
  kernels: switchFlag({ help: "also time each GPU kernel, in steps of their own" }),
} satisfies FlagTable;

/** Steps before those that are timed: kernels are compiled, clocks rise. */
const WARMING = 2;
/** Steps in which kernels are timed. */
const KERNEL_STEPS = 3;

export interface TrainingBench {
  readonly backend: "wasm" | "webgpu";
  readonly storage: "f32" | "f16";
  readonly shape: TrainingShape;
  readonly vocabulary: number;
  readonly tokens: number;
  readonly length: number;
  readonly even?: boolean;
  readonly steps: number;
  readonly threads: number;
  readonly checkpoint: boolean;
  readonly kernels: boolean;
}

export interface TrainingFigures {
  readonly parameters: number;
  readonly activeParameters: number;
  /** Seconds until the first step's sums were there, and of each one after. */
  readonly firstSeconds: number;
  readonly stepSeconds: number;
  /** Of them, seconds in which the host packs and submits. */
  readonly hostSeconds: number;
  readonly tokensPerSecond: number;
  readonly teraflops: number;
  readonly loss: number;
  /** Bytes of what the forward pass leaves to the backward pass, and of everything. */
  readonly keptBytes: number;
  readonly memoryBytes: number;
  readonly kernels: readonly KernelTime[];
}

/** Trains a made-up model for some steps. */
export async function benchTraining(options: TrainingBench): Promise<TrainingFigures> {
  const { shape, vocabulary, tokens, length, even, steps, checkpoint } = options;
  const profiler = new Profiler();
  profiler.active = false;
  const backend = await openBackend(options, profiler);
  try {
    const config = { ...TRAINING_SHAPES[shape], vocab_size: vocabulary };
    const source = initialWeights(config, { seed: 1 });
    const tape = new TapeBackend(backend);
    const model = await loadModel({
      ...{ source, backend: tape, maxRows: tokens, maxLogitRows: tokens },
    });
    const samples = madeUpSamples({ tokens, length, vocabulary, even });
    const batch = { rows: tokens, logitRows: tokens, sequences: samples.length };
    const trainer = new Trainer({ tape, model }, {
      shape: batch,
      objective: { kind: "likelihood" },
      rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
      parameters: { weightDecay: 0.1 },
      maxNorm: 1,
      checkpoint,
      balance: { over: "sequence", alpha: 1e-4 },
      ...(options.storage === "f16" && F16_LOSS_SCALE),
    });
    const step = () => trainer.step(microBatches(samples, batch), { rate: 1e-3, biasRate: 1e-3 });
    const started = performance.now();
    step();
    await trainer.totals();
    const firstSeconds = (performance.now() - started) / 1000;
    for (let i = 1; i < WARMING; i++) step();
    await trainer.totals();
    const begun = performance.now();
    let host = 0;
    for (let i = 0; i < steps; i++) {
      const before = performance.now();
      step();
      host += performance.now() - before;
    }
    const { loss } = await trainer.totals();
    const stepSeconds = (performance.now() - begun) / 1000 / steps;
    const kernels = options.kernels ? await timeKernels(trainer, { profiler, step }) : [];
    const used = samples.reduce((sum, { inputs }) => sum + inputs.length, 0);
    return {
      parameters: parametersOf(trainer),
      activeParameters: model.activeParameters,
      ...{ firstSeconds, stepSeconds, hostSeconds: host / 1000 / steps, loss, kernels },
      tokensPerSecond: used / stepSeconds,
      teraflops: 6 * model.activeParameters * used / stepSeconds / 1e12,
      keptBytes: trainer.activations.keptBytes,
      memoryBytes: Object.values(backend.memory()).reduce((sum, bytes) => sum + bytes, 0),
    };
  } finally {
    backend.close();
  }
}

async function openBackend(
  { backend, storage, threads }: TrainingBench,
  profiler: Profiler,
): Promise<TrainingBackend> {
  if (backend === "wasm") {
    if (storage === "f16") throw new OptionError("cannot train on wasm in f16, must be f32");
    return await createWasmTrainingBackend({ threads });
  }
  const { createWebGpuTrainingBackend } = await import("../backend/webgpu/training/mod.ts");
  return await createWebGpuTrainingBackend({ profiler, storage });
}

async function timeKernels(
  trainer: Trainer,
  { profiler, step }: { profiler: Profiler; step: () => void },
): Promise<KernelTime[]> {
  profiler.active = true;
  for (let i = 0; i < KERNEL_STEPS; i++) {
    step();
    await trainer.totals();
  }
  const times = await profiler.take();
  profiler.active = false;
  return times;
}

/** Figures for people. */
function report(options: TrainingBench, figures: TrainingFigures): string {
  const mega = (value: number) => `${threeDigits(value / 1e6)} M`;
  const lines = [
    `${options.backend} in ${options.storage}, ${options.shape}: ${
      mega(figures.parameters)
    } parameters, ` +
    `${mega(figures.activeParameters)} active, ${options.tokens} tokens a step ` +
    `in samples of ${options.even ? "" : "about "}${options.length}`,
    `first step ${threeDigits(figures.firstSeconds)} s; ` +
    `a step ${threeDigits(figures.stepSeconds * 1e3)} ms, ` +
    `of it the host ${threeDigits(figures.hostSeconds * 1e3)} ms`,
    `${Math.round(figures.tokensPerSecond)} tokens/s, ` +
    `${threeDigits(figures.teraflops)} TFLOP/s of useful work, loss ${figures.loss.toFixed(4)}`,
    `memory ${threeDigits(figures.memoryBytes / 1e9)} GB, of it ` +
    `${threeDigits(figures.keptBytes / 1e9)} GB for the backward pass`,
  ];
  if (figures.kernels.length > 0) {
    const layers = { steps: KERNEL_STEPS, rows: options.tokens, routed: { layers: 0, topK: 0 } };
    lines.push("", formatKernels(kernelFigures(figures.kernels, layers)));
  }
  return lines.join("\n");
}

async function main(args: readonly string[]): Promise<void> {
  const env = (name: string) => Deno.env.get(name);
  const { values, help } = parseFlags(FLAGS, { command: "training", args, env });
  if (help) {
    const usage = "deno run -A src/bench/training.ts [--shape 10m] [--kernels]";
    console.log(helpText(FLAGS, { usage, about: "Times steps of training." }));
    return;
  }
  const options = { ...values, threads: values.threads ?? navigator.hardwareConcurrency };
  const figures = await benchTraining(options);
  console.log(report(options, figures));
  const { kernels: _, ...rest } = figures;
  console.log(JSON.stringify({ ...options, ...rest }));
}

if (import.meta.main) await main(Deno.args);
