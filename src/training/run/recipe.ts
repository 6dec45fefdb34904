/** Recipes of training runs: `recipes/train/NAME.json` read and checked. */

import { OptionError } from "../../errors.ts";
import type { MetadataValue } from "../../formats/tensor_source.ts";
import type { Storage } from "../../backend/training.ts";
import { Fields } from "../data/recipe/fields.ts";
import { type PresetName, PRESETS, type RewardWeights } from "../reward/reward.ts";
import { REWARD_NAMES } from "../reward/types.ts";
import { type PhaseRecipe, readPhases } from "./phase_recipe.ts";

/** What the run's data is: a corpus that is there, or the recipe that it is made from. */
export type DataRecipe = { readonly folder: string } | {
  readonly recipe: string;
  /** Where that recipe's files lie; beside it by default. */
  readonly files?: string;
};

/** What the run begins with. */
export type ModelRecipe = { readonly from: string } | {
  /** A config.json. */
  readonly config: Readonly<Record<string, MetadataValue>>;
  /** Standard deviation of random matrices. */
  readonly deviation: number;
};

export interface BatchRecipe {
  /** Rows of a micro-batch. */
  readonly rows: number;
  /** Samples in one. */
  readonly sequences: number;
  /** Run layers again in the backward pass, for less memory. */
  readonly checkpoint: boolean;
}

export interface RewardRecipe {
  readonly preset: PresetName;
  /** In the place of the preset's. */
  readonly weights?: RewardWeights;
  /** OpenRLHF's protocol: where rewards are asked for in the place of our own. */
  readonly url?: string;
  /** What that server gets as labels: the bare answers, or all that is known, as ours takes it. */
  readonly labels?: "answer" | "reference";
}

export interface TrainRecipe {
  readonly name: string;
  readonly seed: number;
  readonly data: DataRecipe;
  readonly model: ModelRecipe;
  readonly backend: { readonly name: "reference" | "wasm" | "webgpu"; readonly storage: Storage };
  /** Floating-point operations of the whole run; phases have shares of it. */
  readonly flops: number;
  /** What the machine takes, for the estimate of energy; null: none is made. */
  readonly watts: number | null;
  readonly batch: BatchRecipe;
  readonly rewards: RewardRecipe;
  readonly evaluation: {
    /** Held-out problems of each evaluation. */
    readonly problems: number;
    readonly maxTokens: number;
    /** Answers that are written side by side, here and in rollouts. */
    readonly sequences: number;
  };
  /** Supervised steps of which one has a line of metrics: waiting for a GPU takes longer than some steps. */
  readonly metricsEvery: number;
  readonly checkpoint: {
    /** Updates between two of them. */
    readonly every: number;
    /** Older ones that stay beside the last. */
    readonly keep: number;
  };
  readonly phases: readonly PhaseRecipe[];
}

const KEYS = [
  "name",
  "about",
  "seed",
  "data",
  "model",
  "backend",
  "compute",
  "batch",
  "rewards",
  "evaluation",
  "metrics",
  "checkpoint",
  "phases",
];

export interface RecipeOptions {
  /** The recipe's file, for messages. */
  readonly file: string;
  /** Where a path of the recipe leads; recipes give them relative to their own folder. */
  readonly resolve: (path: string) => string;
}

/** Reads a recipe's text. OptionError names the first field that is wrong. */
export function readTrainRecipe(text: string, { file, resolve }: RecipeOptions): TrainRecipe {
  const action = `read the recipe ${JSON.stringify(file)}`;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    const { message } = error as Error;
    throw new OptionError(`cannot ${action}: it is no JSON (${message}), must be an object`);
  }
  const fields = new Fields(json, { action, path: "", keys: KEYS });
  const compute = fields.object("compute", ["teraflops", "watts"]);
  const evaluation = fields.object("evaluation", ["problems", "maxTokens", "sequences"]);
  const metrics = fields.object("metrics", ["every"]);
  const checkpoint = fields.object("checkpoint", ["every", "keep"]);
  return {
    name: fields.text("name"),
    seed: fields.integer("seed", { min: 0, max: Number.MAX_SAFE_INTEGER, fallback: 1 }),
    data: readData(fields, resolve),
    model: readModel(fields, resolve),
    backend: readBackend(fields),
    flops: 1e12 * compute.number("teraflops", { min: 1e-9, max: 1e12 }),
    watts: compute.has("watts") ? compute.number("watts", { min: 0.1, max: 1e6 }) : null,
    batch: readBatch(fields),
    rewards: readRewards(fields),
    evaluation: {
      problems: evaluation.integer("problems", { min: 1, max: 1_000_000, fallback: 256 }),
      maxTokens: evaluation.integer("maxTokens", { min: 1, max: 100_000, fallback: 256 }),
      sequences: evaluation.integer("sequences", { min: 1, max: 4096, fallback: 64 }),
    },
    metricsEvery: metrics.integer("every", { min: 1, max: 1000, fallback: 1 }),
    checkpoint: {
      every: checkpoint.integer("every", { min: 1, max: 1_000_000, fallback: 50 }),
      keep: checkpoint.integer("keep", { min: 0, max: 1000, fallback: 1 }),
    },
    phases: readPhases(fields, action),
  };
}

function readData(fields: Fields, resolve: (path: string) => string): DataRecipe {
  const data = fields.object("data", ["folder", "recipe", "files"]);
  if (data.has("folder") === data.has("recipe")) fields.refuse("data", "a folder or a recipe");
  if (data.has("folder")) return { folder: resolve(data.text("folder")) };
  const recipe = resolve(data.text("recipe"));
  return data.has("files") ? { recipe, files: resolve(data.text("files")) } : { recipe };
}

function readModel(fields: Fields, resolve: (path: string) => string): ModelRecipe {
  const model = fields.object("model", ["from", "config", "deviation"]);
  if (model.has("from") === model.has("config")) {
    fields.refuse("model", "a checkpoint to begin from, or a config");
  }
  if (model.has("from")) return { from: resolve(model.text("from")) };
  const deviation = model.number("deviation", { min: 1e-6, max: 10, fallback: 0.02 });
  return { config: model.json("config"), deviation };
}

function readBackend(fields: Fields): TrainRecipe["backend"] {
  const backend = fields.object("backend", ["name", "storage"]);
  const names = ["reference", "wasm", "webgpu"] as const;
  return {
    name: backend.choice("name", { words: names, fallback: "wasm" }),
    storage: backend.choice("storage", { words: ["f32", "f16", "bf16"], fallback: "f32" }),
  };
}

function readBatch(fields: Fields): BatchRecipe {
  const batch = fields.object("batch", ["rows", "sequences", "checkpoint"]);
  const rows = batch.integer("rows", { min: 2, max: 1_048_576 });
  return {
    rows,
    sequences: batch.integer("sequences", {
      ...{ min: 1, max: rows, fallback: Math.ceil(rows / 8) },
    }),
    checkpoint: batch.boolean("checkpoint", false),
  };
}

function readRewards(fields: Fields): RewardRecipe {
  const rewards = fields.object("rewards", ["preset", "weights", "url", "labels"]);
  const words = Object.keys(PRESETS) as PresetName[];
  const preset = rewards.choice("preset", { words, fallback: "verifiable" });
  if (rewards.has("weights")) {
    const given = rewards.object("weights", REWARD_NAMES);
    const names = REWARD_NAMES.filter((name) => given.has(name));
    if (names.length === 0) rewards.refuse("weights", "an object with at least one weight");
    const range = { min: 0, max: 1000 };
    return { preset, weights: Object.fromEntries(names.map((n) => [n, given.number(n, range)])) };
  }
  if (!rewards.has("url")) return { preset };
  const url = rewards.text("url");
  if (!/^https?:\/\//.test(url)) rewards.refuse("url", "an http or https address");
  const labels = rewards.choice("labels", { words: ["answer", "reference"], fallback: "answer" });
  return { preset, url, labels };
}
