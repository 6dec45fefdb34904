/**
 * Recorded results of the official implementations, as `generate/README.md` of the fixtures describes
 * them: Hugging Face checkpoints with transformers' results, GGUF files with llama.cpp's logits on exactly
 * dequantised weights. Five small cases are in the repository; the rest is in the shared folder.
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
  /** Whether the model has layers with routed experts. */
  readonly mixture: boolean;
  /** Hugging Face: a prefix of sequence 2, evaluated first, and the tensor of the rest's logits. */
  readonly extend?: { readonly prefill: number; readonly logits: string };
  /** Hugging Face: sequences evaluated side by side, each a prefix of one of `sequences`. */
  readonly batch?: readonly (readonly number[])[];
  /** Hugging Face: largest error of an expert's weight. */
  readonly routingTolerance?: number;
  /** Name of the tensor of a sequence's logits. */
  logitsName(sequence: number): string;
  results(): SafetensorsArrays;
  /** What the gate of a layer must choose for each token of a sequence; undefined where not recorded. */
  routing(sequence: number, layer: number): RecordedRouting | undefined;
}

/** [tokens, k] each, in any order within a token. */
export interface RecordedRouting {
  readonly experts: Int32Array;
  readonly weights: Float32Array;
}

/** All cases, those of the shared folder where it is there. */
export function goldens(): Golden[] {
  const shared = sharedFolder();
  const folder = shared === undefined
    ? new URL("tests/data/goldens", ROOT).pathname
    : `${shared}/fixtures`;
  return [...huggingFaceGoldens(`${folder}/models`), ...ggufGoldens(`${folder}/gguf`)];
}

interface HuggingFaceRecord {
  readonly tolerance: {
    readonly logits_max_abs: number;
    readonly routing_weights_max_abs: number;
  };
  readonly sequences: readonly {
    readonly ids: readonly number[];
    readonly greedy: { readonly tokens: readonly number[] };
  }[];
  readonly extend: { readonly prefill: number; readonly logits_of_B: string };
  readonly batch: { readonly rows: readonly (readonly number[])[] };
  /** Of sequence 1, by layer. */
  readonly routing?: {
    readonly [layer: string]: {
      readonly experts: readonly (readonly number[])[];
      readonly weights: readonly (readonly number[])[];
    };
  };
}

function huggingFaceGoldens(folder: string): Golden[] {
  return foldersIn(folder).map((name) => {
    const record = readJson<HuggingFaceRecord>(`${folder}/${name}/golden.json`);
    const results = () => readArrays(`${folder}/${name}/golden.safetensors`);
    return {
      id: `models/${name}`,
      path: `${folder}/${name}`,
      tolerance: record.tolerance.logits_max_abs,
      routingTolerance: record.tolerance.routing_weights_max_abs,
      sequences: record.sequences.map(({ ids }) => ids),
      greedy: record.sequences.map(({ greedy }) => greedy.tokens),
      llamaCppRms: 0,
      mixture: record.routing !== undefined,
      extend: { prefill: record.extend.prefill, logits: record.extend.logits_of_B },
      batch: record.batch.rows,
      logitsName: (sequence: number) => `seq${sequence}.logits`,
      results,
      routing(sequence, layer) {
        const detailed = sequence === 1 ? record.routing?.[layer] : undefined;
        if (detailed !== undefined) {
          return {
            experts: Int32Array.from(detailed.experts.flat()),
            weights: Float32Array.from(detailed.weights.flat()),
          };
        }
        const name = `seq${sequence}.router.${layer}`;
        const arrays = results();
        if (!arrays.has(`${name}.experts`)) return undefined;
        return {
          experts: arrays.get(`${name}.experts`, "I32"),
          weights: arrays.get(`${name}.weights`, "F32"),
        };
      },
    };
  });
}

interface GgufRecord {
  readonly sequences: readonly (readonly number[])[];
  readonly tolerance: { readonly dequant_max_abs: number };
  readonly files: {
    readonly [type: string]: {
      /** Null where a file was only made to compare with. */
      readonly file: string | null;
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
      if (file.file === null) return [];
      const architecture = String(file.metadata["general.architecture"]);
      const quantised = file.tensor_types.some((type) => !["F32", "F16", "BF16"].includes(type));
      return [{
        id: `gguf/${name}.${type}`,
        path: `${folder}/${name}/${file.file}`,
        tolerance: record.tolerance.dequant_max_abs,
        sequences: record.sequences,
        greedy: file.greedy_dequant,
        llamaCppRms: quantised ? file.rms_llama_cpp_vs_dequant : 0,
        mixture: `${architecture}.expert_count` in file.metadata,
        logitsName: (sequence: number) => `${type}.seq${sequence}.dequant`,
        results: () => readArrays(`${folder}/${name}/golden.safetensors`),
        routing: () => undefined,
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
