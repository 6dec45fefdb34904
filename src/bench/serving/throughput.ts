/**
 * Several answers side by side: how many tokens a second a server gives in all and how evenly, beside
 * one answer alone and beside native llama.cpp with the same numbers.
 */

import { DriverProcess } from "../driver_process.ts";
import { driverOf, type Skipped } from "../engines.ts";
import { parseProcessCpu, systemCpuSeconds } from "../machine.ts";
import { quotient, table } from "../report.ts";
import { formatSummary, scaled, summarize, type Summary } from "../statistics.ts";
import { ask, completionOf, streamsOf } from "./client.ts";
import { contextOf, rest, type ServingOptions, startServer } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";
import {
  figuresOf,
  parseStreams,
  type Stream,
  type StreamFigures,
  type StreamsRequest,
  type StreamSummary,
  summarizeStreams,
} from "./streams.ts";

/** Something that takes several prompts at once. */
export interface StreamsEngine {
  readonly name: string;
  readonly kind: "own" | "peer";
  readonly version: string;
  run(prompts: readonly (readonly number[])[], generate: number): Promise<Stream[]>;
  /** Processor time of its process so far. */
  cpuSeconds(): number | undefined;
  close(): Promise<void>;
}

export interface ThroughputRow extends StreamSummary {
  readonly engine: string;
  readonly kind: "own" | "peer";
  readonly version: string;
  readonly streams: number;
  /** Decode rate by that of the same engine's first number of streams. */
  readonly ofFirst: number | undefined;
  /** Cores that the engine used, and that the load generator (this process) used meanwhile. */
  readonly cores: Summary | undefined;
  readonly clientCores: Summary | undefined;
  /** Cores that all other processes used meanwhile. */
  readonly foreignCores: Summary | undefined;
}

/** What was used of the processor meanwhile, in cores; undefined where the system does not tell. */
interface Cores {
  readonly cores: number | undefined;
  readonly clientCores: number | undefined;
  readonly foreignCores: number | undefined;
}

export interface ThroughputFigures {
  readonly prompt: number;
  readonly answer: number;
  readonly rows: readonly ThroughputRow[];
  /** Our rates by a peer's, with as many streams. */
  readonly ratios: readonly {
    readonly peer: string;
    readonly streams: number;
    readonly decode: number | undefined;
    readonly endToEnd: number | undefined;
  }[];
  readonly skipped: readonly Skipped[];
}

/** Engines take turns for each number of streams, after a round that does not count. */
export async function measureThroughput(
  options: ServingOptions,
  start: typeof startEngines = startEngines,
): Promise<ThroughputFigures> {
  const { streams, prompt, answer, runs, workload, onProgress } = options;
  const { engines, skipped } = await start(options);
  const prompts = new RandomPrompts({ vocabSize: workload.vocabSize, seed: 1 });
  type Run = Cores & { readonly figures: StreamFigures };
  const measured = engines.map(() => streams.map((): Run[] => []));
  try {
    for (let run = -1; run < runs; run++) {
      onProgress(run < 0 ? "throughput: warming up" : `throughput: run ${run + 1} of ${runs}`);
      for (const [s, count] of streams.entries()) {
        const texts = Array.from({ length: count }, () => prompts.next(prompt));
        for (const [e, engine] of engines.entries()) {
          await rest(engine);
          const cores = watchCores(engine);
          const figures = figuresOf(await engine.run(texts, answer));
          if (run >= 0) measured[e][s].push({ figures, ...cores() });
        }
      }
    }
  } finally {
    for (const engine of engines) await engine.close();
  }
  const rows = engines.flatMap(({ name, kind, version }, e) => {
    const summaries = measured[e].map((runs) => summarizeStreams(runs.map((run) => run.figures)));
    const over = (runs: readonly Run[], field: keyof Cores) =>
      summarize(runs.map((run) => run[field]).filter((x) => x !== undefined));
    return streams.map((count, s): ThroughputRow => ({
      ...{ engine: name, kind, version, streams: count, ...summaries[s] },
      ofFirst: quotient(summaries[s].decode?.median, summaries[0].decode?.median),
      cores: over(measured[e][s], "cores"),
      clientCores: over(measured[e][s], "clientCores"),
      foreignCores: over(measured[e][s], "foreignCores"),
    }));
  });
  return { prompt, answer, rows, ratios: ratiosOf(rows), skipped };
}

function ratiosOf(rows: readonly ThroughputRow[]): ThroughputFigures["ratios"] {
  return rows.filter(({ kind }) => kind === "peer").map((peer) => {
    const own = rows.find(({ kind, streams }) => kind === "own" && streams === peer.streams);
    return {
      peer: peer.engine,
      streams: peer.streams,
      decode: quotient(own?.decode?.median, peer.decode?.median),
      endToEnd: quotient(own?.endToEnd?.median, peer.endToEnd?.median),
    };
  });
}

/** Our server, and llama.cpp's batches with and without choosing tokens, where there is a Python. */
async function startEngines(
  options: ServingOptions,
): Promise<{ engines: StreamsEngine[]; skipped: Skipped[] }> {
  const { model, threads, streams, prompt, answer, llamaPython, onProgress } = options;
  const most = Math.max(...streams);
  const context = contextOf(options, prompt + answer);
  onProgress("throughput: starting the server");
  const server = await startServer(options, { slots: most, context });
  const own: StreamsEngine = {
    name: "sluice",
    kind: "own",
    version: `deno task start, ${options.activations} activations`,
    run: async (prompts, generate) =>
      streamsOf(
        await Promise.all(
          prompts.map((prompt) => ask(server, { body: completionOf(prompt, generate) })),
        ),
      ),
    cpuSeconds: () => server.cpuSeconds(),
    close: async () => void await server.stop(),
  };
  if (llamaPython === undefined) {
    return {
      engines: [own],
      skipped: [{ name: "llama.cpp", reason: "--peers and --llama-python are not given" }],
    };
  }
  onProgress("throughput: starting llama.cpp");
  try {
    const { driver, ready } = await DriverProcess.start({
      command: llamaPython,
      args: [
        ...[driverOf("llama_streams.py"), model],
        ...[threads, context, most].map(String),
      ],
    });
    const peer = (name: string, sample: boolean): StreamsEngine => ({
      name,
      kind: "peer",
      version: ready.version,
      run: async (prompts, generate) => {
        const request: StreamsRequest = { prompts, generate, sample };
        return parseStreams(await driver.ask(request));
      },
      cpuSeconds: () => driver.cpuSeconds(),
      close: () => driver.close(),
    });
    const peers = [peer("llama.cpp, tokens given", false), peer("llama.cpp, tokens chosen", true)];
    return { engines: [own, ...peers], skipped: [] };
  } catch (error) {
    await own.close();
    throw error;
  }
}

/** Begins to watch the processor; the result says what was used of it since. */
function watchCores(engine: StreamsEngine): () => Cores {
  const times = () => [engine.cpuSeconds(), ownCpuSeconds(), systemCpuSeconds()];
  const start = performance.now();
  const before = times();
  return () => {
    const seconds = (performance.now() - start) / 1000;
    const [cores, clientCores, all] = times().map((after, i) =>
      after === undefined || before[i] === undefined ? undefined : (after - before[i]) / seconds
    );
    const known = all !== undefined && cores !== undefined && clientCores !== undefined;
    const foreignCores = known ? Math.max(0, all - cores - clientCores) : undefined;
    return { cores, clientCores, foreignCores };
  };
}

function ownCpuSeconds(): number | undefined {
  try {
    return parseProcessCpu(Deno.readTextFileSync("/proc/self/stat"));
  } catch {
    return undefined;
  }
}

/** A table for people. */
export function formatThroughput(figures: ThroughputFigures): string[] {
  const { prompt, answer, rows, ratios, skipped } = figures;
  const ms = (summary: Summary | undefined) => formatSummary(scaled(summary, 1000));
  const times = (ratio: number | undefined) => ratio === undefined ? "-" : `${ratio.toFixed(2)} x`;
  const header = [
    "engine",
    "streams",
    "decode tok/s",
    "of the first",
    "end to end tok/s",
    "first token ms",
    "slowest ms",
    "between tokens ms",
    "p99 ms",
    "p99/median",
    "p99/median while all decode",
    "cores",
    "generator's cores",
    "others' cores",
  ];
  const cells = rows.map((row) => [
    row.engine,
    String(row.streams),
    formatSummary(row.decode),
    times(row.ofFirst),
    formatSummary(row.endToEnd),
    ms(row.firstToken),
    ms(row.slowestFirstToken),
    ms(row.gap),
    ms(row.gapP99),
    formatSummary(row.spread),
    formatSummary(row.decodeSpread),
    ...[row.cores, row.clientCores, row.foreignCores].map((cores) =>
      cores === undefined ? "-" : cores.median.toFixed(2)
    ),
  ]);
  const lines = [
    `Answers side by side: prompts of ${prompt} tokens, answers of ${answer}`,
    ...table([header, ...cells]),
  ];
  if (ratios.length > 0) {
    const ratioCells = ratios.map(({ peer, streams, decode, endToEnd }) => [
      `sluice / ${peer}`,
      String(streams),
      times(decode),
      times(endToEnd),
    ]);
    lines.push("", ...table([["ratio", "streams", "decode", "end to end"], ...ratioCells]));
  }
  for (const { name, reason } of skipped) lines.push(`${name} skipped: ${reason}`);
  const versions = new Map(rows.map(({ engine, version }) => [engine, version]));
  for (const [engine, version] of versions) lines.push(`${engine}: ${version}`);
  return lines;
}
