/** Flags of every command that loads a model. */

import { DEFAULT_ENGINE_OPTIONS, defaultThreads, type LoadModelOptions } from "../text/load.ts";
import { choiceFlag, type FlagValues, integerFlag, textFlag } from "./flags.ts";

export const ENGINE_FLAGS = {
  model: textFlag({
    help: "a .gguf or .safetensors file, or a Hugging Face folder",
    placeholder: "PATH",
    must: "the path of a model",
  }),
  backend: choiceFlag({
    help: "what computes: WASM kernels, or the slow definition of each op",
    words: ["wasm", "reference"],
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
};

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
  };
}
