/** Whether a server that answers thousands of different requests keeps its size. */

import { PAGE_TOKENS } from "../../backend/backend.ts";
import {
  formatSummary,
  type Point,
  slopeOf,
  summarize,
  type Summary,
  threeDigits,
} from "../statistics.ts";
import { ask, completionOf } from "./client.ts";
import { contextOf, rest, type ServingOptions, startServer } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";
import { metricOf, metricsOf, type ServerProcess } from "./server_process.ts";

/** Requests under way at any time. */
const CLIENTS = 8;
const SAMPLE_MS = 500;
const MEBIBYTE = 2 ** 20;
/** Context that the mixture's longest prompt and answer need, in whole pages. */
const CONTEXT = 256;
/** Prompts that come again and again. */
const KNOWN_PROMPTS = 16;

/** One request of the mixture. */
export interface MixedRequest {
  readonly kind: "short" | "streamed" | "left" | "known";
  readonly prompt: readonly number[];
  readonly answer: number;
  /** Leave when so many pieces have arrived. */
  readonly leaveAfter?: number;
}

/** Equal parts of short requests, long ones, ones whose client leaves, and ones with a known prompt. */
export class Mixture {
  readonly #random: RandomPrompts;
  readonly #known: readonly (readonly number[])[];

  constructor(random: RandomPrompts) {
    this.#random = random;
    this.#known = Array.from({ length: KNOWN_PROMPTS }, () => random.next(192));
  }

  next(): MixedRequest {
    const random = this.#random;
    const below = (count: number) => Math.floor(random.fraction() * count);
    switch (below(4)) {
      case 0:
        return { kind: "short", prompt: random.next(4 + below(12)), answer: 1 + below(4) };
      case 1:
        return { kind: "streamed", prompt: random.next(32 + below(96)), answer: 8 + below(24) };
      case 2: {
        const prompt = random.next(32 + below(96));
        return { kind: "left", prompt, answer: 64, leaveAfter: 1 + below(8) };
      }
      default: {
        const known = this.#known[below(this.#known.length)];
        return { kind: "known", prompt: known, answer: 1 + below(8) };
      }
    }
  }
}

export interface MemoryFigures {
  readonly requests: number;
  readonly seconds: number;
  /** Requests by kind and what became of them. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** Tokens of all prompts that were looked up and found in the prefix cache. */
  readonly cacheQueries: number | undefined;
  readonly cacheHits: number | undefined;
  /** Resident bytes: at the first request, at the last, and the most in between. */
  readonly first: number;
  readonly last: number;
  readonly peak: number;
  /** Bytes a minute by which the last half of the run grew, by a line of least squares. */
  readonly growth: number | undefined;
  /** Choices that run or wait once all clients have gone. */
  readonly leftRunning: number;
  /** Pages of the KV cache, all and in use when everything is over. */
  readonly pages: { readonly total: number | undefined; readonly used: number | undefined };
  /** Bytes that `--kv-memory` allows, and bytes of all pages. */
  readonly kvBudget: number;
  readonly kvBytes: number | undefined;
  readonly residentWhenIdle: number;
  readonly firstToken: Summary | undefined;
}

/** Pages that the budget of the part holds: fewer than all clients' longest requests need. */
const BUDGET_PAGES = CLIENTS * CONTEXT / PAGE_TOKENS - 1;

export async function measureMemory(options: ServingOptions): Promise<MemoryFigures> {
  const { requests, workload, unitBytes, onProgress } = options;
  const context = contextOf(options, CONTEXT - 1);
  const kvBudget = BUDGET_PAGES * unitBytes;
  onProgress("memory: starting the server");
  const server = await startServer(options, { context, slots: CLIENTS, "kv-memory": kvBudget });
  try {
    const mixture = new Mixture(
      new RandomPrompts({ vocabSize: workload.vocabSize, seed: 5 }),
    );
    const resident = () => {
      const bytes = server.residentBytes();
      if (bytes === undefined) throw new Error("cannot measure memory: /proc has no resident size");
      return bytes;
    };
    const start = performance.now();
    const samples: Point[] = [];
    const sample = () => samples.push([(performance.now() - start) / 60_000, resident()]);
    sample();
    const sampling = setInterval(sample, SAMPLE_MS);
    const outcomes: Record<string, number> = {};
    const firsts: number[] = [];
    let left = requests;
    const client = async () => {
      while (left-- > 0) {
        if (left > 0 && left % 500 === 0) onProgress(`memory: ${left} requests to go`);
        const { kind, outcome, firstToken } = await perform(server, mixture.next());
        const name = `${kind} ${outcome}`;
        outcomes[name] = (outcomes[name] ?? 0) + 1;
        if (firstToken !== undefined) firsts.push(firstToken);
      }
    };
    try {
      await Promise.all(Array.from({ length: CLIENTS }, client));
    } finally {
      clearInterval(sampling);
    }
    const seconds = (performance.now() - start) / 1000;
    sample();
    await rest(server);
    const page = await metricsOf(server);
    const metric = (name: string, labels?: Record<string, string>) =>
      metricOf(page, { name, labels });
    const total = metric("sluice:kv_pages");
    return {
      requests,
      seconds,
      outcomes,
      cacheQueries: metric("vllm:prefix_cache_queries_total"),
      cacheHits: metric("vllm:prefix_cache_hits_total"),
      first: samples[0][1],
      last: samples.at(-1)![1],
      peak: Math.max(...samples.map(([, bytes]) => bytes)),
      growth: slopeOf(samples.slice(samples.length >> 1)),
      leftRunning: (metric("vllm:num_requests_running") ?? NaN) +
        (metric("vllm:num_requests_waiting") ?? NaN),
      pages: { total, used: metric("sluice:kv_pages", { state: "used" }) },
      kvBudget,
      kvBytes: total === undefined ? undefined : total * unitBytes,
      residentWhenIdle: resident(),
      firstToken: summarize(firsts),
    };
  } finally {
    await server.stop();
  }
}

/** A request of the mixture, short ones without a stream. */
async function perform(
  server: ServerProcess,
  { kind, prompt, answer, leaveAfter = Infinity }: MixedRequest,
): Promise<{ kind: string; outcome: string; firstToken?: number }> {
  const body = completionOf(prompt, answer);
  if (kind === "short") {
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify(body),
    });
    await response.text();
    return { kind, outcome: response.status === 200 ? "whole" : `refused ${response.status}` };
  }
  const { outcome, status, arrivals, submitted } = await ask(server, {
    body,
    onPiece: (pieces) => pieces < leaveAfter,
  });
  return {
    kind,
    outcome: outcome === "refused" ? `refused ${status}` : outcome,
    ...(arrivals.length > 0 && { firstToken: arrivals[0] - submitted }),
  };
}

/** Lines for people. */
export function formatMemory(figures: MemoryFigures): string[] {
  const { requests, seconds, outcomes, cacheHits, cacheQueries, pages } = figures;
  const mebi = (bytes: number | undefined) =>
    bytes === undefined ? "-" : threeDigits(bytes / MEBIBYTE);
  const counts = Object.entries(outcomes).toSorted().map(([name, count]) => `${count} ${name}`);
  return [
    `${requests} mixed requests in ${threeDigits(seconds)} s: ${counts.join(", ")}`,
    `first token after ${formatSummary(figures.firstToken)} s; ${cacheHits ?? "-"} of ` +
    `${cacheQueries ?? "-"} prompt tokens found in the prefix cache`,
    `resident ${mebi(figures.first)} MiB at the first request, ${mebi(figures.peak)} at most, ` +
    `${mebi(figures.last)} at the last, ${mebi(figures.residentWhenIdle)} at rest; the last half ` +
    `grew by ${mebi(figures.growth)} MiB a minute`,
    `keys and values: ${mebi(figures.kvBytes)} of ${mebi(figures.kvBudget)} MiB ` +
    `(${pages.total ?? "-"} pages, ${pages.used ?? "-"} in use at the end); ` +
    `${figures.leftRunning} requests left running`,
  ];
}
