/** Figures of an evaluation: shares with their certainty, and what it has cost. */

import { type Interval, wilsonInterval } from "./statistics.ts";
import type { EvalCounts, ItemResult } from "./types.ts";

export interface Metric extends Interval {
  readonly name: string;
  /** From 0 to 1. */
  readonly value: number;
}

export interface GroupSummary {
  readonly group: string;
  readonly problems: number;
  readonly metrics: readonly Metric[];
}

export interface EvalCost {
  /** Of the model: 2 a token that was computed and active parameter. */
  readonly flops: number;
  readonly answerTokensPerSecond: number;
  readonly problemsPerSecond: number;
  /** Null without a stated wattage: watts by time, which is not a measurement. */
  readonly wattHours: number | null;
  /** The same for a thousand problems. */
  readonly perThousand: {
    readonly tokens: number;
    readonly flops: number;
    readonly seconds: number;
    readonly wattHours: number | null;
  };
}

/** Each metric over all results. */
export function metricsOf(results: readonly ItemResult[]): Metric[] {
  const names = Object.keys(results[0]?.scores ?? {});
  return names.map((name) => {
    const sum = results.reduce((total, { scores }) => total + (scores[name] ?? 0), 0);
    return { name, value: sum / results.length, ...wilsonInterval(sum, results.length) };
  });
}

/** The same for each group, by its name; none where results have no groups. */
export function groupsOf(results: readonly ItemResult[]): GroupSummary[] {
  const grouped = Map.groupBy(
    results.filter(({ group }) => group !== undefined),
    ({ group }) => group as string,
  );
  return [...grouped].sort(([a], [b]) => a < b ? -1 : 1).map(([group, own]) => ({
    ...{ group, problems: own.length, metrics: metricsOf(own) },
  }));
}

export function costOf(
  counts: EvalCounts,
  { problems, activeParameters, watts }: {
    problems: number;
    activeParameters: number;
    watts: number | null;
  },
): EvalCost {
  const { promptTokens, cachedTokens, answerTokens, seconds } = counts;
  const tokens = promptTokens - cachedTokens + answerTokens;
  const flops = 2 * tokens * activeParameters;
  const wattHours = watts === null ? null : watts * seconds / 3600;
  const scale = 1000 / problems;
  return {
    flops,
    answerTokensPerSecond: answerTokens / seconds,
    problemsPerSecond: problems / seconds,
    wattHours,
    perThousand: {
      tokens: tokens * scale,
      flops: flops * scale,
      seconds: seconds * scale,
      wattHours: wattHours === null ? null : wattHours * scale,
    },
  };
}
