/** GRPO phases as recipes start them: rewards from a server, and what the KL term holds. */

import { assert, assertEquals } from "@std/assert";
import type { Scorer } from "../../../src/training/phases/scorer.ts";
import { runPipeline } from "../../../src/training/run/pipeline.ts";
import { withRewardServer } from "../../routes/_rewards.ts";
import { withFolder } from "../data/_corpus.ts";
import { jobIn, type Json, makeCorpus, metricsOf, shortRecipe } from "./_run.ts";

/** What a step has done, without how long it took. */
function stepsOf(folder: string, phase = "grpo"): Json[] {
  return metricsOf(folder).filter((line) => line.phase === phase && "reward" in line)
    .map(({ step_time: _time, tokens_per_second: _rate, ...rest }) => rest);
}

/** Copies a run's own files, but not its models. */
function copyState(from: string, to: string): void {
  Deno.mkdirSync(to, { recursive: true });
  for (const { name, isFile } of Deno.readDirSync(from)) {
    if (isFile) Deno.copyFileSync(`${from}/${name}`, `${to}/${name}`);
  }
}

Deno.test("a GRPO phase with the rewards of our own server trains as one with them in process, to the bit", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const recipe = shortRecipe();
    recipe.phases.pop();
    const begun = await runPipeline({ ...await jobIn(folder, recipe), until: "cold_start" });
    copyState(`${folder}/state`, `${folder}/begun`);
    const finish = async (rewards: Json) => {
      await Deno.remove(`${folder}/state`, { recursive: true });
      copyState(`${folder}/begun`, `${folder}/state`);
      const { outcome, hash } = await runPipeline(await jobIn(folder, { ...recipe, rewards }));
      return { outcome, hash, steps: stepsOf(folder) };
    };
    const local = await finish({ preset: "article" });
    assertEquals(local.outcome, "done");
    assert(local.hash !== begun.hash);
    assert(local.steps.some(({ kept }) => kept > 0), "some groups must differ");
    await withRewardServer(async (url) => {
      const remote = await finish({ url: `${url}?reward=article`, labels: "reference" });
      assertEquals(remote, local);
      const other = await finish({ url, labels: "reference" });
      assert(other.hash !== local.hash, "other rewards train another model");
    });
  });
});

/** Rewards digits, which random weights learn to write at once. */
const DIGITS: Scorer = {
  score: (samples) =>
    Promise.resolve(samples.map(({ completion }) => {
      const reward = (completion.match(/\d/g)?.length ?? 0) / Math.max(1, completion.length);
      return { reward, values: { digits: reward } };
    })),
};

const STEPS = 12;

/** A GRPO phase from random weights; stopped once it has made so many steps, and resumed. */
async function learnDigits(
  folder: string,
  { stopAfter, ...changes }: Json,
): Promise<{ hash: string; steps: Json[] }> {
  const recipe = shortRecipe();
  const [, grpo] = recipe.phases;
  recipe.phases = [{ ...grpo, steps: STEPS, evaluateEvery: STEPS, ...changes }];
  recipe.phases[0].update = { rate: 0.01, decay: "constant" };
  recipe.evaluation.problems = 2;
  const job = { ...await jobIn(folder, recipe), scorer: DIGITS };
  const stop = new AbortController();
  const stopped = await runPipeline({
    ...{ ...job, signal: stop.signal },
    onStep: ({ step }) => step === stopAfter && stop.abort(),
  });
  const { outcome, hash } = stop.signal.aborted ? await runPipeline(job) : stopped;
  assertEquals(outcome, "done");
  const steps = stepsOf(folder);
  await Deno.remove(`${folder}/state`, { recursive: true });
  return { hash, steps };
}

Deno.test("a KL term that is large enough holds the policy near the reference, at the cost of the reward", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const free = (await learnDigits(folder, { kl: 1e-6 })).steps;
    const held = (await learnDigits(folder, { kl: 1 })).steps;
    // The first update begins at the reference, and both have the same answers.
    assertEquals([free[0].kl, held[0].kl, free[0].reward], [0, 0, held[0].reward]);
    const [far, near] = [free.at(-1), held.at(-1)];
    assert(far.kl > 0.5 && near.kl < 0.2 && near.kl > 0, `${far.kl} against ${near.kl}`);
    assert(far.reward > near.reward + 0.1, `${far.reward} against ${near.reward}`);
  });
});

Deno.test("the reference becomes the policy every so many steps, also in a run that was stopped in between", async () => {
  await withFolder(async (folder) => {
    await makeCorpus(folder);
    const options = { kl: 1e-6, referenceEvery: 4 };
    const whole = await learnDigits(folder, options);
    const near = whole.steps.map(({ kl }) => kl === 0);
    assertEquals(near, Array.from({ length: STEPS }, (_, step) => step % 4 === 0));
    assertEquals(await learnDigits(folder, { ...options, stopAfter: 6 }), whole);
  });
});
