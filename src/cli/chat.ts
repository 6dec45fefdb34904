/** `deno task chat`: a chat in the terminal. */

import { RequestError } from "../errors.ts";
import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import { loadModel } from "../text/load.ts";
import { chatSession, PROMPT } from "./chat_session.ts";
import { ENGINE_FLAGS, loadOptions } from "./engine_flags.ts";
import { helpText, integerFlag, numberFlag, parseFlags, textFlag } from "./flags.ts";
import { linesOf } from "./lines.ts";
import { modelPathOf } from "./model_path.ts";
import { writeNotices } from "./notices.ts";
import {
  type CommandIo,
  onInterrupt,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  ...ENGINE_FLAGS,
  system: textFlag({ help: "tells the model how to behave", must: "a text" }),
  "max-tokens": integerFlag({
    help: "tokens of an answer at most",
    min: 1,
    max: 2 ** 20,
    fallback: undefined,
    shown: "what the context holds",
  }),
  seed: integerFlag({
    help: "makes answers repeatable",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    fallback: undefined,
  }),
  temperature: numberFlag({ help: "randomness", min: 0, max: 2, fallback: 0.6 }),
  "top-p": numberFlag({
    help: "share of probability to choose from",
    min: 0,
    max: 1,
    fallback: 0.95,
  }),
};

const DIM: readonly [string, string] = ["\x1b[2m", "\x1b[0m"];

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { stdout, stderr, env } = io;
  const { values, help } = parseFlags(FLAGS, {
    command: "chat",
    args,
    env,
  });
  if (help) {
    const usage = "deno task chat [--model PATH] [flags]";
    write(stdout, `${helpText(FLAGS, { usage, about: "Chats in the terminal." })}\n`);
    return 0;
  }
  const bar = progressBar(stderr, "Loading");
  const model = await loadModel({
    ...loadOptions(values, modelPathOf(values.model)),
    slots: 1,
    onProgress: bar.onProgress,
  }).finally(bar.clear);
  writeNotices(stderr, model.info);
  let answering: AbortController | null = null;
  onInterrupt(() => {
    if (answering === null) write(stdout, `\n(/exit leaves)\n${PROMPT}`);
    answering?.abort(new RequestError("stopped"));
  });
  try {
    await chatSession({
      model,
      sampling: {
        ...NEUTRAL_SAMPLING,
        temperature: values.temperature,
        topP: values["top-p"],
        seed: values.seed,
      },
      maxTokens: values["max-tokens"],
      system: values.system,
      lines: linesOf(Deno.stdin.readable),
      write: (text) => write(stdout, text),
      interruptible: async (work) => {
        answering = new AbortController();
        try {
          return await work(answering.signal);
        } finally {
          answering = null;
        }
      },
      dim: stdout.isTerminal() ? DIM : ["", ""],
      now: () => performance.now(),
    });
    return 0;
  } finally {
    await model.close();
  }
}

if (import.meta.main) await runCommand(() => main(Deno.args));
