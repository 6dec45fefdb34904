/** Many connections that do nothing, many requests at once, and how soon `/health` answers meanwhile. */

import { formatSummary, percentile, summarize, type Summary, threeDigits } from "../statistics.ts";
import { table } from "../report.ts";
import { type Answer, ask, completionOf, type Outcome } from "./client.ts";
import type { HealthTimes } from "./health_worker.ts";
import { contextOf, type ServingOptions, startServer } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";
import { RawConnection } from "./raw_http.ts";

/** Tokens of the prompts and answers of the requests at once. */
const PROMPT_TOKENS = 32;
const ANSWER_TOKENS = 16;
/** Connections that are opened at the same time. */
const OPENING = 50;
/** Seconds in which `/health` is asked while nothing else happens, for comparison. */
const QUIET_SECONDS = 1;

export interface HealthFigures {
  readonly requests: number;
  /** Milliseconds. */
  readonly median: number;
  readonly p99: number;
  readonly max: number;
}

export interface ConnectionsFigures {
  readonly idle: {
    readonly asked: number;
    /** Those that could be opened and answered one request. */
    readonly opened: number;
    /** Those still open once all requests had ended; servers may close idle ones. */
    readonly open: number;
  };
  readonly burst: {
    readonly requests: number;
    /** Requests by what became of them: `whole`, `refused 503`, `error`, ... */
    readonly outcomes: Readonly<Record<string, number>>;
    /** Requests that ended neither whole nor refused with 429 or 503. */
    readonly wrong: number;
    /** What some of those said. */
    readonly errors: readonly string[];
    readonly seconds: number;
    /** Seconds to the first token of those that have one. */
    readonly firstToken: Summary | undefined;
    /** Seconds until a refusal was there. */
    readonly refusal: Summary | undefined;
  };
  /** `/health` with idle connections only, and while the requests run. */
  readonly quietHealth: HealthFigures;
  readonly health: HealthFigures;
}

export async function measureConnections(options: ServingOptions): Promise<ConnectionsFigures> {
  const { idle, burst, workload, onProgress } = options;
  const context = contextOf(options, PROMPT_TOKENS + ANSWER_TOKENS);
  onProgress("connections: starting the server");
  const server = await startServer(options, { context });
  const random = new RandomPrompts({ vocabSize: workload.vocabSize, seed: 4 });
  const request = (tokens: number) =>
    ask(server, { body: completionOf(random.next(PROMPT_TOKENS), tokens) });
  const connections = new IdleConnections();
  try {
    await request(ANSWER_TOKENS);
    onProgress(`connections: opening ${idle}`);
    await connections.fill(server, idle);
    const quiet = watchHealth(server);
    await new Promise((resolve) => setTimeout(resolve, QUIET_SECONDS * 1000));
    const quietHealth = healthOf(await quiet.stop());
    onProgress(`connections: ${burst} requests at once`);
    const watch = watchHealth(server);
    const start = performance.now();
    const answers = await Promise.all(Array.from({ length: burst }, () => request(ANSWER_TOKENS)));
    const seconds = (performance.now() - start) / 1000;
    const health = healthOf(await watch.stop());
    return {
      idle: { asked: idle, opened: connections.opened, open: connections.open },
      burst: { requests: burst, seconds, ...burstOf(answers) },
      quietHealth,
      health,
    };
  } finally {
    connections.close();
    await server.stop();
  }
}

/** Counts what became of requests. */
export function burstOf(answers: readonly Answer[]) {
  const outcomes: Record<string, number> = {};
  const wrong: Answer[] = [];
  for (const answer of answers) {
    const { outcome, status } = answer;
    const name = outcome === "refused" ? `refused ${status}` : outcome;
    outcomes[name] = (outcomes[name] ?? 0) + 1;
    if (!isRight(answer)) wrong.push(answer);
  }
  const firsts = answers.filter(({ arrivals }) => arrivals.length > 0);
  return {
    outcomes,
    wrong: wrong.length,
    errors: [...new Set(wrong.map(({ error }) => error ?? "no reason given"))].slice(0, 3),
    firstToken: summarize(firsts.map(({ arrivals, submitted }) => arrivals[0] - submitted)),
    refusal: summarize(
      answers.filter(({ outcome }) => outcome === "refused")
        .map(({ ended, submitted }) => ended - submitted),
    ),
  };
}

/** A server under load may answer, or say that it is too much. */
function isRight({ outcome, status }: { outcome: Outcome; status: number }): boolean {
  return outcome === "whole" || (outcome === "refused" && (status === 429 || status === 503));
}

/** Connections that have had one answer and stay open. */
class IdleConnections {
  /** Those that could be opened. */
  opened = 0;
  /** Those that are open. */
  open = 0;
  readonly #connections: RawConnection[] = [];

  /** Opens so many, some at a time; those that fail are missing in `opened`. */
  async fill({ url }: { readonly url: string }, count: number): Promise<void> {
    let left = count;
    const open = async () => {
      while (left-- > 0) await this.#add(url).catch(() => {});
    };
    await Promise.all(Array.from({ length: Math.min(OPENING, count) }, open));
  }

  close(): void {
    for (const connection of this.#connections) connection.close();
  }

  async #add(url: string): Promise<void> {
    const connection = await RawConnection.open(url, "/health");
    this.#connections.push(connection);
    await connection.get();
    this.opened++;
    this.open++;
    connection.closed().then(() => this.open--);
  }
}

/** Asks for `/health` from a thread of its own until it is stopped. */
function watchHealth({ url }: { readonly url: string }): { stop(): Promise<HealthTimes> } {
  const worker = new Worker(new URL("./health_worker.ts", import.meta.url), { type: "module" });
  const times = new Promise<HealthTimes>((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
  });
  times.catch(() => {});
  worker.postMessage(url);
  return {
    async stop() {
      worker.postMessage("stop");
      try {
        return await times;
      } finally {
        worker.terminate();
      }
    },
  };
}

/** Throws Error where a request failed: there is nothing to count then. */
function healthOf({ milliseconds, error }: HealthTimes): HealthFigures {
  if (error !== undefined) throw new Error(`/health failed: ${error}`);
  return {
    requests: milliseconds.length,
    median: summarize(milliseconds)?.median ?? NaN,
    p99: percentile(milliseconds, 0.99) ?? NaN,
    max: Math.max(...milliseconds),
  };
}

/** Tables for people. */
export function formatConnections(figures: ConnectionsFigures): string[] {
  const { idle, burst, quietHealth, health } = figures;
  const healthRow = (name: string, { requests, median, p99, max }: HealthFigures) => [
    name,
    String(requests),
    ...[median, p99, max].map(threeDigits),
  ];
  const outcomes = Object.entries(burst.outcomes).map(([name, count]) => `${count} ${name}`);
  return [
    `${idle.opened} of ${idle.asked} idle connections opened, ${idle.open} still open at the end; ` +
    `${burst.requests} requests at once, done after ${threeDigits(burst.seconds)} s`,
    `requests: ${
      outcomes.join(", ")
    }; neither answered nor refused with 429 or 503: ${burst.wrong}`,
    ...burst.errors.map((error) => `  ${error}`),
    `first token after ${formatSummary(burst.firstToken)} s, refusals after ` +
    `${formatSummary(burst.refusal)} s`,
    ...table([
      ["/health", "requests", "median ms", "p99 ms", "slowest ms"],
      healthRow("idle connections only", quietHealth),
      healthRow("while the requests run", health),
    ]),
  ];
}
