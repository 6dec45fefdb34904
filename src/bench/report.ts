/** The benchmark's report: tables for people, one object for machines. */

import type { EngineFigures, ThreadFigures } from "./measure.ts";
import type { Machine } from "./machine.ts";
import { formatGiga, formatSummary, scaled, threeDigits } from "./statistics.ts";
import type { Skipped } from "./engines.ts";
import type { Workload } from "./workload.ts";

export interface Report {
  readonly model: string;
  readonly workload: Workload;
  readonly machine: Machine;
  /** Load averages; what the run itself causes is part of the second one. */
  readonly loadBefore: number;
  readonly loadAfter: number;
  readonly prefill: readonly number[];
  readonly decode: number;
  readonly skipped: readonly Skipped[];
  readonly results: readonly ThreadReport[];
}

export interface ThreadReport extends Omit<ThreadFigures, "engines"> {
  readonly engines: readonly EngineReport[];
  readonly ratios: readonly Ratios[];
}

/** An engine's figures beside what the machine could do in the same run. */
export interface EngineReport extends EngineFigures {
  /** Bytes of weights read per second while decoding. */
  readonly decodeBytesPerSecond: number | undefined;
  /** Of the bandwidth measured. */
  readonly bandwidthShare: number | undefined;
  /** Of the int8 ceiling, by length of the prompt. */
  readonly multiplyShare: Readonly<Record<string, number | undefined>>;
  /** Of its own decode rate, kept beside a busy process. */
  readonly busyShare: number | undefined;
  /** Peak memory by the size of the file. */
  readonly peakShare: number | undefined;
}

/** How many times faster than a peer one of our engines is; for seconds and bytes, ours by theirs. */
export interface Ratios {
  readonly engine: string;
  readonly peer: string;
  readonly prefill: Readonly<Record<string, number | undefined>>;
  readonly decode: number | undefined;
  readonly firstTokenSeconds: number | undefined;
  readonly loadSeconds: number | undefined;
  readonly peakBytes: number | undefined;
}

/** Adds shares of the ceilings and ratios to the peers. */
export function interpret(
  figures: ThreadFigures,
  { workload }: { workload: Workload },
): ThreadReport {
  const engines = figures.engines.map((engine): EngineReport => {
    const bytes = engine.decode && engine.decode.median * workload.bytesPerToken;
    const multiplyShare = Object.fromEntries(
      Object.entries(engine.prefill).map(([length, rate]) => {
        const macs = workload.macsPerToken + workload.outputMacs / Number(length);
        return [length, quotient(rate && rate.median * macs, figures.multiplyAdds?.median)];
      }),
    );
    return {
      ...engine,
      decodeBytesPerSecond: bytes,
      bandwidthShare: quotient(bytes, figures.bandwidth?.median),
      multiplyShare,
      busyShare: quotient(engine.busyDecode?.median, engine.decode?.median),
      peakShare: quotient(engine.peakBytes, workload.fileBytes),
    };
  });
  const ratios = engines.filter(({ kind }) => kind === "own").flatMap((own) =>
    engines.filter(({ kind }) => kind === "peer").map((peer): Ratios => ({
      engine: own.engine,
      peer: peer.engine,
      prefill: Object.fromEntries(
        Object.entries(own.prefill).map(([length, rate]) =>
          [length, quotient(rate?.median, peer.prefill[length]?.median)] as const
        ),
      ),
      decode: quotient(own.decode?.median, peer.decode?.median),
      firstTokenSeconds: quotient(own.firstTokenSeconds?.median, peer.firstTokenSeconds?.median),
      loadSeconds: quotient(own.loadSeconds, peer.loadSeconds),
      peakBytes: quotient(own.peakBytes, peer.peakBytes),
    }))
  );
  return { ...figures, engines, ratios };
}

/** Undefined where either is, or nothing to divide by. */
export function quotient(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined || b === 0 ? undefined : a / b;
}

/** Everything for people, without the last line end. */
export function formatReport(report: Report): string {
  const { machine, workload } = report;
  const lines = [
    `${report.model}: ${mega(workload.fileBytes)} MB; ${describeParameters(workload)}; ` +
    `${mega(workload.bytesPerToken)} MB of weights and ${
      threeDigits(workload.macsPerToken / 1e6)
    } M multiply-adds a token`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.os}, Deno ${machine.deno}, ` +
    `load average ${report.loadBefore.toFixed(2)} before, ${report.loadAfter.toFixed(2)} after`,
  ];
  for (const result of report.results) lines.push("", ...formatThreads(result, report));
  if (report.skipped.length > 0) lines.push("");
  for (const { name, reason } of report.skipped) lines.push(`${name} skipped: ${reason}`);
  return lines.join("\n");
}

/** `685 M parameters, 167 M active (4 of 32 experts in 11 layers)`. */
function describeParameters({ parameters, activeParameters, routed }: Workload): string {
  const millions = (count: number) => `${threeDigits(count / 1e6)} M`;
  const active = `${millions(parameters)} parameters, ${millions(activeParameters)} active`;
  if (routed === undefined) return active;
  return `${active} (${routed.topK} of ${routed.experts} experts in ${routed.layers} layers)`;
}

function formatThreads(result: ThreadReport, { prefill, decode }: Report): string[] {
  const { threads, bandwidth, multiplyAdds } = result;
  const withBusy = result.engines.some(({ busyDecode }) => busyDecode !== undefined);
  const header = [
    "engine",
    ...prefill.map((length) => `prefill ${length} tok/s`),
    `decode ${decode} tok/s`,
    "weights GB/s",
    "of bandwidth",
    ...prefill.map((length) => `of int8, ${length}`),
    `first token ms`,
    "load ms",
    "cold start ms",
    "peak MB",
    "of file",
    "others' cores",
    ...(withBusy ? ["busy decode tok/s", "kept"] : []),
  ];
  const rows = result.engines.map((engine) => [
    engine.engine,
    ...prefill.map((length) => formatSummary(engine.prefill[length])),
    formatSummary(engine.decode),
    number(engine.decodeBytesPerSecond, 1e-9),
    percent(engine.bandwidthShare),
    ...prefill.map((length) => percent(engine.multiplyShare[length])),
    formatSummary(scaled(engine.firstTokenSeconds, 1000)),
    number(engine.loadSeconds, 1000),
    number(engine.coldStartSeconds, 1000),
    engine.peakBytes === undefined ? "-" : mega(engine.peakBytes),
    times(engine.peakShare),
    engine.foreignCores === undefined ? "-" : engine.foreignCores.median.toFixed(2),
    ...(withBusy ? [formatSummary(engine.busyDecode), percent(engine.busyShare)] : []),
  ]);
  const lines = [
    `${threads} ${threads === 1 ? "thread" : "threads"}: a plain loop reads ${
      formatGiga(bandwidth)
    } GB/s and does ${formatGiga(multiplyAdds)} G int8 multiply-adds/s`,
    ...table([header, ...rows]),
  ];
  if (result.ratios.length > 0) {
    const ratioHeader = [
      "ratio",
      ...prefill.map((length) => `prefill ${length}`),
      "decode",
      "first token",
      "load",
      "peak memory",
    ];
    const ratioRows = result.ratios.map((ratio) => [
      `${ratio.engine} / ${ratio.peer}`,
      ...prefill.map((length) => times(ratio.prefill[length])),
      times(ratio.decode),
      times(ratio.firstTokenSeconds),
      times(ratio.loadSeconds),
      times(ratio.peakBytes),
    ]);
    lines.push("", ...table([ratioHeader, ...ratioRows]));
  }
  for (const { name, reason } of result.failed) lines.push(`${name} failed: ${reason}`);
  for (const { engine, version } of result.engines) lines.push(`${engine}: ${version}`);
  return lines;
}

/** Columns as wide as their widest cell: the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    row.map((cell, column) => column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))
      .join("  ").trimEnd()
  );
}

function number(value: number | undefined, factor: number): string {
  return value === undefined ? "-" : threeDigits(value * factor);
}

/** `85 %`; `-` where there is none. */
export function percent(share: number | undefined): string {
  return share === undefined ? "-" : `${Math.round(share * 100)} %`;
}

function times(ratio: number | undefined): string {
  return ratio === undefined ? "-" : `${ratio.toFixed(2)} x`;
}

function mega(bytes: number): string {
  return Math.round(bytes / 1e6).toString();
}
