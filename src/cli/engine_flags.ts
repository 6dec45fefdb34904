/** Flags of every command that loads a model. */

import { DEFAULT_ENGINE_OPTIONS, defaultThreads, type LoadModelOptions } from "../text/load.ts";
import { DEFAULT_KV_TYPE } from "../engine/limits.ts";
import type { ExpertGroups } from "../engine/types.ts";
import { countTrace } from "../experts/routing_counts.ts";
import { type Faults, FAULTS_FORM, parseFaults } from "../faults.ts";
import { DEFAULT_POLICY, POLICY_NAMES } from "../experts/policy.ts";
import {
  choiceFlag,
  type Flag,
  type FlagValues,
  integerFlag,
  sizeFlag,
  textFlag,
} from "./flags.ts";
import { readTrace } from "./trace_file.ts";

/** `8,4`: groups of experts, and how many of them a token uses. */
const EXPERT_GROUPS: Flag<ExpertGroups | undefined> = Object.freeze({
  help: "groups of experts, and how many a token uses, for files that don't say",
  placeholder: "N,K",
  must: "two whole numbers such as 8,4, the second at most the first",
  fallback: undefined,
  parse: (text: string) => {
    const match = /^(\d{1,5}),(\d{1,5})$/.exec(text);
    const [count, used] = [Number(match?.[1]), Number(match?.[2])];
    return used >= 1 && used <= count ? { count, used } : undefined;
  },
});

/** `worker:7,grow:3`: what is to fail, and at which time. */
const FAULT: Flag<Faults | undefined> = Object.freeze({
  help: "what is to fail, for tests",
  placeholder: "KIND:N,...",
  must: FAULTS_FORM,
  fallback: undefined,
  hidden: true,
  parse: (text: string) => {
    try {
      return parseFaults(text);
    } catch {
      return undefined;
    }
  },
});

/** A trace that says which experts are worth a place on the GPU. */
export const ROUTING_FLAG = textFlag({
  help: "a trace of `deno task trace`: experts that it chose most lie on the GPU",
  placeholder: "FILE",
  must: "the path of a trace",
});

export const ENGINE_FLAGS = {
  model: textFlag({
    help:
      "a .gguf or .safetensors file or a Hugging Face folder, by path or URL (default the built-in model)",
    placeholder: "PATH",
    must: "the path or http(s) URL of a model",
  }),
  backend: choiceFlag({
    help:
      "what computes: a GPU if there is one, WASM kernels, both with a mixture's experts divided " +
      "among them, or the slow definition of each op",
    words: ["auto", "webgpu", "hybrid", "wasm", "reference"],
    fallback: DEFAULT_ENGINE_OPTIONS.backend,
  }),
  activations: choiceFlag({
    help: "activations in the integer kernels: 8 bits, 16 bits, or float",
    words: ["q8", "q16", "f32"],
    fallback: DEFAULT_ENGINE_OPTIONS.activations,
  }),
  threads: integerFlag({
    help: "threads that compute",
    min: 1,
    max: 64,
    fallback: undefined,
    shown: "one per core, up to 8",
  }),
  context: integerFlag({
    help: "tokens a conversation may hold, prompt and answer together",
    min: 1,
    max: 2 ** 20,
    fallback: undefined,
    shown: "the model's own, as far as memory allows",
  }),
  "kv-type": choiceFlag({
    help: "how keys and values are kept: 16-bit floats, 32-bit floats, or 8 bits",
    words: ["f16", "f32", "q8"],
    fallback: DEFAULT_KV_TYPE,
  }),
  "kv-memory": sizeFlag({
    help: "what keys and values may hold, of running answers and of prefixes kept for later ones",
    shown: "1GiB, a quarter of --memory at most",
  }),
  speculate: choiceFlag({
    help: "guess tokens that repeat earlier text, where it pays; the answers are the same",
    words: ["off", "ngram"],
    fallback: "off",
  }),
  memory: sizeFlag({
    help: "what the model may hold; experts beyond it are paged in from the file",
    shown: "all of it",
  }),
  "gpu-memory": sizeFlag({
    help: "what weights, keys, values and workspace may take on a GPU",
    shown: "all that is there",
  }),
  hybrid: choiceFlag({
    help: "whether --backend hybrid is taken where another backend would be faster",
    words: ["if-faster", "always"],
    fallback: "if-faster",
  }),
  routing: ROUTING_FLAG,
  "expert-cache": sizeFlag({
    help: "what routed experts may hold",
    shown: "what --memory leaves",
  }),
  "expert-policy": choiceFlag({
    help: "which paged expert makes room for another",
    words: POLICY_NAMES,
    fallback: DEFAULT_POLICY,
  }),
  "expert-groups": EXPERT_GROUPS,
  fault: FAULT,
};

function hybridOptions(
  { hybrid, routing }: Pick<FlagValues<typeof ENGINE_FLAGS>, "hybrid" | "routing">,
): LoadModelOptions["hybrid"] {
  return {
    always: hybrid === "always",
    counts: routing === undefined ? undefined : countTrace(readTrace(routing)),
  };
}

/** What `loadModel` takes of these flags. */
export function loadOptions(
  values: FlagValues<typeof ENGINE_FLAGS>,
  model: string,
): LoadModelOptions {
  return {
    model,
    backend: values.backend,
    activations: values.activations,
    threads: values.threads ?? defaultThreads(),
    contextLength: values.context,
    kvType: values["kv-type"],
    kvBytes: values["kv-memory"],
    speculation: values.speculate,
    memoryBytes: values.memory,
    gpuBytes: values["gpu-memory"],
    hybrid: values.backend === "hybrid" ? hybridOptions(values) : undefined,
    expertCacheBytes: values["expert-cache"],
    expertPolicy: values["expert-policy"],
    expertGroups: values["expert-groups"],
    faults: values.fault,
  };
}
