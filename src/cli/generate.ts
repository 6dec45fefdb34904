/** `deno task generate`: one answer on stdout. */

import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import { loadModel } from "../text/load.ts";
import { ENGINE_FLAGS, loadOptions } from "./engine_flags.ts";
import { helpText, integerFlag, numberFlag, parseFlags, switchFlag, textFlag } from "./flags.ts";
import { OptionError } from "../errors.ts";
import { modelPathOf } from "./model_path.ts";
import { writeNotices } from "./notices.ts";
import {
  type CommandIo,
  printable,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  ...ENGINE_FLAGS,
  prompt: textFlag({ help: "what to answer", must: "a text" }),
  "max-tokens": integerFlag({
    help: "tokens to answer with at most",
    min: 1,
    max: 2 ** 20,
    fallback: 512,
  }),
  seed: integerFlag({
    help: "makes a random answer repeatable",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    fallback: undefined,
  }),
  temperature: numberFlag({
    help: "randomness; 0 always takes the most likely token",
    min: 0,
    max: 2,
    fallback: 0,
  }),
  raw: switchFlag({ help: "continue the text as it is, without the chat template" }),
};

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { stdout, stderr, env } = io;
  const { values, help } = parseFlags(FLAGS, {
    command: "generate",
    args,
    env,
  });
  if (help) {
    const usage = "deno task generate [--model PATH] --prompt TEXT [flags]";
    write(stdout, `${helpText(FLAGS, { usage, about: "Prints one answer." })}\n`);
    return 0;
  }
  if (values.prompt === undefined) {
    throw new OptionError("cannot generate: --prompt is missing, must be a text");
  }
  const bar = progressBar(stderr, "Loading");
  const model = await loadModel({
    ...loadOptions(values, modelPathOf(values.model)),
    slots: 1,
    onProgress: bar.onProgress,
  }).finally(bar.clear);
  try {
    writeNotices(stderr, model.info);
    const prompt = model.hasTemplate && !values.raw
      ? await model.chatPrompt([{ role: "user", content: values.prompt }])
      : await model.textPrompt(values.prompt);
    const room = model.info.contextLength - prompt.tokens.length;
    const events = model.answer(prompt, {
      sampling: { ...NEUTRAL_SAMPLING, temperature: values.temperature, seed: values.seed },
      maxTokens: Math.min(values["max-tokens"], Math.max(room, 1)),
    });
    const toTerminal = stdout.isTerminal();
    for await (const event of events) {
      if (event.type !== "delta") continue;
      // Thinking is no part of the answer that a pipe should get.
      if (event.reasoning !== "") write(stderr, printable(event.reasoning));
      write(stdout, toTerminal ? printable(event.content) : event.content);
    }
    write(stdout, "\n");
    return 0;
  } finally {
    await model.close();
  }
}

if (import.meta.main) await runCommand(() => main(Deno.args));
