/** `deno task plot`: a figure of a training run, from its metrics.jsonl. */

import { OptionError } from "../errors.ts";
import { drawFigure } from "../plot/figure.ts";
import { panelsOf } from "../plot/panels.ts";
import { readRunMetrics } from "../plot/run_metrics.ts";
import { METRICS_FILE } from "../training/run/metrics.ts";
import { helpText, parseFlags, textFlag } from "./flags.ts";
import { type CommandIo, processIo, runCommand, write } from "./terminal.ts";

const FLAGS = {
  out: textFlag({
    help: "the SVG file to write; metrics.svg beside the metrics by default",
    placeholder: "FILE.svg",
  }),
  title: textFlag({ help: "what stands above; the folder's name by default" }),
};

const USAGE = "deno task plot [STATE or metrics.jsonl] [--out FILE.svg] [--title TEXT]";
const ABOUT = "Draws loss, rewards, accuracy and more of a training run, phase by phase.";

/** Runs the command and returns its exit code. */
export async function main(
  args: readonly string[],
  { io = processIo() }: { io?: CommandIo } = {},
): Promise<number> {
  const options = { command: "plot", args, env: io.env, maxPositionals: 1 };
  const { values, positionals, help } = parseFlags(FLAGS, options);
  if (help) {
    write(io.stdout, `${helpText(FLAGS, { usage: USAGE, about: ABOUT })}\n`);
    return 0;
  }
  const file = await metricsFile(positionals[0] ?? await latestState());
  const run = readRunMetrics(await Deno.readTextFile(file));
  const panels = panelsOf(run);
  if (panels.length === 0) throw new OptionError(`cannot plot: ${file} holds no step yet`);
  const folder = file.replace(/[^/\\]*$/, "");
  const out = values.out ?? `${folder}${METRICS_FILE.replace(/jsonl$/, "svg")}`;
  const title = values.title ?? folder.split(/[/\\]/).findLast((part) => part !== "") ?? "run";
  await Deno.writeTextFile(out, drawFigure({ title, panels, phases: run.phases }));
  write(io.stdout, `${out}: ${panels.length} panels of ${run.phases.at(-1)?.to} steps\n`);
  return 0;
}

async function metricsFile(path: string): Promise<string> {
  try {
    const { isDirectory } = await Deno.stat(path);
    if (!isDirectory) return path;
    const file = `${path.replace(/[/\\]$/, "")}/${METRICS_FILE}`;
    await Deno.stat(file);
    return file;
  } catch {
    throw new OptionError(
      `cannot plot: ${JSON.stringify(path)} has no metrics, must be the state of a run or its ` +
        METRICS_FILE,
    );
  }
}

/** Where runs are that name no folder. */
const STATES = ".state";

/** The state of the run that has written metrics last. */
async function latestState(): Promise<string> {
  let latest: { path: string; time: number } | null = null;
  try {
    for await (const { name } of Deno.readDir(STATES)) {
      const path = `${STATES}/${name}`;
      const { mtime } = await Deno.stat(`${path}/${METRICS_FILE}`).catch(() => ({ mtime: null }));
      const time = mtime?.getTime() ?? -Infinity;
      if (time > (latest?.time ?? -Infinity)) latest = { path, time };
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  if (latest !== null) return latest.path;
  throw new OptionError(`cannot plot: ${STATES} holds no run, the state of one must be named`);
}

if (import.meta.main) await runCommand(() => main(Deno.args));
