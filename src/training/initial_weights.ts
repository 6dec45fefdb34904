/**
 * A model that has learnt nothing yet: a checkpoint of random weights for a config.json. A tensor's numbers
 * depend on the seed and its name alone, and are the same on every machine.
 */

import type { MetadataValue, TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import type { DecoderConfig } from "../model/decoder_config.ts";
import { decoderSpecs } from "../model/decoder.ts";
import { tensorName, type WeightRole } from "../model/names.ts";
import { readModelConfig } from "../model/registry.ts";
import { Xoshiro128 } from "../sampling/random.ts";
import { hashText } from "./data/hash.ts";

export interface InitialOptions {
  readonly seed: number;
  /** Standard deviation of matrices (`initializer_range`); 0.02 by default. */
  readonly deviation?: number;
}

/** Numbers that a role begins with where they are not random. */
function constantOf(role: WeightRole): number | undefined {
  if (/Norm$/.test(role)) return 1;
  return /Bias$/.test(role) ? 0 : undefined;
}

/** A source of random weights in the shapes that a Hugging Face configuration asks for. */
export function initialWeights(
  config: Readonly<Record<string, MetadataValue>>,
  { seed, deviation = 0.02 }: InitialOptions,
): TensorSource {
  const metadata = new Map(Object.entries(config));
  const empty: TensorSource = {
    format: "safetensors",
    name: "initial weights",
    byteLength: 0,
    tensors: new Map(),
    otherTensors: new Map(),
    metadata,
    sidecar: () => Promise.resolve(null),
    read: () => Promise.reject(new RangeError("cannot read initial weights: there are none")),
    close() {},
  };
  const model = readModelConfig(empty) as DecoderConfig;
  const constants = new Map<string, number>();
  const tensors = new Map<string, TensorInfo>();
  for (const { role, shape, layer, expert } of decoderSpecs(model)) {
    const name = tensorName(role, {
      format: "safetensors",
      ...(layer !== undefined && { layer }),
      ...(expert !== undefined && { expert }),
      ...(model.names && { names: model.names }),
    });
    const byteLength = 4 * shape.reduce((product, extent) => product * extent, 1);
    tensors.set(name, { name, type: "F32", shape, byteLength });
    const constant = constantOf(role);
    if (constant !== undefined) constants.set(name, constant);
  }
  return {
    ...empty,
    byteLength: [...tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0),
    tensors,
    read({ name, byteLength }, offset, into) {
      const count = byteLength / 4;
      const constant = constants.get(name);
      const values = constant === undefined
        ? randomValues(count, { name: `${seed}/${name}`, deviation })
        : new Float32Array(count).fill(constant);
      into.set(new Uint8Array(values.buffer, offset, into.length));
      return Promise.resolve();
    },
  };
}

/** Sums of four even draws: close to normal, and made of additions only, which are exact everywhere. */
function randomValues(
  count: number,
  { name, deviation }: { name: string; deviation: number },
): Float32Array {
  const random = new Xoshiro128(hashText(name));
  const unit = deviation * Math.sqrt(3) / 2 ** 32;
  const draw = () => random.nextUint32();
  return Float32Array.from(
    { length: count },
    () => (draw() + draw() + draw() + draw() - 2 ** 33) * unit,
  );
}
