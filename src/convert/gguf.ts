/**
 * A Hugging Face checkpoint as a GGUF file: planned whole, then written tensor by tensor, of which a few
 * megabytes are in memory at a time. The same checkpoint gives the same bytes every time.
 */

import type { LoadProgress } from "../engine/types.ts";
import { FormatError, OptionError } from "../errors.ts";
import { quoted } from "../formats/byte_source.ts";
import { type GgufContent, type GgufDeclaration, GgufWriter } from "../formats/gguf/writer.ts";
import type { ByteSink } from "../formats/safetensors/writer.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import type { DecoderConfig } from "../model/decoder_config.ts";
import { readModelConfig } from "../model/registry.ts";
import { dequantize } from "../quant/dequantize.ts";
import { quantize, type WritableType } from "../quant/quantize.ts";
import { rowBytes, TENSOR_TYPES } from "../quant/types.ts";
import { readDefaultSampling } from "../text/default_sampling.ts";
import type { TensorData } from "../backend/backend.ts";
import { hyperParameters } from "./hyper_parameters.ts";
import { convertedTensors, ropeFactorsTensor } from "./tensors.ts";
import { tokenizerKeys } from "./tokenizer_keys.ts";
import { chooseType, type ChosenType, FILE_TYPES, type Quantisation } from "./types.ts";
import { f32, i32, type KeyValues, metadataOf, text, u32 } from "./values.ts";

/** Values converted at a time; whole rows, at least one. */
const CHUNK_VALUES = 2 ** 18;

interface PlannedTensor extends GgufDeclaration, ChosenType {
  readonly parts: readonly TensorData[];
}

/** A file that can be written. */
export interface GgufPlan extends GgufContent {
  readonly tensors: readonly PlannedTensor[];
  /** Bytes of all tensors. */
  readonly byteLength: number;
  /** What is not as it was asked for, or gets lost, a sentence each. */
  readonly notices: readonly string[];
}

/** Throws OptionError for a GGUF file, UnsupportedOpError and FormatError for what cannot be written. */
export async function planGguf(
  source: TensorSource,
  options: { quantisation: Quantisation; name: string; onProgress?: LoadProgress },
): Promise<GgufPlan> {
  const { quantisation, name, onProgress } = options;
  if (source.format === "gguf") {
    throw new OptionError(`cannot export ${quoted(source.name)}: it is GGUF, must be a folder`);
  }
  const config = readModelConfig(source) as DecoderConfig;
  const { keys, ropeFactors } = hyperParameters(source, config);
  const tokenizer = await tokenizerKeys(source, config);
  const { layers, tiedEmbeddings, nextTokenLayers } = config;
  const tensors = [
    ...convertedTensors(source, { config, ...(onProgress && { onProgress }) }),
    ...(ropeFactors ? [ropeFactorsTensor(ropeFactors)] : []),
  ].map((tensor): PlannedTensor => {
    const chosen = chooseType(tensor, { quantisation, layers, tiedEmbeddings });
    const cols = tensor.shape.at(-1) as number;
    const rows = tensor.shape.reduce((product, extent) => product * extent, 1) / cols;
    return {
      name: tensor.name,
      shape: tensor.shape,
      parts: tensor.parts,
      ...chosen,
      typeId: TENSOR_TYPES[chosen.type].ggmlId,
      byteLength: rows * rowBytes(chosen.type, cols),
    };
  });
  const general: KeyValues = {
    "general.architecture": text(config.architecture),
    "general.type": text("model"),
    "general.name": text(name),
    "general.file_type": u32(FILE_TYPES[quantisation]),
    "general.quantization_version": u32(2),
    ...(await samplingKeys(source)),
  };
  return {
    metadata: metadataOf(general, keys, tokenizer.keys),
    tensors,
    byteLength: tensors.reduce((sum, { byteLength }) => sum + byteLength, 0),
    notices: [
      ...substitutions(tensors),
      ...tokenizer.notices,
      ...(holdsLayer(source, layers)
        ? [`${nextTokenLayers} layers that predict further tokens are left out`]
        : []),
    ],
  };
}

/** transformers writes DeepSeek-V3's `num_nextn_predict_layers` for models without such layers, too. */
function holdsLayer(source: TensorSource, layer: number): boolean {
  return source.tensors.keys().some((name) => name.startsWith(`model.layers.${layer}.`));
}

async function samplingKeys(source: TensorSource): Promise<KeyValues> {
  const { temperature, topK, topP, minP, repetitionPenalty } = await readDefaultSampling(source);
  const given = (value: number | undefined, typed: typeof f32) =>
    value === undefined ? undefined : typed(value);
  return {
    "general.sampling.temp": given(temperature, f32),
    "general.sampling.top_k": given(topK, i32),
    "general.sampling.top_p": given(topP, f32),
    "general.sampling.min_p": given(minP, f32),
    "general.sampling.penalty_repeat": given(repetitionPenalty, f32),
  };
}

/** A sentence for each type that had to give way to another one. */
function substitutions(tensors: readonly PlannedTensor[]): string[] {
  const other = tensors.filter(({ type, wanted }) => type !== wanted);
  const groups = Map.groupBy(other, ({ type, wanted }) => `${wanted} ${type}`);
  return [...groups.values()].map((group) => {
    const [{ name, shape, type, wanted }] = group;
    const more = group.length === 1
      ? ""
      : ` and ${group.length - 1} other${group.length > 2 ? "s" : ""}`;
    return `${type} in place of ${wanted}: ${name} (rows of ${shape.at(-1)})${more}; ` +
      `${wanted} takes rows of a multiple of ${TENSOR_TYPES[wanted].blockValues}`;
  });
}

/** Writes the whole file. Throws FormatError naming the tensor with a value that is not finite. */
export async function writeGguf(plan: GgufPlan, sink: ByteSink): Promise<void> {
  const writer = new GgufWriter(plan, sink);
  for (const { name, parts, type } of plan.tensors) {
    for (const part of parts) {
      for await (const values of valuesOf(part)) {
        const bad = values.findIndex((value) => !Number.isFinite(value));
        if (bad >= 0) {
          const what = `a value of tensor ${quoted(name)}`;
          throw FormatError.of("export this model", what, values[bad], "finite");
        }
        writer.write(bytesOf(type, values));
      }
    }
  }
  writer.finish();
}

function bytesOf(type: WritableType, values: Float32Array): Uint8Array {
  return type === "F32"
    ? new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    : quantize(type, values);
}

/** A tensor's values, some rows at a time. */
async function* valuesOf(tensor: TensorData): AsyncGenerator<Float32Array> {
  const { type, rows, cols } = tensor;
  const rowLength = rowBytes(type, cols);
  const rowsAtOnce = Math.max(1, Math.floor(CHUNK_VALUES / cols));
  for (let row = 0; row < rows; row += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - row);
    const bytes = new Uint8Array(count * rowLength);
    await tensor.read(row * rowLength, bytes);
    const values = new Float32Array(count * cols);
    dequantize(type, bytes, values);
    yield values;
  }
}
