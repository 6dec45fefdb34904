/** Flags of `deno task bench`. */

import type { ActivationPrecision } from "../backend/backend.ts";
import { kernelTypes } from "../bench/kernels.ts";
import {
  MADE_UP_MODELS,
  MADE_UP_TYPES,
  type MadeUpName,
  type MadeUpType,
} from "../bench/made_up_models.ts";
import { SERVING_PARTS, type ServingPart } from "../bench/serving/parts.ts";
import { ROUTING_FLAG } from "./engine_flags.ts";
import {
  choiceFlag,
  type Flag,
  integerFlag,
  listFlag,
  sharesFlag,
  sizeFlag,
  switchFlag,
  textFlag,
} from "./flags.ts";

/** A made-up model. */
export interface MadeUp {
  readonly name: MadeUpName;
  readonly type: MadeUpType;
}

/** In the folder SLUICE_MODELS. */
export const DEFAULT_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf";
const PRECISIONS: readonly string[] = ["q8", "q16", "f32"] satisfies ActivationPrecision[];

/** Whole numbers of [min, max] separated by commas. */
function integersFlag(
  options: { help: string; min: number; max: number; fallback: readonly number[]; shown: string },
): Flag<readonly number[]> {
  const { help, min, max, fallback, shown } = options;
  return {
    help,
    shown,
    fallback,
    placeholder: "N[,N]",
    must: `whole numbers from ${min} to ${max} separated by commas, each once`,
    parse: (text) => {
      if (!/^\d{1,9}(,\d{1,9})*$/.test(text)) return undefined;
      const numbers = text.split(",").map(Number);
      const good = numbers.every((n) => n >= min && n <= max) &&
        new Set(numbers).size === numbers.length;
      return good ? numbers : undefined;
    },
  };
}

/** Parts of `--serving`; all of them where it is given alone. */
const SERVING: Flag<readonly ServingPart[]> = Object.freeze({
  help: "instead: a server under load, in all these respects or some",
  placeholder: `[${SERVING_PARTS.join("|")}[,..]]`,
  must: `some of ${SERVING_PARTS.join(", ")} separated by commas`,
  fallback: [],
  bare: SERVING_PARTS.join(),
  parse: (text: string) => {
    const parts = text.split(",").map((word) => SERVING_PARTS.find((part) => part === word));
    return parts.every((part) => part !== undefined) ? parts : undefined;
  },
});

/** `kv-type=q8,max-waiting=64`: what every server of `--serving` is started with as well. */
const SERVER_FLAGS: Flag<Readonly<Record<string, string>>> = Object.freeze({
  help: "for --serving: further flags of `deno task start`",
  placeholder: "NAME=VALUE[,..]",
  must: "names and values such as kv-type=q8,max-waiting=64",
  fallback: {},
  parse: (text: string) => {
    const pairs = text.split(",").map((word) => /^([a-z][a-z-]*)=(.+)$/.exec(word));
    if (pairs.some((pair) => pair === null)) return undefined;
    return Object.fromEntries(pairs.map((pair) => [pair![1], pair![2]]));
  },
});

/** `qwen-1.5b:Q8_0,v2-lite:Q4_K`: shapes of models, and the type of their made-up weights. */
const MADE_UP: Flag<readonly MadeUp[]> = Object.freeze({
  help: "instead of --model: bare steps of models of well-known shapes with made-up weights",
  placeholder: "NAME:TYPE[,..]",
  must: `${Object.keys(MADE_UP_MODELS).join(" or ")} with ${MADE_UP_TYPES.join(" or ")}, ` +
    "such as qwen-1.5b:Q8_0, separated by commas",
  fallback: [],
  parse: (text: string) => {
    const models = text.split(",").map((word) => {
      const [name, type = MADE_UP_TYPES[0], ...rest] = word.split(":");
      const known = Object.hasOwn(MADE_UP_MODELS, name) && rest.length === 0;
      const kind = MADE_UP_TYPES.find((other) => other === type);
      return known && kind !== undefined ? { name: name as MadeUpName, type: kind } : undefined;
    });
    return models.every((model) => model !== undefined) ? models : undefined;
  },
});

export const BENCH_FLAGS = {
  model: textFlag({
    help:
      `the model; by default ${DEFAULT_MODEL} in the folder SLUICE_MODELS, for --paging the built-in one`,
    placeholder: "PATH",
    must: "the path of a model",
  }),
  backend: choiceFlag({
    help: "what computes; on webgpu and hybrid bare steps are measured, and what each kernel takes",
    words: ["wasm", "webgpu", "hybrid"],
    fallback: "wasm",
  }),
  "made-up": MADE_UP,
  "gpu-memory": sizeFlag({
    help: "for hybrid: what weights, keys, values and workspace may take on the GPU",
  }),
  routing: ROUTING_FLAG,
  threads: integersFlag({
    help: "numbers of threads, one after the other",
    min: 1,
    max: 64,
    fallback: [],
    shown: "one per core, up to 8",
  }),
  activations: listFlag({
    help: "precisions to measure (default q8,q16, for --paging and --latent q16)",
    placeholder: "q8|q16|f32[,..]",
    must: `some of ${PRECISIONS.join(", ")} separated by commas`,
    accepts: (word) => PRECISIONS.includes(word),
  }),
  runs: integerFlag({ help: "measurements of each kind", min: 1, max: 100, fallback: 5 }),
  prefill: integersFlag({
    help: "lengths of prompts; decoding follows the first",
    min: 1,
    max: 65536,
    fallback: [128, 512],
    shown: "128,512",
  }),
  decode: integerFlag({ help: "tokens to decode", min: 1, max: 65536, fallback: 64 }),
  batch: integersFlag({
    help: "instead: numbers of sequences decoded side by side",
    min: 1,
    max: 256,
    fallback: [],
    shown: "none",
  }),
  steps: switchFlag({ help: "also bare model steps, without the engine" }),
  busy: switchFlag({ help: "also decode beside a process that keeps one core busy" }),
  peers: switchFlag({ help: "also other engines, as far as the next three flags name them" }),
  "llama-python": textFlag({
    help: "a Python that has llama-cpp-python",
    placeholder: "FILE",
    must: "the path of a Python",
  }),
  "node-llama": textFlag({
    help: "a folder with node_modules/node-llama-cpp",
    placeholder: "DIR",
    must: "the path of a folder",
  }),
  wllama: textFlag({
    help: "a folder with node_modules/@wllama/wllama",
    placeholder: "DIR",
    must: "the path of a folder",
  }),
  kernels: switchFlag({ help: "single matrices instead of a model" }),
  experts: switchFlag({ help: "layers of routed experts instead of a model" }),
  paging: switchFlag({ help: "instead: decoding with part of the routed experts in memory" }),
  resident: sharesFlag({
    help: "shares of the experts that --paging has room for",
    fallback: [0.5, 0.25],
  }),
  memory: sizeFlag({ help: "for --paging also: what the whole process may take", shown: "none" }),
  latency: integerFlag({
    help: "for --paging: experts come over HTTP from this machine, each answer so many ms late",
    min: 0,
    max: 10_000,
    fallback: undefined,
    shown: "experts come from the file",
  }),
  text: textFlag({
    help: "for --paging: a text of which pieces are continued (default a few verses)",
    placeholder: "FILE",
    must: "the path of a text",
  }),
  latent: switchFlag({ help: "the two forms of latent attention instead of a model" }),
  serving: SERVING,
  streams: integersFlag({
    help: "for --serving: numbers of answers side by side",
    min: 1,
    max: 64,
    fallback: [1, 16],
    shown: "1,16",
  }),
  prompt: integerFlag({
    help: "for --serving: tokens of a prompt",
    min: 1,
    max: 65536,
    fallback: 128,
  }),
  answer: integerFlag({
    help: "for --serving: tokens of an answer",
    min: 2,
    max: 65536,
    fallback: 128,
  }),
  prefix: integerFlag({
    help: "for --serving: tokens of the prompt that is asked again",
    min: 1,
    max: 65536,
    fallback: 1000,
  }),
  requests: integerFlag({
    help: "for --serving: mixed requests while memory is watched",
    min: 1,
    max: 1_000_000,
    fallback: 1000,
  }),
  idle: integerFlag({
    help: "for --serving: connections that are kept open",
    min: 0,
    max: 10_000,
    fallback: 1000,
  }),
  burst: integerFlag({
    help: "for --serving: requests at once beside them",
    min: 1,
    max: 10_000,
    fallback: 200,
  }),
  "server-flags": SERVER_FLAGS,
  types: listFlag({
    help: "types of weights for --kernels (default all) and --experts (default Q8_0,Q4_K)",
    placeholder: "TYPE[,TYPE]",
    must: `some of ${kernelTypes().join(", ")} separated by commas`,
    accepts: (word) => (kernelTypes() as string[]).includes(word),
  }),
  json: switchFlag({ help: "print the JSON line only" }),
};
