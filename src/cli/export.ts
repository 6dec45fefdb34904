/** `deno task export`: a Hugging Face folder, as training writes it, as one GGUF file. */

import { planGguf, writeGguf } from "../convert/gguf.ts";
import { QUANTISATIONS } from "../convert/types.ts";
import { OptionError } from "../errors.ts";
import { baseName } from "../formats/byte_source.ts";
import { openCheckpoint } from "../formats/open.ts";
import { choiceFlag, helpText, parseFlags, switchFlag, textFlag } from "./flags.ts";
import { writeWholeGguf } from "./gguf_output.ts";
import {
  type CommandIo,
  formatBytes,
  printable,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  gguf: switchFlag({ help: "write GGUF, the one form there is" }),
  quant: choiceFlag({
    help: "the type of matrices; Q4_K keeps some of them in Q6_K, as llama.cpp's Q4_K_M does",
    words: QUANTISATIONS,
    fallback: "Q8_0",
  }),
  out: textFlag({
    help: "the file to write (default MODEL_DIR.TYPE.gguf); replaced at once when all is written",
    placeholder: "FILE",
    must: "the path of a file",
  }),
  name: textFlag({ help: "what the model is called (default the folder's name)" }),
};

const USAGE = "deno task export MODEL_DIR --gguf [--quant TYPE] [--out FILE]";
const ABOUT =
  "Writes a Hugging Face folder of DeepSeek-V2 or V3, Llama or Qwen2 as a GGUF file, which this\n" +
  "server and llama.cpp load.";

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { stdout, stderr, env } = io;
  const { values, positionals, help } = parseFlags(FLAGS, {
    command: "export",
    args,
    env,
    maxPositionals: 1,
  });
  if (help) {
    write(stdout, `${helpText(FLAGS, { usage: USAGE, about: ABOUT })}\n`);
    return 0;
  }
  const [model] = positionals;
  if (model === undefined) {
    throw new OptionError("cannot export: no folder is given, must be one with config.json");
  }
  if (!values.gguf) throw new OptionError("cannot export: --gguf is missing, must be given");
  const folder = model.replace(/[/\\]+$/, "");
  const out = values.out ?? `${folder}.${values.quant.toLowerCase()}.gguf`;
  const source = await openCheckpoint(model);
  try {
    const bar = progressBar(stderr, "Exporting");
    const plan = await planGguf(source, {
      quantisation: values.quant,
      name: values.name ?? baseName(folder),
      onProgress: bar.onProgress,
    });
    bar.clear();
    for (const notice of plan.notices) write(stderr, `${printable(notice)}\n`);
    const bytes = await writeWholeGguf(out, {
      command: "export",
      write: (sink) => writeGguf(plan, sink),
    }).finally(bar.clear);
    write(
      stdout,
      `${printable(baseName(out))}: ${plan.tensors.length} tensors, ${values.quant}, ` +
        `${formatBytes(bytes)}\n`,
    );
    return 0;
  } finally {
    source.close();
  }
}

if (import.meta.main) await runCommand(() => main(Deno.args));
