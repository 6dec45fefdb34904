/**
 * A model cut lengthwise (Shoeybi et al. 2019, Megatron-LM): every part has some heads of each attention
 * and some columns of each feed-forward block. The first matrices of a block are cut by rows, the last one
 * by columns, so that parts meet once a block, in a sum. Latents, norms, gates and the vocabulary are whole
 * everywhere.
 */

import { OptionError } from "../../errors.ts";
import type { TensorInfo, TensorSource } from "../../formats/tensor_source.ts";
import { decoderSpecs } from "../../model/decoder.ts";
import type { DecoderConfig } from "../../model/decoder_config.ts";
import { latentUpHalf } from "../../model/latent_attention.ts";
import type { WeightRole } from "../../model/names.ts";
import { isPlain } from "../../model/tensor_data.ts";
import { checkpointName } from "../checkpoint_tensors.ts";
import type { StagePlace } from "../tape/stage.ts";

/** How a matrix is cut: whole rows, or a run of each row. */
export type Cut = "rows" | "columns";

const CUTS: Readonly<Partial<Record<WeightRole, Cut>>> = Object.freeze({
  query: "rows",
  queryBias: "rows",
  key: "rows",
  keyBias: "rows",
  value: "rows",
  valueBias: "rows",
  queryUp: "rows",
  latentUp: "rows",
  attentionOutput: "columns",
  gate: "rows",
  up: "rows",
  down: "columns",
  sharedGate: "rows",
  sharedUp: "rows",
  sharedDown: "columns",
  expertsGate: "rows",
  expertsUp: "rows",
  expertsDown: "columns",
});

/** Whole everywhere, though each part has the gradient of its own heads only. */
const PARTIAL: readonly WeightRole[] = ["queryNorm", "keyNorm"];

/** A part of a model. */
export interface Slices {
  /** What the part looks like: a model with fewer heads and columns. */
  readonly config: DecoderConfig;
  /** How a tensor of this name is cut; undefined for those that are whole. */
  cutOf(name: string): Cut | undefined;
  /** Whether a whole tensor's gradient is the sum of all parts'. */
  isPartial(name: string): boolean;
}

/** What each of so many parts is. Throws OptionError where the model cannot be cut like this. */
export function slicesOf(config: DecoderConfig, { count }: Pick<StagePlace, "count">): Slices {
  if (count === 1) return { config, cutOf: () => undefined, isPartial: () => false };
  checkCut(config, count);
  const { attention, mixture } = config;
  const part = (extent: number) => extent / count;
  const sliced: DecoderConfig = {
    ...config,
    heads: part(config.heads),
    kvHeads: part(config.kvHeads),
    intermediateSize: part(config.intermediateSize),
    attention: attention.kind === "latent"
      ? { ...attention, heads: part(attention.heads) }
      : { ...attention, heads: part(attention.heads), kvHeads: part(attention.kvHeads) },
    ...(mixture && {
      mixture: {
        ...mixture,
        expertSize: part(mixture.expertSize),
        sharedSize: part(mixture.sharedSize),
      },
    }),
  };
  const cuts = new Map<string, Cut>();
  const partial = new Set<string>();
  for (const spec of decoderSpecs(config)) {
    const { role } = spec;
    const name = checkpointName(spec, config.names);
    const cut = CUTS[role];
    if (PARTIAL.includes(role)) partial.add(name);
    if (cut === undefined) continue;
    const names = role === "latentUp"
      ? [name, latentUpHalf(name, "keys"), latentUpHalf(name, "values")]
      : [name];
    for (const each of names) cuts.set(each, cut);
  }
  return {
    config: sliced,
    cutOf: (name) => cuts.get(name),
    isPartial: (name) => partial.has(name),
  };
}

function checkCut(config: DecoderConfig, count: number): void {
  const { attention, mixture, intermediateSize, routed } = config;
  const extents: Record<string, number> = { "attention heads": attention.heads };
  if (attention.kind === "grouped") extents["heads of keys"] = attention.kvHeads;
  if (routed.includes(false)) extents["columns of the feed-forward block"] = intermediateSize;
  if (mixture) {
    extents["columns of an expert"] = mixture.expertSize;
    extents["columns of the shared expert"] = mixture.sharedSize;
  }
  for (const [what, is] of Object.entries(extents)) {
    if (is % count !== 0) refuse(count, `its ${what} are ${is}`, `a multiple of ${count}`);
  }
  if (attention.kind === "grouped") {
    if (attention.norms === "row") {
      refuse(count, "queries are normalised by whole rows", "by heads, or not at all");
    }
    if (attention.outputBias) refuse(count, "attention's output has a bias", "without one");
  }
}

function refuse(count: number, is: string, must: string): never {
  throw new OptionError(`cannot cut a model into ${count} tensor parts: ${is}, must be ${must}`);
}

/** A checkpoint as the part at a place sees it: tensors that are cut have its numbers only. */
export function slicedSource(
  source: TensorSource,
  { slices, place }: { slices: Slices; place: StagePlace },
): TensorSource {
  if (place.count === 1) return source;
  const tensors = new Map<string, TensorInfo>();
  for (const info of source.tensors.values()) {
    const cut = slices.cutOf(info.name);
    tensors.set(info.name, cut === undefined ? info : partOfTensor(info, { cut, place }));
  }
  const { locate: _, ...rest } = source;
  return {
    ...rest,
    tensors,
    sidecar: (name) => source.sidecar(name),
    async read(tensor, offset, into) {
      const cut = slices.cutOf(tensor.name);
      if (cut === undefined) return await source.read(tensor, offset, into);
      const whole = source.tensors.get(tensor.name)!;
      const { run, stride, start } = runsOf(whole, { cut, place });
      for (let done = 0; done < into.length;) {
        const index = Math.floor((offset + done) / run);
        const within = (offset + done) % run;
        const length = Math.min(run - within, into.length - done);
        const from = index * stride + start + within;
        await source.read(whole, from, into.subarray(done, done + length));
        done += length;
      }
    },
    close: () => source.close(),
  };
}

interface CutPlace {
  readonly cut: Cut;
  readonly place: StagePlace;
}

function partOfTensor(info: TensorInfo, { cut, place }: CutPlace): TensorInfo {
  if (!isPlain(info.type)) {
    throw new OptionError(
      `cannot cut ${info.name}: it is ${info.type}, must be F32, F16 or BF16`,
    );
  }
  const axis = cut === "rows" ? 0 : info.shape.length - 1;
  const shape = info.shape.with(axis, info.shape[axis] / place.count);
  return { ...info, shape, byteLength: info.byteLength / place.count };
}

/** Bytes of a tensor's runs that a part has, how far they are apart, and where the first begins. */
function runsOf(
  { shape, byteLength }: TensorInfo,
  { cut, place }: CutPlace,
): { run: number; stride: number; start: number } {
  const stride = cut === "rows" ? byteLength : byteLength / shape[0];
  const run = stride / place.count;
  return { run, stride, start: place.index * run };
}
