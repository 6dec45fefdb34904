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

/** Linux counts processor time in so many ticks a second, whatever the kernel's own clock. */
const TICKS_PER_SECOND = 100;

/** Processor time that all processes took since the system started; undefined outside Linux. */
export function systemCpuSeconds(): number | undefined {
  try {
    return parseSystemCpu(Deno.readTextFileSync("/proc/stat"));
  } catch {
    return undefined;
  }
}

/** Reads Linux's `/proc/stat`: user, nice, system, idle, waiting, interrupts (two), stolen. */
export function parseSystemCpu(text: string): number | undefined {
  const match = /^cpu +(\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+) (\d+)/m.exec(text);
  if (match === null) return undefined;
  return match.slice(1).reduce((sum, ticks) => sum + Number(ticks), 0) / TICKS_PER_SECOND;
}

/** Reads `/proc/PID/stat`, whose second field, the name, may hold spaces and parentheses. */
export function parseProcessCpu(text: string): number | undefined {
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[11]) + Number(fields[12]);
  return Number.isFinite(ticks) ? ticks / TICKS_PER_SECOND : undefined;
}
