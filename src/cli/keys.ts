/** `deno task keys`: makes an API key, and the line that lets it in. */

import { OptionError } from "../errors.ts";
import { generateKey, keyLine, parseKeys } from "../server/api_keys.ts";
import { helpText, parseFlags } from "./flags.ts";
import { type CommandIo, processIo, runCommand, write } from "./terminal.ts";

const USAGE = "deno task keys new NAME [rate=N/min] [concurrency=N] [priority=N] >> FILE";
/** More words than a line of the file may have. */
const MAX_WORDS = 6;

/** Prints the key to the terminal, since it is shown only now, and its line to the output. */
export function main(args: readonly string[], io: CommandIo = processIo()): number {
  const { positionals, help } = parseFlags({}, {
    command: "make a key",
    args,
    env: io.env,
    maxPositionals: MAX_WORDS,
  });
  if (help) {
    const about = "Makes an API key: shows it once, and prints its line for --api-keys-file.";
    write(io.stdout, `${helpText({}, { usage: USAGE, about })}\n`);
    return 0;
  }
  const [verb, name, ...limits] = positionals;
  if (verb !== "new" || name === undefined) {
    throw new OptionError(`cannot make a key: the words are not understood, must be: ${USAGE}`);
  }
  const key = generateKey();
  const line = [keyLine(name, key), ...limits].join(" ");
  // Refuses limits that are none.
  parseKeys(line, "the line");
  write(io.stderr, `The key of ${name}, which is kept nowhere: ${key}\n`);
  write(io.stdout, `${line}\n`);
  return 0;
}

if (import.meta.main) await runCommand(() => Promise.resolve(main(Deno.args)));
