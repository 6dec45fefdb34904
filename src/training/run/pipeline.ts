/**
 * Runs the phases of a recipe one after the other. Each ends with an evaluation: below its gate it goes on
 * within its share of the compute, then the run stops. Everything that is learnt is a function of the
 * recipe and the data, so a run that was stopped anywhere ends like one that was not.
 */

import { evaluate } from "../phases/evaluation.ts";
import type { Prompt } from "../phases/prompts.ts";
import type { PhaseWork, StepReport } from "../phases/work.ts";
import { type CheckedPlace, checkedStep } from "./checked_step.ts";
import { addTokens, costLine, NO_COST } from "./costs.ts";
import { exportModel } from "./export.ts";
import type { RunJob, RunResult } from "./job.ts";
import { belowGate, percent, stopped } from "./messages.ts";
import { MetricsFile } from "./metrics.ts";
import type { PhaseRecipe } from "./phase_recipe.ts";
import { openPhase } from "./phase_work.ts";
import {
  NOTHING_SAMPLED,
  type Position,
  readState,
  readWeights,
  type RunState,
  saveState,
  stateHash,
} from "./state.ts";
import { restoreWeights, weightsFile } from "./weights_file.ts";
import { openWorkbench, type Workbench } from "./workbench.ts";

/** Goes on with the run that the folder holds, or begins one. Throws TrainingError for numbers that are not finite. */
export async function runPipeline(job: RunJob): Promise<RunResult> {
  const run = new Run(job);
  try {
    return await run.phases();
  } finally {
    run.close();
  }
}

const NONE_UNREAD = Object.freeze<Record<"tokens" | "seconds" | "steps", number>>({
  ...{ tokens: 0, seconds: 0, steps: 0 },
});

/** What steps go on from. */
const WITH_MOMENTS = ["value", "first", "second"] as const;

class Run {
  readonly #job: RunJob;
  readonly #metrics: MetricsFile;
  #state: RunState;
  /** Tokens and seconds of the steps since the last line of metrics. */
  #unread = NONE_UNREAD;

  constructor(job: RunJob) {
    this.#job = job;
    this.#state = readState(job.folder, job.fingerprint) ?? {
      version: 1,
      fingerprint: job.fingerprint,
      position: { phase: 0, step: 0, sampled: NOTHING_SAMPLED, evaluations: [], costs: [] },
      weights: null,
      weightsHash: null,
      seconds: [],
      metricsBytes: 0,
    };
    this.#metrics = new MetricsFile(job.folder, { length: this.#state.metricsBytes });
  }

  close(): void {
    this.#metrics.close();
  }

  async phases(): Promise<RunResult> {
    const { recipe, data, until } = this.#job;
    const heldout = await data.prompts("heldout", recipe.evaluation.problems);
    const last = until === undefined
      ? recipe.phases.length - 1
      : recipe.phases.findIndex(({ name }) => name === until);
    while (this.#state.position.phase <= last) {
      const outcome = await this.#phase(recipe.phases[this.#state.position.phase], heldout);
      if (outcome !== null) return this.#result(outcome.outcome, outcome.message);
    }
    return this.#result("done", null);
  }

  #result(outcome: RunResult["outcome"], message: string | null): RunResult {
    const { recipe } = this.#job;
    const { position, seconds } = this.#state;
    const costs = position.costs.map((cost, i) =>
      costLine(cost, {
        ...{ phase: recipe.phases[i].name, seconds: seconds[i] ?? 0, watts: recipe.watts },
      })
    );
    return { outcome, hash: stateHash(this.#state), costs, message };
  }

  async #phase(
    phase: PhaseRecipe,
    heldout: readonly Prompt[],
  ): Promise<{ outcome: RunResult["outcome"]; message: string | null } | null> {
    const { recipe, source, config, threads, grid, onTimeline } = this.#job;
    const parts = await openPhase(phase, this.#job);
    const promptTokens = [...heldout, ...parts.prompts].reduce(
      (most, { ids }) => Math.max(most, ids.length),
      1,
    );
    const bench = await openWorkbench({
      ...{ recipe, phase, source, threads, promptTokens },
      ...(grid && {
        crew: { grid, config, onStep: (events) => onTimeline?.(phase.name, events) },
      }),
    });
    try {
      const bytes = await readWeights(this.#job.folder, this.#state);
      if (bytes !== null) {
        const optimizer = this.#state.position.step > 0;
        restoreWeights(bench, { bytes, name: this.#state.weights!, optimizer });
      }
      await bench.steps.deliver(this.#state.position.step > 0 ? WITH_MOMENTS : ["value"]);
      if (bytes === null) await this.#save(bench);
      const sampled = await parts.sample?.(bench, {
        sampled: this.#state.position.sampled,
        signal: this.#job.signal,
        onSampled: (sampled, tokens) => this.#keepSampled(bench, { sampled, tokens }),
      });
      if (sampled === "stopped") return stopped(phase, this.#state.position.step);
      const work = await parts.work(bench);
      return await this.#steps({ phase, bench, work, heldout });
    } finally {
      bench.close();
    }
  }

  async #steps(
    place: { phase: PhaseRecipe; bench: Workbench; work: PhaseWork; heldout: readonly Prompt[] },
  ): Promise<{ outcome: RunResult["outcome"]; message: string | null } | null> {
    const { phase, bench } = place;
    const { recipe, signal, onEvent } = this.#job;
    const budget = phase.share * recipe.flops;
    while (true) {
      const { step } = this.#state.position;
      const used = this.#cost().flops;
      const isPlanned = step < phase.steps;
      // The last planned step is evaluated, and every so many behind it.
      const isDue = step > 0 && (step === phase.steps || step % phase.evaluateEvery === 0);
      if (isDue || used >= budget) {
        await this.#settle(place);
        const accuracy = await this.#evaluate(place);
        if (accuracy >= phase.gate && !isPlanned) {
          await this.#finish(place);
          return null;
        }
        if (used >= budget) {
          if (accuracy >= phase.gate) {
            await this.#finish(place);
            return null;
          }
          await this.#save(bench);
          return {
            outcome: "below the gate",
            message: belowGate(phase, { accuracy, used, budget }),
          };
        }
        if (step === phase.steps) {
          onEvent?.(
            `${phase.name}: ${percent(accuracy)} is below the gate of ${percent(phase.gate)}; ` +
              `it goes on (${percent(used / budget)} of its compute used)`,
          );
        }
      }
      if (signal?.aborted) {
        await this.#settle(place);
        await this.#save(bench);
        return stopped(phase, step);
      }
      await this.#step(place);
      if (this.#state.position.step % recipe.checkpoint.every !== 0) continue;
      await this.#settle(place);
      await this.#save(bench);
    }
  }

  async #step({ phase, bench, work }: { phase: PhaseRecipe; bench: Workbench; work: PhaseWork }) {
    const { step } = this.#state.position;
    const started = performance.now();
    const report = await this.#checked(() => work.step(step), { phase, bench, steps: step + 1 });
    const seconds = (performance.now() - started) / 1000;
    const { trainedTokens: trained, sampledTokens: sampled, metrics } = report;
    const { activeParameters } = bench.model;
    this.#add({ trained, sampled, activeParameters }, seconds);
    this.#state = { ...this.#state, position: { ...this.#state.position, step: step + 1 } };
    const since = {
      tokens: this.#unread.tokens + trained + sampled,
      seconds: this.#unread.seconds + seconds,
      steps: this.#unread.steps + 1,
    };
    this.#unread = since;
    if (metrics === null) return;
    this.#unread = NONE_UNREAD;
    const cost = this.#cost();
    const tokensPerSecond = since.tokens / since.seconds;
    this.#metrics.add({
      ...{ phase: phase.name, step: step + 1, ...metrics, num_tokens: cost.trainedTokens },
      ...{ step_time: since.seconds / since.steps, tokens_per_second: tokensPerSecond },
    });
    const each = this.#state.seconds[this.#state.position.phase] / (step + 1);
    this.#job.onStep?.({
      ...{ phase: phase.name, step: step + 1, steps: phase.steps, metrics, tokensPerSecond },
      secondsLeft: Math.max(0, phase.steps - step - 1) * each,
    });
  }

  /** Looks at steps of which nothing was read: what follows must not rest on numbers that are not finite. */
  async #settle({ phase, bench }: { phase: PhaseRecipe; bench: Workbench }): Promise<void> {
    if (this.#unread.steps === 0) return;
    const read = async () => ({
      ...{ metrics: null, trainedTokens: 0, sampledTokens: 0 },
      totals: await bench.steps.totals(),
    });
    await this.#checked(read, { phase, bench, steps: this.#state.position.step });
  }

  #checked(
    make: () => Promise<StepReport>,
    place: Pick<CheckedPlace, "phase" | "bench" | "steps">,
  ): Promise<StepReport> {
    const { storage } = this.#job.recipe.backend;
    return checkedStep(make, { ...place, storage, lastWeights: this.#state.weights });
  }

  async #evaluate(
    { phase, bench, heldout }: {
      phase: PhaseRecipe;
      bench: Workbench;
      heldout: readonly Prompt[];
    },
  ): Promise<number> {
    const { data, recipe, onEvent } = this.#job;
    const { position } = this.#state;
    const { evaluations, step } = position;
    const known = evaluations.at(-1);
    // Resumed behind it.
    if (known?.phase === phase.name && known.step === step) return known.accuracy;
    const started = performance.now();
    await bench.steps.collect(["value"]);
    const { maxTokens } = recipe.evaluation;
    const { endTokens, decode } = data;
    const result = await evaluate(bench.engine, { prompts: heldout, maxTokens, endTokens, decode });
    const { activeParameters } = bench.model;
    this.#add(
      { evaluated: result.tokens, activeParameters },
      (performance.now() - started) / 1000,
    );
    const families = Object.fromEntries(
      Object.entries(result.families).map((
        [name, { right, problems }],
      ) => [name, right / problems]),
    );
    const { accuracy } = result;
    this.#state = {
      ...this.#state,
      position: {
        ...this.#state.position,
        evaluations: [...evaluations, { phase: phase.name, step, accuracy, families }],
      },
    };
    this.#metrics.add({
      ...{ phase: phase.name, step, "eval/accuracy": accuracy },
      "eval/clipped_ratio": result.cutOff / result.problems,
      ...Object.fromEntries(
        Object.entries(families).map(([name, share]) => [`eval/families/${name}`, share]),
      ),
      "eval/example": `${result.example.prompt}\n${result.example.completion}`,
    });
    onEvent?.(
      `${phase.name}: step ${step} of ${phase.steps}: ${percent(accuracy)} of ` +
        `${result.problems} held-out problems`,
    );
    return accuracy;
  }

  /** Ends a phase: its model is written, and the next one begins with its weights. */
  async #finish({ phase, bench }: { phase: PhaseRecipe; bench: Workbench }): Promise<void> {
    const { data, config, subfolder, recipe } = this.#job;
    const { tokenizer, tokenizerFiles } = data;
    await bench.steps.collect(["value"]);
    const next = this.#state.position.phase + 1;
    const names = [`models/${phase.name}`, ...(next === recipe.phases.length ? ["model"] : [])];
    for (const name of names) {
      const folder = subfolder(name);
      await exportModel(bench, { folder, config, tokenizer, tokenizerFiles });
    }
    const position = { ...this.#state.position, phase: next, step: 0, sampled: NOTHING_SAMPLED };
    this.#state = { ...this.#state, position };
    await this.#save(bench);
  }

  async #save(bench: Workbench): Promise<void> {
    const optimizer = this.#state.position.step > 0;
    await bench.steps.collect(optimizer ? WITH_MOMENTS : ["value"]);
    await this.#put(await weightsFile(bench, { optimizer }));
  }

  #put(weights?: Uint8Array<ArrayBuffer>): void {
    const { folder, recipe } = this.#job;
    this.#metrics.sync();
    const state = { ...this.#state, metricsBytes: this.#metrics.bytes };
    const { keep } = recipe.checkpoint;
    this.#state = saveState(folder, { state, ...(weights && { weights }), keep });
  }

  #keepSampled(
    bench: Workbench,
    { sampled, tokens }: {
      sampled: Position["sampled"];
      tokens: { count: number; seconds: number };
    },
  ): void {
    const { activeParameters } = bench.model;
    this.#add({ sampled: tokens.count, activeParameters }, tokens.seconds);
    this.#state = { ...this.#state, position: { ...this.#state.position, sampled } };
    this.#put();
  }

  #cost() {
    const { costs, phase } = this.#state.position;
    return costs[phase] ?? NO_COST;
  }

  #add(tokens: Parameters<typeof addTokens>[1], seconds: number): void {
    const { position, seconds: all } = this.#state;
    const costs = [...position.costs];
    costs[position.phase] = addTokens(this.#cost(), tokens);
    const times = [...all];
    times[position.phase] = (times[position.phase] ?? 0) + seconds;
    this.#state = { ...this.#state, position: { ...position, costs }, seconds: times };
  }
}
