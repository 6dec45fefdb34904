/** The phases of a recipe: what each does, its share of the compute and the gate that it must reach. */

import { Fields } from "../data/recipe/fields.ts";
import type { AdvantageScale, LossShares } from "../policy.ts";

/** How parameters are changed. */
export interface UpdateRecipe {
  /** The highest learning rate, and how it goes; see `RateSchedule`. */
  readonly rate: number;
  readonly warmup: number;
  readonly decay: "constant" | "linear" | "cosine";
  readonly floor: number;
  readonly optimizer: "adamw" | "lamb";
  readonly beta1: number;
  readonly beta2: number;
  readonly weightDecay: number;
  readonly maxNorm: number;
  /** Step of correction biases (gamma of DeepSeek-V3, section 2.1.2). */
  readonly biasRate: number;
  /** Factor on the sequence-wise balance loss; 0 for none. */
  readonly balance: number;
}

/** How answers are sampled. */
export interface SamplingRecipe {
  readonly temperature: number;
  readonly topP: number;
  /** Tokens of an answer at most. */
  readonly maxTokens: number;
}

interface PhaseBase {
  readonly name: string;
  /** Part of the run's compute that the phase may use. */
  readonly share: number;
  /** Share of held-out problems that must be solved at its end. */
  readonly gate: number;
  /** Updates that are planned; more follow below the gate, as far as the compute goes. */
  readonly steps: number;
  readonly evaluateEvery: number;
  readonly update: UpdateRecipe;
}

export interface SupervisedPhase extends PhaseBase {
  readonly kind: "cold_start";
  /** Tokens of a step, at least; whole packed sequences are taken. */
  readonly tokens: number;
  /** Packed sequences that are learnt, the corpus's first ones; null for all. */
  readonly sequences: number | null;
  /** Steps at the beginning in which every token counts, not only the answers'. */
  readonly pretrainSteps: number;
}

export interface GrpoPhase extends PhaseBase {
  readonly kind: "grpo";
  readonly group: number;
  readonly prompts: number;
  readonly sampling: SamplingRecipe;
  /** Updates on the answers of one rollout. */
  readonly updates: number;
  readonly clipLow: number;
  readonly clipHigh: number;
  readonly kl: number;
  /** Steps after which the reference becomes the policy; 0: it stays. */
  readonly referenceEvery: number;
  readonly shares: LossShares;
  readonly scale: AdvantageScale;
  /** Leave out groups whose rewards are all the same. */
  readonly dropEqual: boolean;
  /** What becomes of answers that were cut off. */
  readonly overlong: "keep" | "mask" | "penalty";
  /** Tokens below the limit from which on "penalty" takes something off (DAPO, section 3.4). */
  readonly overlongMargin: number;
  readonly replayRouting: boolean;
}

export interface RejectionPhase extends PhaseBase {
  readonly kind: "rejection";
  readonly tokens: number;
  readonly prompts: number;
  /** Answers sampled for each prompt, and those kept at most. */
  readonly samples: number;
  readonly keep: number;
  readonly minReward: number;
  /** Answers that share more of their runs of three words than this with a kept one are left out. */
  readonly maxSimilarity: number;
  /** Original samples for each kept one. */
  readonly original: number;
  readonly sampling: SamplingRecipe;
}

export type PhaseRecipe = SupervisedPhase | GrpoPhase | RejectionPhase;

/** Shares and gates where a phase says none: those of the article that the pipeline follows. */
const PRESET = Object.freeze({
  cold_start: { share: 0.15, gate: 0.75 },
  grpo: { share: 0.7, gate: 0.85 },
  rejection: { share: 0.15, gate: 0.9 },
});

const KINDS = ["cold_start", "grpo", "rejection"] as const;
const BASE_KEYS = ["kind", "name", "share", "gate", "steps", "evaluateEvery", "update"];
const SUPERVISED_KEYS = ["tokens", "sequences", "pretrainSteps"];
const REJECTION_KEYS = [
  ...["tokens", "prompts", "samples", "keep", "minReward", "maxSimilarity"],
  ...["original", "sampling"],
];
const GRPO_KEYS = [
  ...["group", "prompts", "sampling", "updates", "clipLow", "clipHigh", "kl", "referenceEvery"],
  ...["loss", "scale", "dropEqual", "overlong", "overlongMargin", "replayRouting"],
];
const KEYS = Object.freeze({
  cold_start: SUPERVISED_KEYS,
  grpo: GRPO_KEYS,
  rejection: REJECTION_KEYS,
});

const MAX = 1_000_000_000;

/** Reads `phases`. OptionError names the first field that is wrong. */
export function readPhases(fields: Fields, action: string): PhaseRecipe[] {
  const names = new Set<string>();
  let shares = 0;
  return fields.list("phases").map(({ value, path }) => {
    const all = [...BASE_KEYS, ...Object.values(KEYS).flat()];
    const any = new Fields(value, { action, path, keys: [...new Set(all)] });
    const kind = any.choice("kind", { words: KINDS });
    const phase = new Fields(value, { action, path, keys: [...BASE_KEYS, ...KEYS[kind]] });
    const read = readPhase(phase, kind);
    if (!/^[a-z0-9_-]+$/.test(read.name)) phase.refuse("name", "of small letters, digits, _ and -");
    if (names.has(read.name)) phase.refuse("name", "another than those of the phases before");
    names.add(read.name);
    shares += read.share;
    if (shares > 1 + 1e-9) phase.refuse("share", "such that all shares together are at most 1");
    return read;
  });
}

function readPhase(phase: Fields, kind: typeof KINDS[number]): PhaseRecipe {
  const steps = phase.integer("steps", { min: 1, max: MAX });
  const base = {
    name: phase.text("name", { fallback: kind }),
    share: phase.number("share", { min: 1e-6, max: 1, fallback: PRESET[kind].share }),
    gate: phase.number("gate", { min: 0, max: 1, fallback: PRESET[kind].gate }),
    steps,
    evaluateEvery: phase.integer("evaluateEvery", { min: 1, max: MAX, fallback: steps }),
    update: readUpdate(phase, steps),
  };
  switch (kind) {
    case "cold_start":
      return {
        ...{ ...base, kind, tokens: phase.integer("tokens", { min: 1, max: MAX }) },
        sequences: phase.has("sequences") ? phase.integer("sequences", { min: 1, max: MAX }) : null,
        pretrainSteps: phase.integer("pretrainSteps", { min: 0, max: MAX, fallback: 0 }),
      };
    case "grpo":
      return { ...base, kind, ...readGrpo(phase) };
    case "rejection": {
      const samples = phase.integer("samples", { min: 1, max: 4096 });
      return {
        ...{ ...base, kind, samples, tokens: phase.integer("tokens", { min: 1, max: MAX }) },
        prompts: phase.integer("prompts", { min: 1, max: MAX }),
        keep: phase.integer("keep", { min: 1, max: samples, fallback: 1 }),
        minReward: phase.number("minReward", { min: 0, max: 1, fallback: 0.9 }),
        maxSimilarity: phase.number("maxSimilarity", { min: 0, max: 1, fallback: 0.9 }),
        original: phase.number("original", { min: 0, max: 1000, fallback: 1 }),
        sampling: readSampling(phase),
      };
    }
  }
}

function readGrpo(phase: Fields): Omit<GrpoPhase, keyof PhaseBase | "kind"> {
  const sampling = readSampling(phase);
  const share = { min: 0, max: 1 };
  const losses = { grpo: "sequence", dapo: "token", dr_grpo: "length" } as const;
  const words = Object.keys(losses) as (keyof typeof losses)[];
  return {
    group: phase.integer("group", { min: 2, max: 4096, fallback: 8 }),
    prompts: phase.integer("prompts", { min: 1, max: MAX }),
    sampling,
    updates: phase.integer("updates", { min: 1, max: 100, fallback: 1 }),
    clipLow: phase.number("clipLow", { ...share, fallback: 0.2 }),
    clipHigh: phase.number("clipHigh", { min: 0, max: 100, fallback: 0.28 }),
    kl: phase.number("kl", { min: 0, max: 100, fallback: 0 }),
    referenceEvery: phase.integer("referenceEvery", { min: 0, max: MAX, fallback: 0 }),
    shares: losses[phase.choice("loss", { words, fallback: "dapo" })],
    scale: phase.choice("scale", { words: ["sample", "population", "none"], fallback: "sample" }),
    dropEqual: phase.boolean("dropEqual", true),
    overlong: phase.choice("overlong", { words: ["keep", "mask", "penalty"], fallback: "keep" }),
    overlongMargin: phase.integer("overlongMargin", {
      ...{ min: 1, max: sampling.maxTokens, fallback: Math.ceil(sampling.maxTokens / 4) },
    }),
    replayRouting: phase.boolean("replayRouting", false),
  };
}

function readSampling(phase: Fields): SamplingRecipe {
  const sampling = phase.object("sampling", ["temperature", "topP", "maxTokens"]);
  return {
    temperature: sampling.number("temperature", { min: 0.01, max: 100, fallback: 1 }),
    topP: sampling.number("topP", { min: 0.01, max: 1, fallback: 1 }),
    maxTokens: sampling.integer("maxTokens", { min: 1, max: 1_000_000 }),
  };
}

const UPDATE_KEYS = [
  ...["rate", "warmup", "decay", "floor", "optimizer", "beta1", "beta2", "weightDecay"],
  ...["maxNorm", "biasRate", "balance"],
];

function readUpdate(phase: Fields, steps: number): UpdateRecipe {
  const update = phase.object("update", UPDATE_KEYS);
  const words = ["constant", "linear", "cosine"] as const;
  const below1 = { min: 0, max: 0.999999 };
  return {
    rate: update.number("rate", { min: 0, max: 10 }),
    warmup: update.integer("warmup", { min: 0, max: steps, fallback: 0 }),
    decay: update.choice("decay", { words, fallback: "cosine" }),
    floor: update.number("floor", { min: 0, max: 1, fallback: 0.1 }),
    optimizer: update.choice("optimizer", { words: ["adamw", "lamb"], fallback: "adamw" }),
    beta1: update.number("beta1", { ...below1, fallback: 0.9 }),
    beta2: update.number("beta2", { ...below1, fallback: 0.95 }),
    weightDecay: update.number("weightDecay", { min: 0, max: 10, fallback: 0 }),
    maxNorm: update.number("maxNorm", { min: 1e-9, max: 1e9, fallback: 1 }),
    biasRate: update.number("biasRate", { min: 0, max: 1, fallback: 0 }),
    balance: update.number("balance", { min: 0, max: 100, fallback: 0 }),
  };
}
