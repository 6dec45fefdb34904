/** Budgets of memory that a backend or a model cannot keep to: refused, or said. */

import { OptionError } from "../errors.ts";
import type { BackendMemory } from "./backend.ts";

/** What a process takes besides the model. */
export const RUNTIME_BYTES = 128 * 2 ** 20;

export interface Budgets {
  /** Bytes that the process may take. */
  readonly memoryBytes?: number;
  /** Bytes for the routed experts that are kept in memory. */
  readonly expertCacheBytes?: number;
}

/** Throws OptionError where a budget is given to a backend that keeps everything in memory. */
export function refuseBudgets(
  backend: string,
  { memoryBytes, expertCacheBytes }: Budgets,
): void {
  const refuse = (what: string, is: number | undefined) => {
    if (is === undefined) return;
    throw new OptionError(
      `cannot open the ${backend} backend: ${what} is ${is}, must be left out, ` +
        "since only the wasm backend pages experts",
    );
  };
  refuse("memoryBytes (--memory)", memoryBytes);
  refuse("expertCacheBytes (--expert-cache)", expertCacheBytes);
}

/** What to say of a model's budgets once it is loaded; `routedLayers` counts those with experts to page. */
export function budgetWarnings(
  { memoryBytes, expertCacheBytes }: Budgets,
  { routedLayers, memory }: { routedLayers: number; memory: BackendMemory },
): string[] {
  if (routedLayers > 0) return [];
  const warnings: string[] = [];
  const takes = memory.weights + memory.kv + memory.workspace + RUNTIME_BYTES;
  if (memoryBytes !== undefined && takes > memoryBytes) {
    warnings.push(
      `the model has no routed experts to page; with its process it takes ${mebibytes(takes)}, ` +
        `the budget is ${mebibytes(memoryBytes)}`,
    );
  }
  if (expertCacheBytes !== undefined) {
    warnings.push(
      `the model has no routed experts; nothing is kept in the ` +
        `${mebibytes(expertCacheBytes)} for them`,
    );
  }
  return warnings;
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
