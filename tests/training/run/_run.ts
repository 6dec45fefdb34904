/** Small training runs in folders of their own. */

import { main } from "../../../src/cli/train.ts";
import { main as makeData } from "../../../src/cli/data.ts";
import { openFolder } from "../../../src/cli/data_folder.ts";
import { initialWeights } from "../../../src/training/initial_weights.ts";
import { openData, type RunData } from "../../../src/training/run/data.ts";
import type { RunJob } from "../../../src/training/run/job.ts";
import { readTrainRecipe, type TrainRecipe } from "../../../src/training/run/recipe.ts";
import { openScorer } from "../../../src/training/run/scoring.ts";
import { recordedIo } from "../../cli/_io.ts";

const RECIPES = new URL("../../../recipes/train/", import.meta.url);

/** A JSON document that tests change. */
// deno-lint-ignore no-explicit-any
export type Json = any;

export function recipeOf(name: string): Json {
  return JSON.parse(Deno.readTextFileSync(new URL(name, RECIPES)));
}

/** The smoke recipe with fewer steps, its corpus in `data` beside it. */
export function shortRecipe(): Json {
  const recipe = recipeOf("smoke.json");
  const [coldStart, grpo, rejection] = recipe.phases;
  Object.assign(coldStart, { steps: 50, evaluateEvery: 50 });
  Object.assign(grpo, { steps: 4, evaluateEvery: 4 });
  Object.assign(rejection, { steps: 3, evaluateEvery: 3, prompts: 40, minReward: 0.05 });
  recipe.checkpoint = { every: 3, keep: 0 };
  return { ...recipe, data: { folder: "data" } };
}

/** Makes the smoke recipe's corpus in `data` of the folder. */
export async function makeCorpus(folder: string): Promise<void> {
  const recipe = new URL("smoke_data.json", RECIPES).pathname;
  await makeData(["--recipe", recipe, "--out", `${folder}/data`], { io: recordedIo() });
}

/** Runs the command on a recipe; its files are `state` of the folder. */
export async function trainIn(
  folder: string,
  options: { recipe: Json; flags?: readonly string[] },
): Promise<{ code: number; out: string; err: string }> {
  const { recipe, flags = [] } = options;
  await Deno.writeTextFile(`${folder}/recipe.json`, JSON.stringify(recipe));
  const io = recordedIo();
  const args = ["--recipe", `${folder}/recipe.json`, "--state", `${folder}/state`];
  const code = await main([...args, "--threads", "1", ...flags], { io });
  return { code, out: io.out(), err: io.err() };
}

export function metricsOf(folder: string): Json[] {
  return Deno.readTextFileSync(`${folder}/state/metrics.jsonl`).trimEnd().split("\n")
    .map((line) => JSON.parse(line));
}

export function dataIn(folder: string): Promise<RunData> {
  const at = (name: string) => openFolder(`${folder}/data/${name}`);
  return openData({ rows: at("."), tokenizer: at("tokenizer"), packed: at("packed") });
}

export function readRecipe(recipe: Json): TrainRecipe {
  return readTrainRecipe(JSON.stringify(recipe), { file: "recipe.json", resolve: (path) => path });
}

/** What the command would run, for tests that change a part of it. */
export async function jobIn(folder: string, given: Json): Promise<RunJob> {
  const recipe = readRecipe(given);
  const data = await dataIn(folder);
  const config = { ...given.model.config, vocab_size: data.tokenizer.vocabSize };
  return {
    ...{ recipe, data, config, fingerprint: "test", threads: 1 },
    scorer: openScorer(recipe.rewards),
    source: initialWeights(config, { seed: 1, deviation: 0.08 }),
    folder: openFolder(`${folder}/state`),
    subfolder: (name) => openFolder(`${folder}/state/${name}`),
  };
}
