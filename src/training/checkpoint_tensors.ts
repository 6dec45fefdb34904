/**
 * A model's parameters as the tensors of a Hugging Face checkpoint, by name and shape: what is written to
 * one, and read from it to go on. What the model reads in another order is put in the checkpoint's.
 */

import type { Parameter, Slot, TrainingBackend } from "../backend/training.ts";
import { FormatError } from "../errors.ts";
import { decoderSpecs } from "../model/decoder.ts";
import type { DecoderConfig } from "../model/decoder_config.ts";
import { type LatentAttentionConfig, latentUpHalf } from "../model/latent_attention.ts";
import { tensorName } from "../model/names.ts";
import type { WeightSpec } from "../model/weights.ts";
import { correctionBiases, type ModelParameters } from "./model_parameters.ts";

export interface CheckpointTensor {
  readonly name: string;
  /** Outermost extent first. */
  readonly shape: readonly number[];
  /** Copies a slot's numbers, row-major; of gradients and moments only where there are any. */
  read(slot: Slot): Promise<Float32Array>;
  write(slot: Slot, values: Float32Array): Promise<void>;
}

/** A tensor's numbers within a parameter. */
interface Place {
  readonly parameter: Parameter;
  readonly part: number;
}

/** The tensors of a decoder's checkpoint, in the order in which a step reads them. */
export function checkpointTensors(
  config: DecoderConfig,
  { backend, parameters }: { backend: TrainingBackend; parameters: ModelParameters },
): CheckpointTensor[] {
  const places = placesOf(backend, parameters);
  const find = (name: string): Place => {
    const place = places.get(name);
    if (place !== undefined) return place;
    throw FormatError.of(
      "name the tensors of a checkpoint",
      `tensor "${name}"`,
      "missing",
      "trained",
    );
  };
  const { attention, names } = config;
  return decoderSpecs(config).map((spec): CheckpointTensor => {
    const name = checkpointName(spec, names);
    const { shape } = spec;
    if (spec.role !== "latentUp" || attention.kind !== "latent") {
      return { name, shape, ...tensorAt(backend, find(name)) };
    }
    const keys = tensorAt(backend, find(latentUpHalf(name, "keys")));
    const values = tensorAt(backend, find(latentUpHalf(name, "values")));
    return { name, shape, ...joinedUp(attention, { keys, values }) };
  });
}

type ReadWrite = Pick<CheckpointTensor, "read" | "write">;

function placesOf(backend: TrainingBackend, parameters: ModelParameters): Map<string, Place> {
  const biases = correctionBiases(parameters).map(({ bias }) => backend.parameterOf(bias));
  const places = new Map<string, Place>();
  for (const parameter of [...parameters.trained, ...biases]) {
    for (const [part, name] of parameter.names.entries()) places.set(name, { parameter, part });
  }
  return places;
}

/** A weight's name in a checkpoint of this family. */
export function checkpointName(
  { role, layer, expert }: WeightSpec,
  names: DecoderConfig["names"],
): string {
  return tensorName(role, {
    format: "safetensors",
    ...(layer !== undefined && { layer }),
    ...(expert !== undefined && { expert }),
    ...(names && { names }),
  });
}

function tensorAt(backend: TrainingBackend, { parameter, part }: Place): ReadWrite {
  const each = parameter.rows * parameter.cols;
  return {
    async read(slot) {
      const all = await backend.readParameter(parameter, slot);
      return parameter.names.length === 1 ? all : all.slice(part * each, (part + 1) * each);
    },
    async write(slot, values) {
      if (parameter.names.length === 1) return backend.writeParameter(parameter, slot, values);
      const all = await backend.readParameter(parameter, slot);
      all.set(values, part * each);
      backend.writeParameter(parameter, slot, all);
    },
  };
}

/**
 * The up projection of latents, `[heads * (nope + value), latent]`, of its halves: keys' rows transposed
 * head by head, values' as they are.
 */
function joinedUp(
  { heads, nopeDim, valueDim, latentDim }: LatentAttentionConfig,
  { keys, values }: { keys: ReadWrite; values: ReadWrite },
): ReadWrite {
  const perHead = (nopeDim + valueDim) * latentDim;
  /** Calls `move` with the place of each number in the whole, and in its half. */
  const eachNumber = (move: (whole: number, half: "keys" | "values", at: number) => void) => {
    for (let h = 0; h < heads; h++) {
      for (let c = 0; c < latentDim; c++) {
        for (let r = 0; r < nopeDim; r++) {
          const at = (h * latentDim + c) * nopeDim + r;
          move(h * perHead + r * latentDim + c, "keys", at);
        }
        for (let r = 0; r < valueDim; r++) {
          const at = (h * valueDim + r) * latentDim + c;
          move(h * perHead + (nopeDim + r) * latentDim + c, "values", at);
        }
      }
    }
  };
  return {
    async read(slot) {
      const halves = { keys: await keys.read(slot), values: await values.read(slot) };
      const all = new Float32Array(heads * perHead);
      eachNumber((whole, half, at) => all[whole] = halves[half][at]);
      return all;
    },
    async write(slot, all) {
      const halves = {
        keys: new Float32Array(heads * nopeDim * latentDim),
        values: new Float32Array(heads * valueDim * latentDim),
      };
      eachNumber((whole, half, at) => halves[half][at] = all[whole]);
      await keys.write(slot, halves.keys);
      await values.write(slot, halves.values);
    },
  };
}
