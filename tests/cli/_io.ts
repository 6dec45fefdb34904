/** Streams and an environment for commands under test. */

import type { CommandIo } from "../../src/cli/terminal.ts";

export interface RecordedIo extends CommandIo {
  readonly out: () => string;
  readonly err: () => string;
}

export function recordedIo(
  options: { env?: Readonly<Record<string, string>>; isTerminal?: boolean } = {},
): RecordedIo {
  const { env = {}, isTerminal = false } = options;
  const texts = { out: "", err: "" };
  const recorder = (name: "out" | "err") => ({
    writeSync(bytes: Uint8Array) {
      texts[name] += new TextDecoder().decode(bytes);
      return bytes.length;
    },
    isTerminal: () => isTerminal,
  });
  return {
    stdout: recorder("out"),
    stderr: recorder("err"),
    env: (name) => env[name],
    out: () => texts.out,
    err: () => texts.err,
  };
}

const ROOT = new URL("../../", import.meta.url);

/** A tiny model with weights, tokenizer and template in one file. */
export const TINY_MODEL = new URL("tests/data/goldens/gguf/qwen3/qwen3.q8_0.gguf", ROOT).pathname;
