/**
 * Recorded results of the official implementations, as `generate/README.md` of the fixtures describes
 * them: Hugging Face checkpoints with transformers' logits, GGUF files with llama.cpp's logits on exactly
 * dequantised weights. Three small cases are in the repository; the rest is in the shared folder.
 */

import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { ROOT, sharedFolder } from "../support/fixtures.ts";

/** One checkpoint with what it must give. */
export interface Golden {
  /** `models/qwen3` or `gguf/qwen3.q8_0` */
  readonly id: string;
  /** What to open. */
  readonly path: string;
  /** Largest error of a logit with float activations. */
  readonly tolerance: number;
  readonly sequences: readonly (readonly number[])[];
  /** The 16 most likely tokens after each sequence, each fed back in. */
  readonly greedy: readonly (readonly number[])[];
  /** GGUF: rms error of llama.cpp with its own rounded activations; 0 where the weights are floats. */
  readonly llamaCppRms: number;
  /** Hugging Face: a prefix of sequence 2, evaluated first, and the tensor of the rest's logits. */
  readonly extend?: { readonly prefill: number; readonly logits: string };
  /** Hugging Face: sequences evaluated side by side, each a prefix of one of `sequences`. */
  readonly batch?: readonly (readonly number[])[];
  /** Name of the tensor of a sequence's logits. */
  logitsName(sequence: number): string;
  results(): SafetensorsArrays;
}

const GGUF_ARCHITECTURES = ["llama", "qwen2", "qwen3"];
const HUGGING_FACE_ARCHITECTURES = ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];

/** All cases of dense models, those of the shared folder where it is there. */
export function goldens(): Golden[] {
  const shared = sharedFolder();
  const folder = shared === undefined
    ? new URL("tests/data/goldens", ROOT).pathname
    : `${shared}/fixtures`;
  return [...huggingFaceGoldens(`${folder}/models`), ...ggufGoldens(`${folder}/gguf`)];
}

interface HuggingFaceRecord {
  readonly architecture: string;
  readonly tolerance: { readonly logits_max_abs: number };
  readonly sequences: readonly {
    readonly ids: readonly number[];
    readonly greedy: { readonly tokens: readonly number[] };
  }[];
  readonly extend: { readonly prefill: number; readonly logits_of_B: string };
  readonly batch: { readonly rows: readonly (readonly number[])[] };
}

function huggingFaceGoldens(folder: string): Golden[] {
  return foldersIn(folder).flatMap((name) => {
    const record = readJson<HuggingFaceRecord>(`${folder}/${name}/golden.json`);
    if (!HUGGING_FACE_ARCHITECTURES.includes(record.architecture)) return [];
    return [{
      id: `models/${name}`,
      path: `${folder}/${name}`,
      tolerance: record.tolerance.logits_max_abs,
      sequences: record.sequences.map(({ ids }) => ids),
      greedy: record.sequences.map(({ greedy }) => greedy.tokens),
      llamaCppRms: 0,
      extend: { prefill: record.extend.prefill, logits: record.extend.logits_of_B },
      batch: record.batch.rows,
      logitsName: (sequence: number) => `seq${sequence}.logits`,
      results: () => readArrays(`${folder}/${name}/golden.safetensors`),
    }];
  });
}

interface GgufRecord {
  readonly sequences: readonly (readonly number[])[];
  readonly tolerance: { readonly dequant_max_abs: number };
  readonly files: {
    readonly [type: string]: {
      readonly file: string;
      readonly tensor_types: readonly string[];
      readonly metadata: { readonly [key: string]: unknown };
      readonly rms_llama_cpp_vs_dequant: number;
      readonly greedy_dequant: readonly (readonly number[])[];
    };
  };
}

function ggufGoldens(folder: string): Golden[] {
  return foldersIn(folder).flatMap((name) => {
    const record = readJson<GgufRecord>(`${folder}/${name}/golden.json`);
    return Object.entries(record.files).flatMap(([type, file]) => {
      const architecture = String(file.metadata["general.architecture"]);
      const dense = !(`${architecture}.expert_count` in file.metadata);
      if (!GGUF_ARCHITECTURES.includes(architecture) || !dense) return [];
      const quantised = file.tensor_types.some((type) => !["F32", "F16", "BF16"].includes(type));
      return [{
        id: `gguf/${name}.${type}`,
        path: `${folder}/${name}/${file.file}`,
        tolerance: record.tolerance.dequant_max_abs,
        sequences: record.sequences,
        greedy: file.greedy_dequant,
        llamaCppRms: quantised ? file.rms_llama_cpp_vs_dequant : 0,
        logitsName: (sequence: number) => `${type}.seq${sequence}.dequant`,
        results: () => readArrays(`${folder}/${name}/golden.safetensors`),
      }];
    });
  });
}

function foldersIn(path: string): string[] {
  return Array.from(Deno.readDirSync(path), ({ name }) => name).sort();
}

function readJson<T>(path: string): T {
  return JSON.parse(Deno.readTextFileSync(path));
}

function readArrays(path: string): SafetensorsArrays {
  return new SafetensorsArrays(Deno.readFileSync(path));
}
