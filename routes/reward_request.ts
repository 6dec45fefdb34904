/** What `POST /get_reward` is asked: samples with what is known of them, and what functions weigh. */

import { RequestError } from "../src/errors.ts";
import { checkerOf } from "../src/training/data/checkers/mod.ts";
import {
  type Choice,
  isPreset,
  PRESETS,
  promptQuestion,
  type Reference,
  REWARD_NAMES,
  type RewardName,
  type RewardWeights,
  type Sample,
} from "../src/training/reward/mod.ts";
import { fieldError, Fields } from "./fields.ts";

const MAX_SAMPLES = 4096;
/** Characters that a decoder may put in front of a prompt: a BOS token's text, a space. */
const MAX_LEAD = 32;
const MAX_WEIGHT = 1000;
const A_LABEL = "the right answer, or an object (also as JSON text) with answer or family";

/** The samples of a request. Throws RequestError naming the first wrong field. */
export function readSamples(body: Readonly<Record<string, unknown>>): Sample[] {
  const fields = new Fields(body);
  const queries = texts(fields, "query");
  const prompts = texts(fields, "prompts");
  const labels = fields.list("labels");
  if (labels === undefined) throw fieldError("labels", null, "a list of right answers");
  for (const [name, list] of [["prompts", prompts], ["labels", labels]] as const) {
    if (list.length === queries.length) continue;
    throw fieldError(name, list, `as long as query, which has ${queries.length}`);
  }
  return queries.map((query, i) => {
    const { opened, question } = promptQuestion(prompts[i]);
    const completion = completionOf(query, { prompt: prompts[i], i });
    const { prompt = question, ...reference } = readLabel(labels[i], `labels[${i}]`);
    return { prompt, completion, reference, opened };
  });
}

function texts(fields: Fields, name: "query" | "prompts"): readonly string[] {
  const list = fields.list(name);
  if (list === undefined || list.length === 0 || list.length > MAX_SAMPLES) {
    throw fieldError(name, list ?? null, `a list of 1 to ${MAX_SAMPLES} strings`);
  }
  const at = list.findIndex((text) => typeof text !== "string");
  if (at >= 0) throw fieldError(`${name}[${at}]`, list[at], "a string");
  return list as readonly string[];
}

function completionOf(query: string, { prompt, i }: { prompt: string; i: number }): string {
  const at = query.slice(0, MAX_LEAD + prompt.length).indexOf(prompt);
  if (at >= 0) return query.slice(at + prompt.length);
  throw fieldError(`query[${i}]`, query, `prompts[${i}] with the answer behind it`);
}

/** A bare answer, or all of a reference; its `prompt` is the question where the rendered one hides it. */
function readLabel(label: unknown, path: string): Reference & { readonly prompt?: string } {
  const value = typeof label === "string" ? parsedObject(label) ?? label : label;
  if (typeof value === "number") return { answer: String(value) };
  if (typeof value === "string" && value.trim() !== "") return { answer: value };
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw fieldError(path, value, A_LABEL);
  }
  const fields = new Fields(value as Record<string, unknown>, `${path}.`);
  const answer = fields.string("answer");
  const family = fields.string("family");
  const isKnown = family !== undefined && checkerOf(family) !== undefined;
  if ((answer ?? "").trim() === "" && !isKnown) {
    if (family === undefined) throw fieldError(path, value, A_LABEL);
    throw fieldError(`${path}.family`, family, "one of the families of docs/data.md");
  }
  const given = {
    ...{ answer, family, solution: fields.string("solution"), prompt: fields.string("prompt") },
    choices: readChoices(fields),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** The object that a text is the JSON of; null where it is something else, a set in braces for instance. */
function parsedObject(text: string): unknown {
  if (!text.startsWith("{")) return null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function readChoices(fields: Fields): Choice[] | undefined {
  return fields.list("choices")?.map((choice, i) => {
    const { label, text } = (choice ?? {}) as Record<string, unknown>;
    if (typeof label === "string" && typeof text === "string") return { label, text };
    throw fieldError(`${fields.path("choices")}[${i}]`, choice, "an object of label and text");
  });
}

/**
 * The weights that a URL's query asks for: `?reward=article` a preset, `?solution_accuracy=0.9&format=0.1`
 * weights; undefined where it asks for none. Throws RequestError naming the first wrong parameter.
 */
export function readWeights(query: URLSearchParams): RewardWeights | undefined {
  const names = [...new Set(query.keys())];
  const unknown = names.find((name) => name !== "reward" && !isRewardName(name));
  if (unknown !== undefined) {
    throw wrongParameter(unknown, `is not known, must be reward or one of ${REWARD_NAMES.join()}`);
  }
  if (names.length === 0) return undefined;
  const preset = query.get("reward");
  if (preset !== null) {
    if (names.length > 1) throw wrongParameter("reward", "stands beside weights, must stand alone");
    if (isPreset(preset)) return PRESETS[preset];
    throw wrongParameter("reward", `must be one of ${Object.keys(PRESETS).join(", ")}`);
  }
  const weights = names.map((name) => {
    const text = query.get(name)!;
    const weight = /^\d{1,4}(\.\d{1,15})?$/.test(text) ? Number(text) : NaN;
    if (weight <= MAX_WEIGHT) return [name, weight] as const;
    throw wrongParameter(name, `must be a number from 0 to ${MAX_WEIGHT}`);
  });
  if (weights.some(([, weight]) => weight > 0)) return Object.fromEntries(weights);
  throw wrongParameter(names[0], "is 0 as all weights are, one must be above");
}

function isRewardName(name: string): name is RewardName {
  return (REWARD_NAMES as readonly string[]).includes(name);
}

function wrongParameter(name: string, what: string): RequestError {
  const param = name.slice(0, 60);
  return new RequestError(`cannot read the request: the query parameter ${param} ${what}`, {
    param,
  });
}
