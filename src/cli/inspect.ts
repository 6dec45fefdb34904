/** `deno task inspect`: opens checkpoints as the loader does and says what they are. */

import { OptionError } from "../errors.ts";
import { ENGINE_FLAGS } from "./engine_flags.ts";
import { helpText, parseFlags, switchFlag } from "./flags.ts";
import { formatInspection, inspectionLine, inspectPath } from "./inspection.ts";
import { linesOf } from "./lines.ts";
import { type CommandIo, processIo, runCommand, write } from "./terminal.ts";

const FLAGS = {
  context: ENGINE_FLAGS.context,
  json: switchFlag({ help: "print one JSON object" }),
  stdin: switchFlag({
    help: 'read paths from stdin, print {"path","ok","error":{"class","message"}} for each',
  }),
};

/** Runs the command and returns its exit code. */
export async function main(
  args: readonly string[],
  io: CommandIo & { readonly stdin?: ReadableStream<Uint8Array> } = processIo(),
): Promise<number> {
  const { stdout, env, stdin = Deno.stdin.readable } = io;
  const { values, positionals, help } = parseFlags(FLAGS, {
    command: "inspect",
    args,
    env,
    maxPositionals: 1,
  });
  if (help) {
    const usage = "deno task inspect PATH [--json], or deno task inspect --stdin";
    const about = "Opens a model as the loader does and prints what it is.";
    write(stdout, `${helpText(FLAGS, { usage, about })}\n`);
    return 0;
  }
  if (values.stdin) {
    for await (const line of linesOf(stdin)) {
      if (line !== "") write(stdout, `${JSON.stringify(await inspectionLine(line))}\n`);
    }
    return 0;
  }
  if (positionals.length === 0) {
    throw new OptionError("cannot inspect: no path is given, must be a file or a folder");
  }
  const inspection = await inspectPath(positionals[0], { contextLength: values.context });
  write(
    stdout,
    `${values.json ? JSON.stringify(inspection) : formatInspection(inspection)}\n`,
  );
  return 0;
}

if (import.meta.main) await runCommand(() => main(Deno.args));
