/**
 * Prefill and decode of a model on any backend by bare steps: no requests, no text. Where the backend
 * chooses tokens itself answers come in bursts, as the engine has them, and where its kernels can be
 * timed, what each of them takes.
 */

import type { Backend } from "../backend/backend.ts";
import type { HybridTraffic } from "../backend/hybrid/traffic.ts";
import type { KernelTime } from "../backend/webgpu/profiler.ts";
import { BURST_TOKENS } from "../engine/burst.ts";
import type { Choices } from "../engine/choosing.ts";
import { pagesFor } from "../engine/pages.ts";
import { CHOSEN_THERE, type Step, type StepRow } from "../engine/schedule.ts";
import { StepRunner } from "../engine/step_runner.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { loadModel } from "../model/registry.ts";
import { Candidates } from "../sampling/candidates.ts";
import { Sampler } from "../sampling/sampler.ts";
import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import { type KernelFigures, kernelFigures } from "./kernel_times.ts";
import { summarize, type Summary } from "./statistics.ts";

/** What times kernels while it is active. */
export interface KernelClock {
  active: boolean;
  /** What they have taken since the last call. */
  take(): Promise<KernelTime[]>;
}

export interface StepBenchOptions {
  readonly source: TensorSource;
  /** Empty; closed in the end. */
  readonly backend: Backend;
  /** Undefined where kernels can't be timed. */
  readonly clock?: KernelClock;
  /** What a hybrid has counted so far; undefined on other backends. */
  readonly traffic?: () => HybridTraffic;
  /** Lengths of prompts, each computed in steps of up to MOST_ROWS. */
  readonly prefill: readonly number[];
  /** Numbers of sequences decoded side by side, behind prompts of the first length. */
  readonly sequences: readonly number[];
  /** Tokens of each that are timed. */
  readonly decode: number;
  readonly runs: number;
  readonly onProgress?: (line: string) => void;
}

/** One way to use the model. */
export interface StepFigures {
  readonly name: "prefill" | "decode";
  /** Tokens of the prompt, or sequences. */
  readonly count: number;
  /** Tokens a second, those of all sequences together. */
  readonly rate: Summary;
  /** Of one step; undefined where kernels are not timed. */
  readonly kernels?: KernelFigures;
  /** Of one step; undefined but on a hybrid. */
  readonly traffic?: StepTraffic;
}

/** What a step has crossed and waited for. */
export interface StepTraffic {
  readonly crossings: number;
  readonly waitSeconds: number;
  readonly hostSeconds: number;
  /** The share of choices whose experts lay on the GPU, where layers have some on both sides. */
  readonly onDevice: number;
}

export interface StepBench {
  readonly parameters: number;
  readonly activeParameters: number;
  readonly load: { readonly bytes: number; readonly seconds: number };
  readonly memory: { readonly weights: number; readonly kv: number; readonly workspace: number };
  readonly figures: readonly StepFigures[];
}

/** Rows of a step at most. */
const MOST_ROWS = 2048;

/**
 * Compute threads come up between turns of the event loop, a second later at most (Deno 2.9), and neither
 * loading from memory nor the CPU's steps give it one.
 */
const THREADS_MS = 2000;

/** Loads the model and measures it; rejects with the loader's and the backend's errors. */
export async function measureSteps(options: StepBenchOptions): Promise<StepBench> {
  const { source, backend, clock, prefill, sequences, decode, onProgress = () => {} } = options;
  if (clock !== undefined) clock.active = false;
  try {
    const slots = Math.max(1, ...sequences);
    const longest = Math.max(...prefill, prefill[0] + decode);
    const maxRows = Math.max(Math.min(longest, MOST_ROWS), slots);
    onProgress(`loading ${source.name}`);
    const start = performance.now();
    const model = await loadModel({ source, backend, maxRows, maxLogitRows: slots });
    // Uploads may be queued: nothing is there before something is read behind them.
    await backend.read(model.logits, { rows: 1 });
    const seconds = (performance.now() - start) / 1000;
    if (backend.threads > 1) await new Promise((resolve) => setTimeout(resolve, THREADS_MS));
    const each = pagesFor(prefill[0] + decode);
    const pages = Math.max(pagesFor(longest), slots * each);
    const shape = { slots, maxRows, pages, contextLength: longest, kvType: "f16" } as const;
    const runner = new StepRunner({ backend, model, ...shape });
    const { routedLayers, config: { vocabSize } } = model;
    const routed = { layers: routedLayers.length, topK: routedLayers[0]?.topK ?? 0 };
    const bench = new Bench({ ...options, runner, maxRows, vocabSize, routed });
    const figures: StepFigures[] = [];
    for (const length of prefill) {
      onProgress(`prefill of ${length}`);
      figures.push(await bench.prefill(length));
    }
    for (const count of sequences) {
      onProgress(`decode of ${count}`);
      figures.push(await bench.decode(count));
    }
    return {
      parameters: model.parameters,
      activeParameters: model.activeParameters,
      load: { bytes: source.byteLength, seconds },
      memory: backend.memory(),
      figures,
    };
  } finally {
    backend.close();
  }
}

type BenchOptions = StepBenchOptions & {
  readonly runner: StepRunner;
  readonly maxRows: number;
  readonly vocabSize: number;
  /** Layers with routed experts, and experts a row; zeros in a dense model. */
  readonly routed: { readonly layers: number; readonly topK: number };
};

class Bench {
  readonly #options: BenchOptions;
  /** Greedy ones. */
  readonly #choices: Choices;

  constructor(options: BenchOptions) {
    const candidates = new Candidates(options.vocabSize);
    this.#choices = new Sampler({ params: NEUTRAL_SAMPLING, prompt: [], candidates });
    this.#options = options;
  }

  async prefill(length: number): Promise<StepFigures> {
    const { maxRows } = this.#options;
    const run = () => this.#evaluate({ slot: 0, length, firstPage: 0 });
    const steps = Math.ceil(length / maxRows);
    const measured = await this.#measure(run, { tokens: length, steps });
    const kernels = await this.#kernels(run, { steps, rows: length / steps });
    return { name: "prefill", count: length, ...measured, kernels };
  }

  async decode(count: number): Promise<StepFigures> {
    const { prefill: [length], decode } = this.#options;
    const each = pagesFor(length + decode);
    for (let slot = 0; slot < count; slot++) {
      await this.#evaluate({ slot, length, firstPage: slot * each, pages: each });
    }
    const run = () => this.#answer(count, length);
    const measured = await this.#measure(run, { tokens: count * decode, steps: decode });
    const kernels = await this.#kernels(run, { steps: decode, rows: count });
    return { name: "decode", count, ...measured, kernels };
  }

  /** Some runs of so many tokens and steps; the first one, in which code is compiled, doesn't count. */
  async #measure(
    run: () => Promise<void>,
    { tokens, steps }: { tokens: number; steps: number },
  ): Promise<{ rate: Summary; traffic?: StepTraffic }> {
    const { runs, traffic } = this.#options;
    await run();
    const before = traffic?.();
    const rates: number[] = [];
    for (let i = 0; i < runs; i++) {
      const start = performance.now();
      await run();
      rates.push(tokens * 1000 / (performance.now() - start));
    }
    const rate = summarize(rates)!;
    if (traffic === undefined) return { rate };
    return { rate, traffic: between(before!, traffic(), { steps: steps * runs }) };
  }

  /** One more run with the kernels' clock. */
  async #kernels(
    run: () => Promise<void>,
    timed: { steps: number; rows: number },
  ): Promise<KernelFigures | undefined> {
    const { clock, routed } = this.#options;
    if (clock === undefined) return undefined;
    await clock.take();
    clock.active = true;
    await run();
    clock.active = false;
    return kernelFigures(await clock.take(), { ...timed, routed });
  }

  async #evaluate(
    { slot, length, firstPage, pages = pagesFor(length) }: {
      slot: number;
      length: number;
      firstPage: number;
      pages?: number;
    },
  ): Promise<void> {
    const { runner, maxRows } = this.#options;
    const own = Int32Array.from({ length: pages }, (_, i) => firstPage + i);
    for (let first = 0; first < length; first += maxRows) {
      const rows = Array.from({ length: Math.min(maxRows, length - first) }, (_, i): StepRow => ({
        ...this.#row(slot, first + i),
        wantsLogits: first + i === length - 1,
      }));
      await runner.run(stepOf(rows, [{ sequence: slot, slot, pages: own }]));
    }
  }

  /**
   * Tokens of each sequence behind its prompt, chosen by the backend where it does that: in bursts then,
   * each of them submitted before the one before it has been read.
   */
  async #answer(count: number, length: number): Promise<void> {
    const { runner, decode } = this.#options;
    const most = runner.chooses ? BURST_TOKENS : 1;
    let last: Promise<unknown> = Promise.resolve();
    for (let done = 0; done < decode; done += most) {
      const turns = Math.min(most, decode - done);
      const rows = Array.from(
        { length: count },
        (_, slot) =>
          Array.from({ length: turns }, (_, i): StepRow => {
            const row = { ...this.#row(slot, length + done + i), wantsLogits: true };
            return runner.chooses && done + i > 0 ? { ...row, token: CHOSEN_THERE } : row;
          }),
      ).flat();
      const step = stepOf(rows);
      const next = runner.chooses ? runner.choose(step, () => this.#choices) : runner.run(step);
      await last;
      last = next;
      if (!runner.chooses) await last;
    }
    await last;
  }

  /** Tokens differ from their neighbours and from other sequences'. */
  #row(slot: number, position: number): Omit<StepRow, "wantsLogits"> {
    const token = (slot * 31 + position) * 7919 % this.#options.vocabSize;
    return { sequence: slot, slot, position, token };
  }
}

/** What has been counted since, by step. */
function between(
  before: HybridTraffic,
  after: HybridTraffic,
  { steps }: { steps: number },
): StepTraffic {
  const grown = (name: keyof HybridTraffic) => after[name] - before[name];
  const choices = grown("onDevice") + grown("onHost");
  return {
    crossings: grown("crossings") / steps,
    waitSeconds: grown("waitedMilliseconds") / 1000 / steps,
    hostSeconds: grown("hostMilliseconds") / 1000 / steps,
    onDevice: choices === 0 ? 1 : grown("onDevice") / choices,
  };
}

function stepOf(rows: StepRow[], slotPages: Step["slotPages"] = []): Step {
  return { rows, slotPages, copies: [], restores: [], started: [], burst: false };
}
