/** What the turns of `training_peers.ts` come to: rows of a table, and whether all trained the same. */

import { formatSummary, scaled, summarize, type Summary, threeDigits } from "./statistics.ts";
import type { PeerModel } from "./training_model.ts";

/** One turn of one engine. */
export interface PeerRun {
  readonly name: string;
  readonly threads: number;
  readonly version: string;
  readonly parameters: number;
  /** Of the first step of all, and of the last one. */
  readonly firstLoss: number;
  readonly lastLoss: number;
  /** Of each timed step. */
  readonly seconds: readonly number[];
  /** Processor time of all threads for a timed step; absent where the system does not tell. */
  readonly cpuSeconds?: number;
}

export interface PeerRow {
  readonly name: string;
  readonly version: string;
  readonly threads: number;
  readonly parameters: number;
  readonly firstLoss: number;
  readonly lastLoss: number;
  /** Seconds of the steps of all turns. */
  readonly step: Summary;
  /** Processor seconds of a step, by turns. */
  readonly cpu?: Summary;
  readonly tokensPerSecond: number;
  /** How many times faster than this engine our steps with as many threads are, by medians. */
  readonly ours?: number;
}

/** How far a first loss may be from that of even guesses: random weights guess nearly evenly. */
const LOSS_MARGIN = 0.1;
/** How far the last losses of two engines may be apart, as a share: the weights begin otherwise. */
const LAST_LOSS_SHARE = 0.1;

/** A row for each engine and number of threads, in the order of their first turns. */
export function rowsOf(
  runs: readonly PeerRun[],
  { samples, length }: Pick<PeerModel, "samples" | "length">,
): PeerRow[] {
  const groups = new Map<string, PeerRun[]>();
  for (const run of runs) {
    const key = `${run.threads} ${run.name}`;
    groups.set(key, [...(groups.get(key) ?? []), run]);
  }
  const rows = [...groups.values()].map((turns): PeerRow => {
    const step = summarize(turns.flatMap(({ seconds }) => seconds))!;
    const cpu = summarize(turns.flatMap(({ cpuSeconds }) => cpuSeconds ?? []));
    return {
      ...turns[0],
      ...{ step, ...(cpu && { cpu }), tokensPerSecond: samples * length / step.median },
    };
  });
  return rows.map((row) => {
    const own = rows.find(({ name, threads }) => name === "sluice" && threads === row.threads);
    if (own === undefined || own === row) return row;
    return { ...row, ours: row.step.median / own.step.median };
  });
}

/** The rows as a table of Markdown. */
export function formatTable(rows: readonly PeerRow[]): string {
  const head = ["engine", "threads", "ms a step", "tokens/s", "processor ms", "loss", "we are"];
  const cells = rows.map((row) => [
    row.name === "sluice" ? "sluice" : row.version,
    String(row.threads),
    formatSummary(scaled(row.step, 1e3)),
    String(Math.round(row.tokensPerSecond)),
    formatSummary(scaled(row.cpu, 1e3)),
    `${row.firstLoss.toFixed(2)} to ${row.lastLoss.toFixed(2)}`,
    row.ours === undefined ? "" : `${threeDigits(row.ours)} x as fast`,
  ]);
  const line = (words: readonly string[]) => `| ${words.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...cells.map(line)].join("\n");
}

/** What speaks against all having trained the same; undefined where nothing does. */
export function differenceProblem(
  runs: readonly PeerRun[],
  { vocabulary }: Pick<PeerModel, "vocabulary">,
): string | undefined {
  const even = Math.log(vocabulary);
  for (const { name, parameters, firstLoss, lastLoss } of runs) {
    if (parameters !== runs[0].parameters) {
      return `${name} has ${parameters} parameters, ${runs[0].name} has ${runs[0].parameters}`;
    }
    if (!(Math.abs(firstLoss - even) <= LOSS_MARGIN)) {
      return `${name} begins with a loss of ${firstLoss.toFixed(3)}, must be near ${
        even.toFixed(3)
      }`;
    }
    if (!(Math.abs(lastLoss - runs[0].lastLoss) <= LAST_LOSS_SHARE * runs[0].lastLoss)) {
      return `${name} ends with a loss of ${lastLoss.toFixed(3)}, ${runs[0].name} with ` +
        runs[0].lastLoss.toFixed(3);
    }
  }
  return undefined;
}
