/** `deno task inspect`: opens checkpoints as the loader does and says what they are, or how they route. */

import { OptionError } from "../errors.ts";
import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import { loadModel } from "../text/load.ts";
import { ENGINE_FLAGS, loadOptions } from "./engine_flags.ts";
import {
  type FlagValues,
  helpText,
  integerFlag,
  parseFlags,
  switchFlag,
  textFlag,
} from "./flags.ts";
import { formatInspection, inspectionLine, inspectPath } from "./inspection.ts";
import { linesOf } from "./lines.ts";
import { modelPathOf } from "./model_path.ts";
import { addLoads, formatRoutingMap, noLoads } from "./routing_map.ts";
import { writeNotices } from "./notices.ts";
import { type CommandIo, processIo, progressBar, runCommand, write } from "./terminal.ts";

const FLAGS = {
  ...ENGINE_FLAGS,
  routing: textFlag({
    help: "draw which experts a prompt and its answer are routed to",
    placeholder: "PROMPT",
    must: "a text",
  }),
  "max-tokens": integerFlag({
    help: "tokens of that answer at most; 0 looks at the prompt alone",
    min: 0,
    max: 2 ** 20,
    fallback: 64,
  }),
  json: switchFlag({ help: "print one JSON object" }),
  stdin: switchFlag({
    help: 'read paths from stdin, print {"path","ok","error":{"class","message"}} for each',
  }),
};

export interface InspectIo extends CommandIo {
  readonly stdin?: ReadableStream<Uint8Array>;
  /** The user wants no colours (https://no-color.org); what the process was told where absent. */
  readonly noColour?: boolean;
}

/** Runs the prompt and its greedy answer, and draws where the gates sent them. */
async function drawRouting(
  { values, prompt, path }: { values: FlagValues<typeof FLAGS>; prompt: string; path: string },
  { stdout, stderr, noColour = Deno.noColor }: InspectIo,
): Promise<void> {
  const bar = progressBar(stderr, "Loading");
  const model = await loadModel({
    ...loadOptions(values, path),
    slots: 1,
    onProgress: bar.onProgress,
  }).finally(bar.clear);
  try {
    writeNotices(stderr, model.info);
    const layers = model.info.routedLayers;
    const asked = model.hasTemplate
      ? await model.chatPrompt([{ role: "user", content: prompt }])
      : await model.textPrompt(prompt);
    const room = model.info.contextLength - asked.tokens.length;
    const loads = noLoads(layers);
    let answer = 0;
    const events = model.answer(asked, {
      sampling: NEUTRAL_SAMPLING,
      maxTokens: Math.min(values["max-tokens"], Math.max(room, 0)),
      routedExperts: "all",
    });
    for await (const event of events) {
      if (event.type === "prompt" && event.routing !== undefined) {
        addLoads(loads, { routing: event.routing, layers });
      } else if (event.type === "delta") {
        for (const routing of event.routing ?? []) addLoads(loads, { routing, layers });
        answer += event.routing?.length ?? 0;
      }
    }
    const tokens = { prompt: asked.tokens.length, answer };
    const colour = stdout.isTerminal() && !noColour;
    write(stdout, `${formatRoutingMap({ layers, loads, tokens, colour })}\n`);
  } finally {
    await model.close();
  }
}

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: InspectIo = processIo()): Promise<number> {
  const { stdout, env, stdin = Deno.stdin.readable } = io;
  const { values, positionals, help } = parseFlags(FLAGS, {
    command: "inspect",
    args,
    env,
    maxPositionals: 1,
  });
  if (help) {
    const usage = "deno task inspect PATH [--json], deno task inspect --stdin, or\n" +
      "       deno task inspect --routing PROMPT [--model PATH]";
    const about =
      "Opens a model as the loader does and prints what it is, or where it routes a prompt.";
    write(stdout, `${helpText(FLAGS, { usage, about })}\n`);
    return 0;
  }
  if (values.stdin) {
    for await (const line of linesOf(stdin)) {
      if (line !== "") write(stdout, `${JSON.stringify(await inspectionLine(line))}\n`);
    }
    return 0;
  }
  const path = positionals[0] ?? values.model;
  if (values.routing !== undefined) {
    await drawRouting({ values, prompt: values.routing, path: modelPathOf(path) }, io);
    return 0;
  }
  if (path === undefined) {
    throw new OptionError("cannot inspect: no path is given, must be a file or a folder");
  }
  const inspection = await inspectPath(path, { contextLength: values.context });
  write(
    stdout,
    `${values.json ? JSON.stringify(inspection) : formatInspection(inspection)}\n`,
  );
  return 0;
}

if (import.meta.main) await runCommand(() => main(Deno.args));
