/** What `inspect` finds out about a checkpoint, by opening it as the loader does. */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { loadChatTemplate } from "../chat/mod.ts";
import { DEFAULT_KV_TYPE } from "../engine/limits.ts";
import { cachePageBytes } from "../engine/sizing.ts";
import { type CheckpointSummary, inspectCheckpoint } from "../formats/inspect.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { loadModel } from "../model/registry.ts";
import type { ModelConfig } from "../model/types.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../text/load.ts";
import { loadTokenizer } from "../tokenizer/mod.ts";
import { MeasuringBackend } from "../backend/measuring.ts";
import { formatBytes, formatCount, printable } from "./terminal.ts";

/** Hyper-parameters by our names; the rotary frequencies are left out. */
type Hyperparameters = Omit<ModelConfig, "rope"> & {
  readonly ropeDim: number;
  readonly ropePairing: string;
};

export interface Inspection extends CheckpointSummary {
  readonly parameters: number;
  readonly activeParameters: number;
  readonly config: Hyperparameters;
  /** Null in dense models. */
  readonly experts: {
    readonly layers: number;
    readonly perLayer: number;
    readonly perToken: number;
  } | null;
  /** Null where the checkpoint has none. */
  readonly tokenizer: { readonly vocabSize: number; readonly eosTokens: readonly number[] } | null;
  readonly chatTemplate: boolean;
  /** Bytes. Weights are counted as the file has them. */
  readonly memory: {
    readonly weights: number;
    readonly workspace: number;
    readonly kvPerToken: number;
    readonly contextLength: number;
    readonly kvAtContext: number;
  };
}

function hasTokenizer(source: TensorSource, document: string | null): boolean {
  return source.format === "gguf" ? source.metadata.has("tokenizer.ggml.model") : document !== null;
}

async function inspectSource(source: TensorSource, contextLength?: number): Promise<Inspection> {
  const summary = inspectCheckpoint(source);
  const backend = new MeasuringBackend();
  const { chunkTokens, slots } = DEFAULT_ENGINE_OPTIONS;
  const model = await loadModel({
    source,
    backend,
    maxRows: chunkTokens + slots,
    maxLogitRows: slots,
  });
  const { weights, workspace } = backend.memory();
  const kvPerToken = cachePageBytes(model.config, DEFAULT_KV_TYPE) / PAGE_TOKENS;
  const speaks = hasTokenizer(source, await source.sidecar("tokenizer.json"));
  const tokenizer = speaks ? await loadTokenizer(source) : null;
  const template = tokenizer && await loadChatTemplate(source, { tokenizer });
  const { rope, ...config } = model.config;
  const [routed] = model.routedLayers;
  const context = Math.min(contextLength ?? config.contextLength, config.contextLength);
  return {
    ...summary,
    parameters: model.parameters,
    activeParameters: model.activeParameters,
    config: { ...config, ropeDim: rope.dim, ropePairing: rope.pairing },
    experts: routed === undefined ? null : {
      layers: model.routedLayers.length,
      perLayer: routed.experts,
      perToken: routed.topK,
    },
    tokenizer: tokenizer && { vocabSize: tokenizer.vocabSize, eosTokens: tokenizer.eosTokens },
    chatTemplate: template !== null && !template.isFallback,
    memory: {
      weights,
      workspace,
      kvPerToken,
      contextLength: context,
      kvAtContext: kvPerToken * context,
    },
  };
}

/** Opens the checkpoint, checks everything that loading checks, and closes it again. */
export async function inspectPath(
  path: string,
  options: { contextLength?: number } = {},
): Promise<Inspection> {
  const source = await openCheckpoint(path);
  try {
    return await inspectSource(source, options.contextLength);
  } finally {
    source.close();
  }
}

/** What the cache keeps is not keys and values of each head where attention is latent. */
function attentionText({ heads, headDim, cacheShape: shape }: Hyperparameters): string {
  return "kvHeads" in shape
    ? `${heads} heads of ${headDim}, ${shape.kvHeads} for keys and values`
    : `${heads} heads of ${headDim} over latents, ${shape.latentDim + shape.ropeDim} values each`;
}

/** The inspection as text for people. */
export function formatInspection(inspection: Inspection): string {
  const { config, memory, tokenizer, experts } = inspection;
  const rows: [string, string][] = [
    ["file", `${inspection.name} (${inspection.format}, ${formatBytes(inspection.fileBytes)})`],
    ["architecture", config.architecture],
    [
      "parameters",
      `${formatCount(inspection.parameters)} (${inspection.parameters}), ` +
      `${formatCount(inspection.activeParameters)} active`,
    ],
    ["layers", String(config.layers)],
    ["hidden size", `${config.hiddenSize}, intermediate ${config.intermediateSize}`],
    ["attention", attentionText(config)],
    ...(experts === null ? [] : [[
      "experts",
      `${experts.perLayer} in each of ${experts.layers} layers, ${experts.perToken} for a token`,
    ] as [string, string]]),
    ["rotary", `${config.ropeDim} of ${config.headDim} values, ${config.ropePairing}`],
    ["vocabulary", `${config.vocabSize}${config.tiedEmbeddings ? ", embeddings tied" : ""}`],
    ["context", `${config.contextLength} tokens`],
    [
      "tokenizer",
      tokenizer === null
        ? "none"
        : `${tokenizer.vocabSize} tokens, ends with ${tokenizer.eosTokens.join(", ") || "none"}`,
    ],
    ["chat template", inspection.chatTemplate ? "yes" : "no"],
    ...inspection.types.map((type): [string, string] => [
      `tensors ${type.type}`,
      `${type.tensors}, ${formatCount(type.parameters)} values, ${formatBytes(type.bytes)}`,
    ]),
    [
      "memory",
      `${formatBytes(memory.weights)} weights, ${formatBytes(memory.workspace)} workspace, ` +
      `${formatBytes(memory.kvPerToken)} KV per token, ` +
      `${formatBytes(memory.kvAtContext)} at ${memory.contextLength} tokens`,
    ],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => printable(`${name.padEnd(width)}  ${value}`)).join("\n");
}

/** A path's line for `--stdin`. */
export interface InspectionLine {
  readonly path: string;
  readonly ok: boolean;
  readonly error?: { readonly class: string; readonly message: string };
}

/** Inspects a path and says how it went; whatever is wrong with the file, this resolves. */
export async function inspectionLine(path: string): Promise<InspectionLine> {
  try {
    await inspectPath(path);
    return { path, ok: true };
  } catch (error) {
    const known = error instanceof Error;
    return {
      path,
      ok: false,
      error: {
        class: known ? error.name : "Error",
        message: known ? error.message : String(error),
      },
    };
  }
}
