/** Runs whose steps members of a grid make: the files, and what a resumed run goes on from. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { OptionError, TrainingError } from "../../../src/errors.ts";
import { SafetensorsArrays } from "../../../src/formats/safetensors/arrays.ts";
import type { Grid } from "../../../src/training/parallel/grid.ts";
import { runPipeline } from "../../../src/training/run/pipeline.ts";
import { withFolder } from "../data/_corpus.ts";
import { jobIn, type Json, makeCorpus, metricsOf, shortRecipe, trainIn } from "./_run.ts";

/** One phase of a few steps, of two micro-batches each. */
function tinyRecipe(): Json {
  const recipe = shortRecipe();
  const [coldStart] = recipe.phases;
  // Its rate is low: Adam's first steps divide tiny gradients, and their rounding, by themselves.
  const update = { ...coldStart.update, rate: 1e-4, warmup: 0 };
  const steps = { steps: 4, evaluateEvery: 4, pretrainSteps: 0, tokens: 256 };
  const phase = { ...coldStart, ...steps, share: 1, update };
  return {
    ...{ ...recipe, phases: [phase], batch: { rows: 128, sequences: 16 } },
    ...{ checkpoint: { every: 100, keep: 0 }, evaluation: { problems: 4, maxTokens: 8 } },
  };
}

function arraysOf(path: string): SafetensorsArrays {
  return new SafetensorsArrays(Deno.readFileSync(path), path);
}

Deno.test("a run under one grid, resumed under another, writes the files of a run by one trainer", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = tinyRecipe();
    const job = await jobIn(folder, recipe);
    await runPipeline(job);
    const names = ["model/model.safetensors", JSON.parse(runText(folder)).weights];
    const expected = names.map((name) => arraysOf(`${folder}/state/${name}`));
    const losses = lossesOf(folder);
    await Deno.remove(`${folder}/state`, { recursive: true });

    const stop = new AbortController();
    const first: Grid = { replicas: 2, stages: 1, tensor: 2 };
    const { outcome } = await runPipeline({
      ...{ ...await jobIn(folder, recipe), grid: first, signal: stop.signal },
      onStep: ({ step }) => step === 2 && stop.abort(),
    });
    assertEquals(outcome, "stopped");
    const second: Grid = { replicas: 1, stages: 2, expert: 2 };
    const result = await runPipeline({ ...await jobIn(folder, recipe), grid: second });
    assertEquals(result.outcome, "done");

    assertEquals(lossesOf(folder).length, losses.length);
    lossesOf(folder).forEach((loss, i) => {
      assert(
        Math.abs(loss - losses[i]) < 1e-4 * losses[i],
        `step ${i + 1}: ${loss}, not ${losses[i]}`,
      );
    });
    for (const [i, name] of names.entries()) {
      const actual = arraysOf(`${folder}/state/${name}`);
      assertEquals(actual.names, expected[i].names);
      for (const tensor of actual.names) {
        assertEquals(actual.shape(tensor), expected[i].shape(tensor));
        assertNear(actual.get(tensor, "F32"), expected[i].get(tensor, "F32"), tensor);
      }
    }
  });
});

Deno.test("numbers of a grid's unread steps that are not finite stop the run", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = { ...tinyRecipe(), metrics: { every: 100 } };
    const job = await jobIn(folder, recipe);
    const large = new Uint8Array(new Float32Array(1 << 16).fill(3e38).buffer);
    // So large that sums of them overflow.
    const broken: typeof job.source = {
      ...job.source,
      async read(tensor, offset, into) {
        await job.source.read(tensor, offset, into);
        if (/layers\.0\..*o_proj/.test(tensor.name)) into.set(large.subarray(0, into.length));
      },
    };
    await assertRejects(
      () => runPipeline({ ...job, source: broken, grid: { replicas: 2, stages: 1 } }),
      TrainingError,
      "cannot go on with cold_start: after step 4 the gradient of",
    );
  });
});

Deno.test("the command trains on a grid, says what members spent their time on, and writes a trace", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = tinyRecipe();
    const [, grpo] = shortRecipe().phases;
    recipe.phases = [
      { ...recipe.phases[0], steps: 2, evaluateEvery: 2, share: 0.5 },
      {
        ...{ ...grpo, steps: 1, evaluateEvery: 1, share: 0.5, update: { rate: 1e-4 } },
        ...{ prompts: 4, dropEqual: false, sampling: { maxTokens: 8 } },
      },
    ];
    const trace = `${folder}/trace.json`;
    const flags = ["--pipeline", "2", "--trace-out", trace];
    const { code, out, err } = await trainIn(folder, { recipe, flags });
    assertEquals([code, err], [0, ""]);
    assertMatch(
      out,
      /cold_start, 2 stages: computing [\d.]+ %, exchanging [\d.]+ %, idle [\d.]+ %; the schedule of 2 stages and [\d.]+ micro-batches alone leaves [\d.]+ % idle/,
    );
    const { traceEvents } = JSON.parse(Deno.readTextFileSync(trace));
    const lines = traceEvents.filter(({ name }: Json) => name === "thread_name");
    assertEquals(lines.map(({ args }: Json) => args.name), ["0: stage 0", "1: stage 1"]);
    // Answers are sampled on weights that the members have learnt: they score them alike.
    const ratio = metricsOf(folder).find((line) => "ratio" in line).ratio;
    assert(Math.abs(ratio - 1) < 1e-5, `${ratio}`);
    await Deno.remove(`${folder}/state`, { recursive: true });
    await assertRejects(
      () => trainIn(folder, { recipe, flags: ["--tensor", "3"] }),
      OptionError,
      "cannot cut a model into 3 tensor parts: its attention heads are 2, must be a multiple of 3",
    );
    await assertRejects(
      () => trainIn(folder, { recipe, flags: ["--trace-out", trace, "--resume"] }),
      OptionError,
      "--trace-out is given, must be with more than one member",
    );
  });
});

function runText(folder: string): string {
  return Deno.readTextFileSync(`${folder}/state/run.json`);
}

function lossesOf(folder: string): number[] {
  return metricsOf(folder).filter((line) => "loss" in line).map(({ loss }) => loss);
}

function assertNear(actual: Float32Array, expected: Float32Array, what: string): void {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - actual[i])), 0);
  assert(worst <= 1e-3 * largest + 1e-12, `${what} differs by ${worst} of ${largest}`);
}
