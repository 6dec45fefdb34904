/**
 * What paging routed experts costs: decoding with all of them in memory beside decoding with room for
 * a share of them, with looking ahead and without, from the file or over a network of some latency.
 */

import type { ActivationPrecision } from "../backend/backend.ts";
import type { PagingChoice } from "./drivers/_steps.ts";
import { DriverProcess } from "./driver_process.ts";
import { driverOf } from "./engines.ts";
import type { PromptKind } from "./paging_prompts.ts";
import { percent, quotient, table } from "./report.ts";
import { formatSummary, summarize, type Summary, threeDigits } from "./statistics.ts";
import type { PagingCounts, Timing } from "./wire.ts";

/** When experts are fetched ahead: always, never, or as the backend decides by its own trials. */
export type LookAhead = "on" | "off" | "by itself";

/** One way to keep the experts. */
export interface PagingSetting {
  /** The share of the experts' bytes that has room, or the budget of the whole process, or neither. */
  readonly share?: number;
  readonly memoryBytes?: number;
  readonly lookAhead?: LookAhead;
}

export interface PagingOptions {
  readonly model: string;
  /** Where experts are paged from, if not from `model`. */
  readonly url?: string;
  /** Bytes of all routed experts. */
  readonly expertBytes: number;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Tokens of context. */
  readonly context: number;
  readonly settings: readonly PagingSetting[];
  readonly kinds: readonly PromptKind[];
  readonly runs: number;
  readonly onProgress?: (line: string) => void;
  /** Starts a setting's driver; in a process of its own where nothing is said. */
  readonly start?: (setting: PagingSetting) => Promise<PagingDriver>;
}

export type PagingDriver = Pick<DriverProcess, "run" | "peakBytes" | "close">;

/** How one setting answered prompts of one kind. Shares are of the answers' choices. */
export interface PagingFigures extends PagingSetting {
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly kind: string;
  /** Tokens per second after an answer's first one, all answers of a run together. */
  readonly decode: Summary;
  /** Of the first setting's tokens per second. */
  readonly ofFirst: number;
  /** Experts in memory at the end. */
  readonly resident: number;
  readonly hitShare?: number;
  readonly prefetchedShare?: number;
  readonly missShare?: number;
  readonly bytesPerToken: number;
  /** Of the experts that looking ahead expected, those that were chosen. */
  readonly rightShare?: number;
  /** The largest resident size of the process, all kinds together. */
  readonly peakBytes?: number;
  /** Whether the answers are the first setting's, token by token. */
  readonly sameAnswers: boolean;
}

/** With all experts in memory first, then each share with looking ahead by itself, on and off. */
export function pagingSettings(
  { shares, memoryBytes }: { shares: readonly number[]; memoryBytes?: number },
): PagingSetting[] {
  const ways: readonly LookAhead[] = ["by itself", "on", "off"];
  return [
    {},
    ...shares.flatMap((share) => ways.map((lookAhead) => ({ share, lookAhead }))),
    ...(memoryBytes === undefined ? [] : [{ memoryBytes, lookAhead: "by itself" as const }]),
  ];
}

/**
 * Measures all settings by turns, kind after kind. Of each kind a first round counts for nothing: it
 * brings in the experts that the kind uses, and settles whether looking ahead pays.
 */
export async function measurePaging(options: PagingOptions): Promise<PagingFigures[]> {
  const { settings, kinds, runs, onProgress = () => {} } = options;
  const start = options.start ?? startDriver(options);
  const drivers: PagingDriver[] = [];
  const timings = kinds.map(() => settings.map((): Timing[][] => []));
  let peaks: (number | undefined)[];
  try {
    for (const setting of settings) {
      onProgress(`loading: ${describeSetting(setting)}`);
      drivers.push(await start(setting));
    }
    for (const [k, { kind, requests }] of kinds.entries()) {
      for (let run = -1; run < runs; run++) {
        onProgress(`${kind}: ${run < 0 ? "warming up" : `run ${run + 1} of ${runs}`}`);
        for (const [s, driver] of drivers.entries()) {
          const answers: Timing[] = [];
          for (const request of requests) answers.push(await driver.run(request));
          if (run >= 0) timings[k][s].push(answers);
        }
      }
    }
    peaks = drivers.map((driver) => driver.peakBytes());
  } finally {
    for (const driver of drivers) await driver.close();
  }
  return kinds.flatMap(({ kind }, k) =>
    settings.map((setting, s) => ({
      ...setting,
      threads: options.threads,
      activations: options.activations,
      kind,
      ...figuresOf(timings[k][s], { first: timings[k][0] }),
      peakBytes: peaks[s],
    }))
  );
}

/** What the runs of a setting come to; `first` are those that it is compared with. */
function figuresOf(
  runs: readonly (readonly Timing[])[],
  { first }: { first: readonly (readonly Timing[])[] },
) {
  const decode = ratesOf(runs);
  const sum = (field: keyof PagingCounts | "decodeTokens") =>
    runs.flat().reduce((total, timing) => total + (timing[field] ?? 0), 0);
  const choices = sum("hits") + sum("prefetched") + sum("misses");
  const answers = (timings: readonly Timing[]) => timings.map(({ answer }) => answer).join();
  return {
    decode,
    ofFirst: decode.median / ratesOf(first).median,
    resident: runs.at(-1)!.at(-1)!.resident ?? 0,
    hitShare: shareOf(sum("hits"), choices),
    prefetchedShare: shareOf(sum("prefetched"), choices),
    missShare: shareOf(sum("misses"), choices),
    bytesPerToken: sum("bytesRead") / sum("decodeTokens"),
    rightShare: shareOf(sum("predictedRight"), sum("predicted")),
    sameAnswers: runs.every((timings) => answers(timings) === answers(first[0])),
  };
}

/** A part of a whole; undefined where there is nothing. */
function shareOf(part: number, whole: number): number | undefined {
  return whole === 0 ? undefined : part / whole;
}

function ratesOf(runs: readonly (readonly Timing[])[]): Summary {
  const total = (timings: readonly Timing[], field: "decodeTokens" | "decodeSeconds") =>
    timings.reduce((sum, timing) => sum + timing[field], 0);
  return summarize(
    runs.map((timings) => total(timings, "decodeTokens") / total(timings, "decodeSeconds")),
  )!;
}

function startDriver(options: PagingOptions): (setting: PagingSetting) => Promise<PagingDriver> {
  const { model, url, threads, activations, context } = options;
  return async (setting) => {
    const pages = setting.share !== undefined || setting.memoryBytes !== undefined;
    const choice = JSON.stringify(choiceOf(setting, options));
    const { driver } = await DriverProcess.start({
      command: Deno.execPath(),
      args: [
        ...["run", "--no-prompt", "--allow-read", "--allow-net=127.0.0.1"],
        ...[driverOf("sluice_paging.ts"), pages ? url ?? model : model],
        ...[String(threads), activations, String(context), choice],
      ],
    });
    return driver;
  };
}

function choiceOf(
  { share, memoryBytes, lookAhead }: PagingSetting,
  { expertBytes }: { expertBytes: number },
): PagingChoice {
  return {
    ...(share !== undefined && { expertCacheBytes: Math.floor(share * expertBytes) }),
    ...(memoryBytes !== undefined && { memoryBytes }),
    ...(lookAhead === "on" && { lookAhead: true }),
    ...(lookAhead === "off" && { lookAhead: false }),
  };
}

function describeSetting({ share, memoryBytes, lookAhead }: PagingSetting): string {
  if (memoryBytes !== undefined) return `process within ${mega(memoryBytes)} MB`;
  if (share === undefined) return "all experts in memory";
  return `${percent(share)} of the experts, look-ahead ${lookAhead}`;
}

/** Tables for people, one a kind of prompts. */
export function formatPaging(
  figures: readonly PagingFigures[],
  { experts, latencyMs }: { experts: number; latencyMs?: number },
): string {
  const header = [
    "threads",
    "activations",
    `in memory of ${experts}`,
    "decode tok/s",
    "of all in memory",
    "hits",
    "fetched ahead",
    "misses",
    "MB read a token",
    "foreseen right",
    "peak MB",
    "of budget",
  ];
  const lines: string[] = latencyMs === undefined
    ? []
    : [`Paged experts come over HTTP, each answer ${latencyMs} ms late.`, ""];
  for (const [kind, rows] of Map.groupBy(figures, ({ kind }) => kind)) {
    const cells = rows.map((row) => [
      describeSetting(row),
      String(row.threads),
      row.activations,
      String(row.resident),
      formatSummary(row.decode),
      `${row.ofFirst.toFixed(2)} x`,
      percent(row.hitShare),
      percent(row.prefetchedShare),
      percent(row.missShare),
      threeDigits(row.bytesPerToken / 1e6),
      percent(row.rightShare),
      row.peakBytes === undefined ? "-" : mega(row.peakBytes),
      percent(quotient(row.peakBytes, row.memoryBytes)),
    ]);
    lines.push(...table([[kind, ...header], ...cells]), "");
    for (const row of rows) {
      if (!row.sameAnswers) lines.push(`${describeSetting(row)}: ANOTHER ANSWER`, "");
    }
  }
  return lines.join("\n").trimEnd();
}

function mega(bytes: number): string {
  return Math.round(bytes / 1e6).toString();
}
