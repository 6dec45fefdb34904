/** What the modes of `deno task bench` make of its flags alike. */

import type { ActivationPrecision } from "../backend/backend.ts";
import { loadAverage, noiseWarning } from "../bench/machine.ts";
import type { Workload } from "../bench/workload.ts";
import { CapacityError, OptionError } from "../errors.ts";
import { defaultThreads } from "../text/load.ts";
import { type BENCH_FLAGS, DEFAULT_MODEL } from "./bench_flags.ts";
import type { FlagValues } from "./flags.ts";

export type Values = FlagValues<typeof BENCH_FLAGS>;

/** Tokens of context for a prompt with its answer; throws CapacityError where the model has fewer. */
export function contextFor({ contextLength }: Workload, { tokens }: { tokens: number }): number {
  // Pages are 64 tokens, and the first token after a prompt needs room too.
  const context = Math.ceil((tokens + 1) / 64) * 64;
  if (context <= contextLength) return context;
  throw new CapacityError(
    `cannot bench: prompts and answers need a context of ${context} tokens, ` +
      `must fit the model's ${contextLength}`,
  );
}

/** The load average before a run, with a warning where others were computing. */
export function quietness(onProgress: (line: string) => void) {
  const loadBefore = loadAverage();
  const warning = noiseWarning(loadBefore);
  if (warning !== undefined) onProgress(warning);
  return { loadBefore, warning };
}

export function withWarning(text: string, warning: string | undefined): string {
  return warning === undefined ? text : `${text}\n${warning}`;
}

export function baseName(path: string): string {
  return path.split("/").at(-1) ?? path;
}

export function precisions(
  { activations }: Values,
  usual: readonly ActivationPrecision[] = ["q8", "q16"],
): readonly ActivationPrecision[] {
  return activations.length > 0 ? activations as ActivationPrecision[] : usual;
}

/** A text file; throws OptionError where it cannot be read. */
export function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new OptionError(
      `cannot bench: --text cannot be read (${(error as Error).name}), must be the path of a text`,
    );
  }
}

export function threadCounts({ threads }: Values): readonly number[] {
  return threads.length > 0 ? threads : [defaultThreads()];
}

export function defaultModel(): string {
  const folder = Deno.env.get("SLUICE_MODELS");
  if (folder) return `${folder}/${DEFAULT_MODEL}`;
  throw new OptionError(
    "cannot bench: --model is missing, must be the path of a model " +
      `(or SLUICE_MODELS a folder with ${DEFAULT_MODEL})`,
  );
}
