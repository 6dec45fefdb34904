/**
 * Sequences decoded side by side: how much more a step of many costs than a step of one, and how many
 * experts it reads. A layer's experts are read once a step, however many of its tokens chose them.
 */

import type { ActivationPrecision } from "../backend/backend.ts";
import { DriverProcess } from "./driver_process.ts";
import { driverOf } from "./engines.ts";
import { table } from "./report.ts";
import { formatSummary, summarize, type Summary, threeDigits } from "./statistics.ts";
import type { Timing } from "./wire.ts";
import { bytesPerStep, promptTokens, type Workload } from "./workload.ts";

export interface BatchOptions {
  readonly model: string;
  readonly workload: Workload;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Numbers of sequences. */
  readonly sequences: readonly number[];
  /** Tokens of each prompt, and tokens of context with the answer. */
  readonly prompt: number;
  readonly context: number;
  /** Steps that are timed. */
  readonly decode: number;
  readonly runs: number;
  readonly onProgress?: (line: string) => void;
  /** Starts the driver; in a process of its own where nothing is said. */
  readonly start?: (threads: number) => Promise<BatchDriver>;
}

export type BatchDriver = Pick<DriverProcess, "run" | "close">;

/** Figures of so many sequences side by side. */
export interface BatchFigures {
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly sequences: number;
  /** Tokens per second of all sequences together. */
  readonly decode: Summary;
  /** Bytes of weights read per second, chosen experts counted once a step. */
  readonly bytesPerSecond: number;
  /** Different experts of a layer that a step reads, on average; absent in a dense model. */
  readonly expertsRead?: number;
  /** Experts that its tokens choose, those chosen twice counted twice. */
  readonly expertsChosen?: number;
}

/** Measures each number of sequences in turn, so that a machine that slows down does so for all. */
export async function measureBatches(options: BatchOptions): Promise<BatchFigures[]> {
  const { workload, threads, activations, sequences, onProgress = () => {} } = options;
  onProgress(`${activations}, ${threads} threads: loading for ${sequences.join(", ")} sequences`);
  const driver = await (options.start ?? startDriver(options))(threads);
  const timings = sequences.map((): Timing[] => []);
  try {
    const prompt = promptTokens(options.prompt, workload);
    // The first round warms up and evaluates the prompts; nothing of it counts.
    for (let run = -1; run < options.runs; run++) {
      if (run >= 0) onProgress(`${threads} threads: run ${run + 1} of ${options.runs}`);
      for (const [i, count] of sequences.entries()) {
        const request = { prompt, generate: options.decode + 1, sequences: count };
        const timing = await driver.run(request);
        if (run >= 0) timings[i].push(timing);
      }
    }
  } finally {
    await driver.close();
  }
  return sequences.map((count, i) => {
    const decode = summarize(
      timings[i].map(({ decodeTokens, decodeSeconds }) => decodeTokens / decodeSeconds),
    )!;
    const { routed } = workload;
    const experts = timings[i][0].expertsRead ?? 0;
    return {
      threads,
      activations,
      sequences: count,
      decode,
      bytesPerSecond: decode.median / count * bytesPerStep(workload, { experts }),
      ...(routed && { expertsRead: experts, expertsChosen: count * routed.topK }),
    };
  });
}

function startDriver(
  { model, activations, context, sequences }: BatchOptions,
): (threads: number) => Promise<BatchDriver> {
  const most = String(Math.max(...sequences));
  return async (threads) => {
    const { driver } = await DriverProcess.start({
      command: Deno.execPath(),
      args: [
        ...["run", "--no-prompt", "--allow-read", driverOf("sluice_batch.ts")],
        ...[model, String(threads), activations, String(context), most],
      ],
    });
    return driver;
  };
}

/** A table for people. */
export function formatBatches(
  figures: readonly BatchFigures[],
  { workload }: { workload: Workload },
): string {
  const { routed } = workload;
  const header = [
    "sequences",
    "threads",
    "activations",
    "decode tok/s",
    "of the first",
    "weights GB/s",
    ...(routed ? [`experts read of ${routed.experts}`, "chosen"] : []),
  ];
  const rows = figures.map((figure) => {
    const { threads, activations } = figure;
    const first = figures.find((other) =>
      other.threads === threads && other.activations === activations
    )!;
    return [
      String(figure.sequences),
      String(threads),
      activations,
      formatSummary(figure.decode),
      `${(figure.decode.median / first.decode.median).toFixed(2)} x`,
      threeDigits(figure.bytesPerSecond / 1e9),
      ...(routed ? [threeDigits(figure.expertsRead!), String(figure.expertsChosen)] : []),
    ];
  });
  return table([header, ...rows]).join("\n");
}
