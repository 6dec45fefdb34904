/** What the figures were measured on, and whether anything else ran meanwhile. */

import { cpus } from "node:os";

/** Processes waiting or running on average over a minute from which figures are doubtful. */
const NOISY_LOAD = 0.5;

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly os: string;
  readonly deno: string;
}

export function describeMachine(): Machine {
  const processors = cpus();
  return {
    cpu: processors[0]?.model ?? "unknown",
    cores: processors.length,
    memoryBytes: Deno.systemMemoryInfo().total,
    os: `${Deno.build.os} ${Deno.build.arch}`,
    deno: Deno.version.deno,
  };
}

/** The load average of the last minute. */
export function loadAverage(): number {
  return Deno.loadavg()[0];
}

/** A line for people where others were computing before the run; undefined where it was quiet. */
export function noiseWarning(loadBefore: number): string | undefined {
  if (loadBefore <= NOISY_LOAD) return undefined;
  return `warning: the load average before the run was ${loadBefore.toFixed(2)}, ` +
    `must be at most ${NOISY_LOAD} for figures to be trusted`;
}
