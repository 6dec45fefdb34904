/**
 * `deno task plan`: what a model would take, from its configuration or its file: parameters, bytes,
 * what decoding reads and how fast that can be, and what fits into a memory.
 */

import { FormatError, OptionError } from "../errors.ts";
import { outlineFromConfig } from "../experts/outline_config.ts";
import type { ModelOutline } from "../experts/outline.ts";
import { outlineFromTensors } from "../experts/outline_tensors.ts";
import { planModel, type Storage } from "../experts/plan_model.ts";
import { countTrace } from "../experts/routing_counts.ts";
import { baseName, quoted } from "../formats/byte_source.ts";
import { pathKind, readWholeFile } from "../formats/deno_file.ts";
import { parseStrictJson, toPlainJson } from "../formats/json.ts";
import { MAX_SIDECAR_BYTES } from "../formats/limits.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { MetadataValue } from "../formats/tensor_source.ts";
import { decodeUtf8 } from "../formats/utf8.ts";
import { TENSOR_TYPES } from "../quant/types.ts";
import { defaultThreads } from "../text/load.ts";
import { ENGINE_FLAGS, ROUTING_FLAG } from "./engine_flags.ts";
import {
  type Flag,
  helpText,
  integerFlag,
  listFlag,
  numberFlag,
  parseFlags,
  sizeFlag,
  switchFlag,
  textFlag,
} from "./flags.ts";
import { formatHybridPlans, planHybrids } from "./plan_hybrid.ts";
import { formatPlan } from "./plan_report.ts";
import { type CommandIo, processIo, runCommand, write } from "./terminal.ts";
import { readTrace } from "./trace_file.ts";

const bandwidthFlag: Flag<number | undefined> = {
  help: "what memory gives, in GB/s, for an upper bound of tokens/s",
  placeholder: "GB/s",
  must: "a number of GB/s from 0.001 to 100000",
  fallback: undefined,
  parse: (text) => {
    const value = /^\d{1,6}(\.\d{1,6})?$/.test(text) ? Number(text) : NaN;
    return value >= 0.001 && value <= 100_000 ? value : undefined;
  },
};

/** Where nothing is said: as published, unquantised, and what llama.cpp users mostly take. */
const USUAL: readonly Storage[] = ["BF16", "F8", "Q8_0", "Q4_K"];

/** Tokens in the cache where nothing is said, if the model takes as many. */
const USUAL_CONTEXT = 4096;

const FLAGS = {
  config: textFlag({
    help: "a config.json, a .gguf or .safetensors file, or a Hugging Face folder",
    placeholder: "PATH",
    must: "the path of a configuration or a model",
  }),
  memory: sizeFlag({ help: "what weights and cache may spend" }),
  bandwidth: bandwidthFlag,
  context: integerFlag({
    help: "tokens in the cache",
    min: 1,
    max: 2 ** 31 - 1,
    fallback: undefined,
    shown: `${USUAL_CONTEXT}, or the model's own where that is less`,
  }),
  quant: listFlag({
    help: "types of the weights, F8 for FP8 in blocks of 128x128, file for the file's own",
    placeholder: "TYPE,...",
    must: `a list of F8, file, ${Object.keys(TENSOR_TYPES).join(", ")}`,
    accepts: (word) => word === "F8" || word === "file" || Object.hasOwn(TENSOR_TYPES, word),
  }),
  "gpu-memory": sizeFlag({
    help: "also plan it for a GPU and the CPU together, with so much memory on the GPU",
    shown: "not",
  }),
  routing: ROUTING_FLAG,
  slots: integerFlag({
    help: "for --gpu-memory: answers computed side by side",
    min: 1,
    max: 64,
    fallback: 16,
  }),
  crossing: numberFlag({
    help: "for --gpu-memory: milliseconds of a wait for the GPU; 0: measured, where a GPU is here",
    placeholder: "MS",
    min: 0,
    max: 1000,
    fallback: 0,
  }),
  threads: ENGINE_FLAGS.threads,
  activations: ENGINE_FLAGS.activations,
  json: switchFlag({ help: "print one JSON object" }),
};

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { values, help } = parseFlags(FLAGS, { command: "plan", args, env: io.env });
  if (help) {
    const usage = "deno task plan --config CONFIG_JSON_OR_MODEL [flags]";
    const about = "Says what a model takes, without loading it.";
    write(io.stdout, `${helpText(FLAGS, { usage, about })}\n`);
    return 0;
  }
  if (values.config === undefined) {
    throw new OptionError(
      "cannot plan: --config is missing, must be the path of a config.json or a model",
    );
  }
  const outline = await readOutline(values.config);
  const stored: readonly Storage[] = outline.parts.some(({ bytes }) => bytes !== undefined)
    ? ["file"]
    : [];
  const context = values.context ?? Math.min(USUAL_CONTEXT, outline.contextLength);
  const plan = planModel(outline, {
    storages: values.quant.length > 0 ? values.quant as Storage[] : [...stored, ...USUAL],
    context,
    ...(values.memory !== undefined && { memoryBytes: values.memory }),
    ...(values.bandwidth !== undefined && { bandwidth: values.bandwidth * 1e9 }),
  });
  const deviceBytes = values["gpu-memory"];
  const hybrids = deviceBytes === undefined ? [] : await planHybrids(outline, {
    deviceBytes,
    // Measuring takes a moment for each.
    storages: values.quant.length > 0
      ? values.quant as Storage[]
      : stored.length > 0
      ? stored
      : USUAL,
    hostBytes: values.memory,
    counts: values.routing === undefined ? undefined : countTrace(readTrace(values.routing)),
    slots: values.slots,
    context,
    threads: values.threads ?? defaultThreads(),
    activations: values.activations,
    hostBytesPerSecond: values.bandwidth === undefined ? undefined : values.bandwidth * 1e9,
    crossingSeconds: values.crossing === 0 ? undefined : values.crossing / 1000,
  });
  const json = () => JSON.stringify(deviceBytes === undefined ? plan : { ...plan, hybrids });
  const text = () =>
    [formatPlan(plan), ...(hybrids.length > 0 ? [formatHybridPlans(hybrids)] : [])].join("\n\n");
  write(io.stdout, `${values.json ? json() : text()}\n`);
  return 0;
}

/** The outline of a configuration, of a folder's where the weights are not there, or of a model. */
async function readOutline(path: string): Promise<ModelOutline> {
  if (/\.json$/i.test(path)) return outlineOfConfig(path);
  if (pathKind(path) === "folder") {
    const folder = path.replace(/\/+$/, "");
    const weights = ["model.safetensors", "model.safetensors.index.json"];
    const hasWeights = weights.some((name) => pathKind(`${folder}/${name}`) === "file");
    if (!hasWeights) return outlineOfConfig(`${folder}/config.json`);
  }
  const source = await openCheckpoint(path);
  try {
    return outlineFromTensors(source);
  } finally {
    source.close();
  }
}

function outlineOfConfig(path: string): ModelOutline {
  const name = baseName(path);
  const action = `read ${quoted(name)}`;
  const bytes = readWholeFile(path, MAX_SIDECAR_BYTES);
  if (bytes === null) throw FormatError.of(action, "the file", "missing", "there");
  const text = decodeUtf8(bytes);
  if (text === null) throw FormatError.of(action, "its text", "not UTF-8", "valid UTF-8");
  const fields = parseStrictJson(text, { action });
  if (!(fields instanceof Map)) throw FormatError.of(action, "the text", "no object", "an object");
  const config = new Map<string, MetadataValue>();
  for (const [key, value] of fields) config.set(key, toPlainJson(value));
  return outlineFromConfig(config, { name });
}

if (import.meta.main) await runCommand(() => main(Deno.args));
