/**
 * Runs the engines by turns, A B C A B C, so that a machine that becomes slower or busier becomes so
 * for all of them. Every engine lives in a process of its own, which sleeps while others run.
 */

import { Ceilings } from "./ceilings.ts";
import { DriverProcess } from "./driver_process.ts";
import type { BenchEngine, Skipped } from "./engines.ts";
import { summarize, type Summary } from "./statistics.ts";
import { systemCpuSeconds } from "./machine.ts";
import type { Ready, Request, Timing } from "./wire.ts";
import { promptTokens, type Workload } from "./workload.ts";

/** Pause between two measurements: threads that spin after their work come to rest. */
const PAUSE_MS = 100;
/** An engine that has taken this long with its rounds is not asked for another one. */
const PATIENCE_SECONDS = 90;
/** A long prompt is left out where it would take longer than this. */
const LONGEST_SECONDS = 45;
/** A measurement beside which others used more cores than this is repeated, where it was short. */
const DISTURBED_CORES = 0.15;
const TRIES = 4;
const REPEATABLE_SECONDS = 6;
/** Tokens of the request that shows how soon a fresh process answers. */
const SHORT_PROMPT = 16;

export interface MeasureOptions {
  readonly engines: readonly BenchEngine[];
  readonly threads: number;
  readonly workload: Workload;
  /** Lengths of the prompts; decoding follows the first one. */
  readonly prefill: readonly number[];
  /** Tokens timed after the first one. */
  readonly decode: number;
  readonly runs: number;
  /** Also decode beside a process that keeps one core busy. */
  readonly busy: boolean;
  readonly onProgress?: (line: string) => void;
  /** Memory that each measuring thread reads over. */
  readonly probeBytes?: number;
  /** Starts an engine; in a process of its own where nothing is said. */
  readonly start?: StartEngine;
  /** Processor seconds of the whole system so far. */
  readonly systemCpu?: () => number | undefined;
}

/** An engine that takes requests, one at a time. */
export type Driver = Pick<DriverProcess, "run" | "cpuSeconds" | "peakBytes" | "close">;

export type StartEngine = (
  engine: BenchEngine,
  threads: number,
) => Promise<{ driver: Driver; ready: Ready; startSeconds: number }>;

/** Figures of one engine with one number of threads. */
export interface EngineFigures {
  readonly engine: string;
  readonly kind: BenchEngine["kind"];
  readonly version: string;
  /** Tokens per second by length of the prompt. */
  readonly prefill: Readonly<Record<string, Summary | undefined>>;
  /** Tokens per second. */
  readonly decode: Summary | undefined;
  /** Tokens per second beside a busy process. */
  readonly busyDecode: Summary | undefined;
  /** Seconds from request to first token, after the first length of prompt. */
  readonly firstTokenSeconds: Summary | undefined;
  readonly loadSeconds: number;
  /** Seconds from the start of the process to the first token of a short prompt. */
  readonly coldStartSeconds: number;
  readonly peakBytes: number | undefined;
  /** Cores that other processes used during the measurements that count. */
  readonly foreignCores: Summary | undefined;
}

export interface ThreadFigures {
  readonly threads: number;
  readonly engines: readonly EngineFigures[];
  readonly failed: readonly Skipped[];
  /** Bytes per second that a plain loop reads with as many threads. */
  readonly bandwidth: Summary | undefined;
  /** int8 multiply-adds per second of a loop of the relaxed dot product. */
  readonly multiplyAdds: Summary | undefined;
}

/** An engine in its process, and what has been measured of it. */
class Contestant {
  readonly prefill = new Map<number, number[]>();
  readonly decode: number[] = [];
  readonly busyDecode: number[] = [];
  readonly first: number[] = [];
  readonly foreign: number[] = [];
  seconds = 0;

  constructor(
    readonly engine: BenchEngine,
    readonly driver: Driver,
    readonly start: { version: string; loadSeconds: number; coldStartSeconds: number },
  ) {}

  /** Tokens per second of the prompts so far, a guess for longer ones. */
  get prefillRate(): number {
    return Math.max(0, ...[...this.prefill.values()].flat());
  }

  /**
   * Runs a request, again where others were computing meanwhile: the quietest try counts. Waiting
   * for a quiet moment beforehand would not do, since the next disturbance comes unannounced.
   */
  async runQuietly(
    request: Request,
    { systemCpu }: { systemCpu: () => number | undefined },
  ): Promise<Timing> {
    let best: { timing: Timing; foreign: number | undefined } | undefined;
    for (let tries = 0; tries < TRIES; tries++) {
      const before = { system: systemCpu(), own: this.driver.cpuSeconds(), at: performance.now() };
      const timing = await this.driver.run(request);
      const seconds = (performance.now() - before.at) / 1000;
      const system = difference(systemCpu(), before.system);
      const foreignSeconds = difference(system, difference(this.driver.cpuSeconds(), before.own));
      const foreign = foreignSeconds === undefined
        ? undefined
        : Math.max(0, foreignSeconds) / seconds;
      if (best === undefined || (foreign ?? 0) < (best.foreign ?? 0)) best = { timing, foreign };
      if ((foreign ?? 0) <= DISTURBED_CORES || seconds > REPEATABLE_SECONDS) break;
      await pause();
    }
    if (best!.foreign !== undefined) this.foreign.push(best!.foreign);
    return best!.timing;
  }

  add(length: number, timing: Timing): void {
    const rates = this.prefill.get(length) ?? [];
    rates.push(timing.promptTokens / timing.prefillSeconds);
    this.prefill.set(length, rates);
    if (timing.decodeTokens > 0) {
      this.decode.push(timing.decodeTokens / timing.decodeSeconds);
      this.first.push(timing.firstSeconds);
    }
  }

  figures(): EngineFigures {
    return {
      engine: this.engine.name,
      kind: this.engine.kind,
      ...this.start,
      prefill: Object.fromEntries(
        [...this.prefill].map(([length, rates]) => [String(length), summarize(rates)]),
      ),
      decode: summarize(this.decode),
      busyDecode: summarize(this.busyDecode),
      firstTokenSeconds: summarize(this.first),
      peakBytes: this.driver.peakBytes(),
      foreignCores: summarize(this.foreign),
    };
  }
}

/** Measures all engines with this number of threads. One that fails is named, the others go on. */
export async function measure(options: MeasureOptions): Promise<ThreadFigures> {
  const { engines, threads, workload, onProgress = () => {} } = options;
  const start = options.start ??
    ((engine, threads) => DriverProcess.start(engine.command(threads)));
  const prompt = (length: number) => promptTokens(length, workload);
  const systemCpu = options.systemCpu ?? systemCpuSeconds;
  const [shortest] = options.prefill;
  const failed: Skipped[] = [];
  let contestants: Contestant[] = [];
  const bandwidth: number[] = [];
  const multiplyAdds: number[] = [];
  const ceilings = await Ceilings.open({ threads, memoryBytes: options.probeBytes });

  /** One turn of every engine that is still there. */
  const eachInTurn = async (turn: (contestant: Contestant) => Promise<void>) => {
    for (const contestant of contestants) {
      try {
        const startedAt = performance.now();
        await turn(contestant);
        contestant.seconds += (performance.now() - startedAt) / 1000;
      } catch (error) {
        failed.push({ name: contestant.engine.name, reason: (error as Error).message });
        contestants = contestants.filter((other) => other !== contestant);
        await contestant.driver.close();
      }
      await pause();
    }
  };

  try {
    for (const engine of engines) {
      onProgress(`${engine.name}, ${threads} threads: loading`);
      try {
        contestants.push(
          await startContestant(engine, { start, threads, prompt: prompt(SHORT_PROMPT) }),
        );
      } catch (error) {
        failed.push({ name: engine.name, reason: (error as Error).message });
      }
      await pause();
    }
    // Compilers and caches warm up; nothing of this counts, but for the engine's patience.
    const warmUp = {
      prompt: prompt(Math.min(shortest, 64)),
      generate: Math.min(options.decode, 16),
    };
    await eachInTurn(async ({ driver }) => void await driver.run(warmUp));
    for (const contestant of contestants) contestant.seconds = 0;

    for (let run = 0; run < options.runs; run++) {
      onProgress(`${threads} threads: run ${run + 1} of ${options.runs}`);
      bandwidth.push(await ceilings.bandwidth());
      const rate = await ceilings.multiplyAdds();
      if (rate !== undefined) multiplyAdds.push(rate);
      await pause();
      for (const length of options.prefill) {
        const generate = length === shortest ? options.decode + 1 : 1;
        await eachInTurn(async (contestant) => {
          if (run > 0 && contestant.seconds > PATIENCE_SECONDS) return;
          const guess = length / contestant.prefillRate;
          if (length !== shortest && guess > LONGEST_SECONDS) return;
          const request = { prompt: prompt(length), generate };
          contestant.add(length, await contestant.runQuietly(request, { systemCpu }));
        });
      }
    }
    if (options.busy) {
      onProgress(`${threads} threads: beside a busy process`);
      const request = { prompt: prompt(shortest), generate: options.decode + 1 };
      await besideBusyProcess(async () => {
        for (let run = 0; run < Math.min(options.runs, 3); run++) {
          await eachInTurn(async ({ driver, busyDecode, seconds }) => {
            if (run > 0 && seconds > PATIENCE_SECONDS) return;
            const { decodeTokens, decodeSeconds } = await driver.run(request);
            busyDecode.push(decodeTokens / decodeSeconds);
          });
        }
      });
    }
    return {
      threads,
      engines: contestants.map((contestant) => contestant.figures()),
      failed,
      bandwidth: summarize(bandwidth),
      multiplyAdds: summarize(multiplyAdds),
    };
  } finally {
    ceilings.close();
    for (const { driver } of contestants) await driver.close();
  }
}

async function startContestant(
  engine: BenchEngine,
  { start, threads, prompt }: { start: StartEngine; threads: number; prompt: number[] },
): Promise<Contestant> {
  const { driver, ready, startSeconds } = await start(engine, threads);
  try {
    const { firstSeconds } = await driver.run({ prompt, generate: 1 });
    return new Contestant(engine, driver, {
      version: ready.version,
      loadSeconds: ready.loadSeconds,
      coldStartSeconds: startSeconds + firstSeconds,
    });
  } catch (error) {
    await driver.close();
    throw error;
  }
}

/** Runs `work` while a process computes without a pause. */
async function besideBusyProcess(work: () => Promise<void>): Promise<void> {
  const busy = new Deno.Command(Deno.execPath(), {
    args: ["eval", "while (true);"],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    // It is busy once it has started.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await work();
  } finally {
    busy.kill("SIGKILL");
    await busy.status;
  }
}

function difference(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a - b;
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}
