/** A corpus as a run reads it: packed sequences, problems on both sides, and the tokenizer. */

import { loadChatTemplate } from "../../chat/mod.ts";
import { FormatError } from "../../errors.ts";
import { LENGTH_BYTES } from "../../formats/safetensors/header.ts";
import { loadTokenizer, type Tokenizer } from "../../tokenizer/mod.ts";
import type { OutputFolder } from "../data/build/folder.ts";
import { corpusRows, readManifest } from "../data/corpus.ts";
import { SampleEncoder } from "../data/packing/encode.ts";
import { readPacked } from "../data/packing/packed_file.ts";
import type { Row } from "../data/rows.ts";
import type { PackedFile } from "../phases/packed_stream.ts";
import { chosenRows, type Prompt, promptOfRow } from "../phases/prompts.ts";

/** The folders of a corpus that `task data` made. */
export interface CorpusFolders {
  readonly rows: OutputFolder;
  readonly tokenizer: OutputFolder;
  readonly packed: OutputFolder;
}

export interface RunData {
  readonly fingerprint: string;
  readonly tokenizer: Tokenizer;
  readonly tokenizerFiles: Readonly<Record<string, string>>;
  readonly encoder: SampleEncoder;
  readonly endTokens: readonly number[];
  readonly packed: readonly PackedFile[];
  /** Tokens of a packed sequence. */
  readonly packedLength: number;
  /** Completions as text, without special tokens. */
  readonly decode: (ids: readonly number[]) => string;
  /** Problems of one side, at most so many, the same ones each time. */
  prompts(side: "train" | "heldout", limit: number): Promise<Prompt[]>;
  /** Training rows, at most so many, the same ones each time. */
  rows(limit: number): Promise<Row[]>;
}

/** Problems are chosen alike for all seeds, so that runs are measured on the same ones. */
const CHOICE_SEED = 1;
const TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json"];

export async function openData(folders: CorpusFolders): Promise<RunData> {
  const { fingerprint } = readManifest(folders.rows);
  const tokenizerFiles: Record<string, string> = {};
  for (const name of TOKENIZER_FILES) tokenizerFiles[name] = textOf(folders.tokenizer, name);
  const source = {
    format: "safetensors" as const,
    name: "the corpus",
    metadata: new Map(),
    sidecar: (name: string) => Promise.resolve(tokenizerFiles[name] ?? null),
  };
  const tokenizer = await loadTokenizer(source);
  const encoder = new SampleEncoder(tokenizer, await loadChatTemplate(source, { tokenizer }));
  const { files, length } = await packedFiles(folders.packed);
  const rowsOf = async (side: "train" | "heldout", limit: number) => {
    const rows: Row[] = [];
    for await (const row of corpusRows(folders.rows, { side })) rows.push(row);
    return chosenRows(rows, { limit, seed: CHOICE_SEED });
  };
  return {
    ...{ fingerprint, tokenizer, tokenizerFiles, encoder, packed: files, packedLength: length },
    endTokens: tokenizer.eosTokens,
    decode: (ids) => tokenizer.decode(ids, { skipSpecial: true }),
    rows: (limit) => rowsOf("train", limit),
    async prompts(side, limit) {
      const prompts = (await rowsOf(side, Infinity)).map((row) => promptOfRow(row, encoder))
        .filter((prompt) => prompt !== null).slice(0, limit);
      if (prompts.length > 0) return prompts;
      throw FormatError.of("read the corpus", `problems on the side ${side}`, 0, "at least 1");
    },
  };
}

function textOf(folder: OutputFolder, name: string): string {
  const text = folder.readText(name);
  if (text !== null) return text;
  throw FormatError.of(
    "read the corpus",
    `tokenizer/${name}`,
    "missing",
    "in it (see docs/data.md)",
  );
}

async function packedFiles(
  folder: OutputFolder,
): Promise<{ files: PackedFile[]; length: number }> {
  const names = folder.names().filter((name) => name.endsWith(".safetensors")).sort();
  if (names.length === 0) {
    throw FormatError.of("read the corpus", "packed data", "missing", "in it (see docs/data.md)");
  }
  let length = 0;
  const files: PackedFile[] = [];
  for (const name of names) {
    const [count, own] = await shapeOf(folder, name);
    length = own;
    files.push({ name, count, read: async () => readPacked(await bytesOf(folder, name), name) });
  }
  return { files, length };
}

async function bytesOf(folder: OutputFolder, name: string): Promise<Uint8Array> {
  return new Uint8Array(await new Response(await folder.stream(name)).arrayBuffer());
}

/** Sequences and their length, from the head of a file. */
async function shapeOf(folder: OutputFolder, name: string): Promise<[number, number]> {
  let head = new Uint8Array(0);
  for await (const chunk of await folder.stream(name)) {
    const joined = new Uint8Array(head.length + chunk.length);
    joined.set(head);
    joined.set(chunk, head.length);
    head = joined;
    if (head.length < LENGTH_BYTES) continue;
    const end = LENGTH_BYTES + Number(new DataView(head.buffer).getBigUint64(0, true));
    if (head.length < end) continue;
    const header = JSON.parse(new TextDecoder().decode(head.subarray(LENGTH_BYTES, end)));
    return header.ids.shape;
  }
  throw FormatError.of("read packed data", name, "cut off", "whole");
}
