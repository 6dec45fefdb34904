/**
 * `deno task trace`: runs prompts through a model and writes down which experts each token was given
 * to, for `deno task replay`. What a prompt is about goes with it, since routing depends on it.
 */

import { createBackend } from "../backend/create.ts";
import { loadChatTemplate } from "../chat/mod.ts";
import { CapacityError, FormatError, OptionError, UnsupportedOpError } from "../errors.ts";
import { recordSteps, routingFingerprint } from "../experts/record.ts";
import { documentLine, headerLine, stepLine } from "../experts/trace.ts";
import { baseName, quoted } from "../formats/byte_source.ts";
import { createFile, readWholeFile } from "../formats/deno_file.ts";
import { parseStrictJson } from "../formats/json.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { decodeUtf8 } from "../formats/utf8.ts";
import { Evaluator } from "../model/evaluate.ts";
import { loadModel, readModelConfig } from "../model/registry.ts";
import { Candidates } from "../sampling/candidates.ts";
import { Sampler } from "../sampling/sampler.ts";
import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import { defaultThreads } from "../text/load.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/mod.ts";
import { ENGINE_FLAGS } from "./engine_flags.ts";
import {
  type FlagValues,
  helpText,
  integerFlag,
  numberFlag,
  parseFlags,
  textFlag,
} from "./flags.ts";
import { modelPathOf } from "./model_path.ts";
import {
  type CommandIo,
  printable,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  model: ENGINE_FLAGS.model,
  prompts: textFlag({
    help: 'JSON lines of {"prompt", "kind"} (put to the model as a user would) or {"text", "kind"}',
    placeholder: "FILE",
    must: "the path of a file",
  }),
  text: textFlag({
    help: "a text, of which pieces are continued",
    placeholder: "FILE",
    must: "the path of a file",
  }),
  out: textFlag({
    help: "the trace to write",
    placeholder: "FILE",
    must: "the path of a file",
  }),
  tokens: integerFlag({
    help: "tokens to answer with at most",
    min: 0,
    max: 2 ** 20,
    fallback: 128,
  }),
  documents: integerFlag({
    help: "prompts or pieces at most",
    min: 1,
    max: 2 ** 20,
    fallback: 32,
  }),
  piece: integerFlag({ help: "tokens of a piece of --text", min: 1, max: 2 ** 20, fallback: 64 }),
  chunk: integerFlag({
    help: "tokens of a prompt evaluated at a time",
    min: 1,
    max: 4096,
    fallback: 128,
  }),
  temperature: numberFlag({
    help: "randomness of the answers; 0 always takes the most likely token",
    min: 0,
    max: 2,
    fallback: 0,
  }),
  seed: integerFlag({
    help: "makes random answers other ones",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    fallback: 0,
  }),
  backend: ENGINE_FLAGS.backend,
  activations: ENGINE_FLAGS.activations,
  threads: ENGINE_FLAGS.threads,
  memory: ENGINE_FLAGS.memory,
  "expert-cache": ENGINE_FLAGS["expert-cache"],
  "expert-policy": ENGINE_FLAGS["expert-policy"],
  "expert-groups": ENGINE_FLAGS["expert-groups"],
};

type Values = FlagValues<typeof FLAGS>;

/** Prompts and texts are read whole. */
const MAX_FILE_BYTES = 256 * 1024 * 1024;

interface Document {
  readonly kind: string;
  readonly ids: readonly number[];
}

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { values, help } = parseFlags(FLAGS, { command: "trace", args, env: io.env });
  if (help) {
    const usage = "deno task trace --model PATH (--prompts FILE | --text FILE) --out FILE [flags]";
    const about = "Records which experts a model chooses for prompts and its answers to them.";
    write(io.stdout, `${helpText(FLAGS, { usage, about })}\n`);
    return 0;
  }
  if ((values.prompts === undefined) === (values.text === undefined)) {
    const is = values.text === undefined ? "neither --prompts nor --text is" : "both are";
    throw new OptionError(`cannot trace: ${is} given, must be one of --prompts and --text`);
  }
  if (values.out === undefined) {
    throw new OptionError("cannot trace: --out is missing, must be the path of a file");
  }
  const source = await openCheckpoint(modelPathOf(values.model));
  try {
    const documents = await readDocuments(source, values);
    const counts = await record(source, { values, out: values.out, documents, io });
    write(
      io.stdout,
      `${baseName(values.out)}: ${documents.length} documents, ` +
        `${counts.prefill} steps of prompts, ${counts.decode} of answers\n`,
    );
  } finally {
    source.close();
  }
  return 0;
}

async function record(
  source: TensorSource,
  options: { values: Values; out: string; documents: readonly Document[]; io: CommandIo },
): Promise<{ prefill: number; decode: number }> {
  const { values, out, documents, io } = options;
  const { chunk, tokens, temperature, seed } = values;
  const { contextLength, vocabSize } = readModelConfig(source);
  const longest = Math.max(...documents.map(({ ids }) => ids.length));
  if (longest + tokens > contextLength) {
    throw new CapacityError(
      `cannot trace: the longest prompt is ${longest} tokens and ${tokens} are added, ` +
        `must fit the model's context of ${contextLength}`,
    );
  }
  const backend = await createBackend({
    ...values,
    threads: values.threads ?? defaultThreads(),
    weightBytes: source.byteLength,
    memoryBytes: values.memory,
    expertCacheBytes: values["expert-cache"],
    expertPolicy: values["expert-policy"],
  });
  const file = openOutput(out);
  try {
    const maxRows = Math.min(chunk, longest);
    const model = await loadModel({
      source,
      backend,
      maxRows,
      maxLogitRows: 1,
      foresee: true,
      expertGroups: values["expert-groups"],
      onWarning: (line) => write(io.stderr, `${printable(line)}\n`),
    });
    const { routedLayers } = model;
    if (routedLayers.length === 0) {
      throw new UnsupportedOpError(
        `cannot trace "${source.name}": it has no routed experts, must be a mixture of experts`,
      );
    }
    const { experts, topK } = routedLayers[0];
    const encoder = new TextEncoder();
    const line = (text: string) => file.write(encoder.encode(text));
    const fingerprint = await routingFingerprint(source);
    const layers = routedLayers.map(({ layer }) => layer);
    line(headerLine({ model: { name: source.name, fingerprint }, layers, experts, topK }));
    const evaluator = new Evaluator({
      model,
      backend,
      maxRows,
      sequences: 1,
      tokens: longest + tokens,
    });
    const { eosTokens } = await loadTokenizer(source);
    const candidates = new Candidates(vocabSize);
    const counts = { prefill: 0, decode: 0 };
    const bar = progressBar(io.stderr, "Recording");
    for (const [i, { kind, ids }] of documents.entries()) {
      line(documentLine(kind));
      const params = { ...NEUTRAL_SAMPLING, temperature, seed: seed + i };
      const sampler = new Sampler({ params, prompt: ids, candidates });
      const steps = recordSteps({
        evaluator,
        ids,
        chunk: maxRows,
        tokens,
        choose: (logits) => sampler.sample(logits),
        isEnd: (token) => eosTokens.includes(token),
      });
      for await (const step of steps) {
        line(stepLine(step));
        counts[step.prefill ? "prefill" : "decode"]++;
      }
      bar.onProgress({ loadedBytes: i + 1, totalBytes: documents.length });
    }
    bar.clear();
    return counts;
  } finally {
    file.close();
    backend.close();
  }
}

/** The documents as token ids, all of them checked before anything is computed. */
async function readDocuments(source: TensorSource, values: Values): Promise<Document[]> {
  const tokenizer = await loadTokenizer(source);
  if (values.text !== undefined) {
    return await piecesOf(readText(values.text), { tokenizer, ...values, name: values.text });
  }
  const path = values.prompts as string;
  const template = await loadChatTemplate(source, { tokenizer });
  const documents: Document[] = [];
  for (const [i, line] of readText(path).split("\n").entries()) {
    if (line.trim() === "" || documents.length === values.documents) continue;
    const { text, chat, kind } = parsePrompt(line, `${quoted(baseName(path))}, line ${i + 1}`);
    // The prompts are the user's own, so that control tokens in them are meant as such.
    const ids = chat
      ? await tokenizer.encodeAsync(template.render([{ role: "user", content: text }]), {
        addSpecial: false,
        parseSpecial: true,
      })
      : await tokenizer.encodeAsync(text, { addSpecial: true, parseSpecial: true });
    documents.push({ kind, ids });
  }
  if (documents.length > 0) return documents;
  throw FormatError.of(`read ${quoted(baseName(path))}`, "the file", "without prompts", "some");
}

function parsePrompt(line: string, place: string): { text: string; chat: boolean; kind: string } {
  const action = `read ${place}`;
  const fields = parseStrictJson(line, { action });
  if (!(fields instanceof Map)) throw FormatError.of(action, "the line", "no object", "an object");
  const [prompt, text, kind] = ["prompt", "text", "kind"].map((key) => {
    const value = fields.get(key);
    if (value === undefined || (typeof value === "string" && value !== "")) return value;
    throw FormatError.of(action, `"${key}"`, "something else", "a text that is not empty");
  });
  if ((prompt === undefined) === (text === undefined)) {
    const is = prompt === undefined ? "missing" : 'there beside "text"';
    throw FormatError.of(action, '"prompt"', is, 'there, or "text" in its place');
  }
  return { text: (prompt ?? text)!, chat: prompt !== undefined, kind: kind ?? "any" };
}

/** Pieces of a text, evenly spread over it. */
async function piecesOf(
  text: string,
  options: { tokenizer: Tokenizer; piece: number; documents: number; name: string },
): Promise<Document[]> {
  const { tokenizer, piece, documents, name } = options;
  const ids = await tokenizer.encodeAsync(text, { addSpecial: false, parseSpecial: false });
  if (ids.length === 0) {
    throw FormatError.of(`read ${quoted(baseName(name))}`, "the text", "empty", "a text");
  }
  const kind = baseName(name).replace(/\.[^.]*$/, "");
  const count = Math.min(documents, Math.ceil(ids.length / piece));
  return Array.from({ length: count }, (_, i) => {
    const start = Math.floor((i * Math.max(0, ids.length - piece)) / Math.max(1, count - 1));
    return { kind, ids: [...tokenizer.prefix, ...ids.slice(start, start + piece)] };
  });
}

function readText(path: string): string {
  const name = quoted(baseName(path));
  const bytes = readWholeFile(path, MAX_FILE_BYTES);
  if (bytes === null) throw FormatError.of(`read ${name}`, "the file", "missing", "there");
  const text = decodeUtf8(bytes);
  if (text === null) throw FormatError.of(`read ${name}`, "its text", "not UTF-8", "valid UTF-8");
  return text;
}

function openOutput(path: string): ReturnType<typeof createFile> {
  try {
    return createFile(path);
  } catch (error) {
    throw new OptionError(
      `cannot trace: --out cannot be written (${(error as Error).name}), ` +
        "must be the path of a file in a folder that is there",
    );
  }
}

if (import.meta.main) await runCommand(() => main(Deno.args));
