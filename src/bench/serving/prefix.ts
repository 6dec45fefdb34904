/**
 * What a prompt costs whose prefix is known: its time to the first token when it is computed, when its
 * pages are in memory, and when another process left them in Deno KV.
 */

import { PAGE_TOKENS } from "../../backend/backend.ts";
import { table } from "../report.ts";
import { formatSummary, scaled, summarize, type Summary } from "../statistics.ts";
import { type Answer, ask, completionOf } from "./client.ts";
import { contextOf, rest, type ServingOptions, startServer, withFolder } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";

/** Enough to see that the answers are the same. */
const ANSWER_TOKENS = 8;

export interface PrefixRow {
  readonly source: "computed" | "memory" | "store";
  /** Seconds from the request to the first piece of its answer. */
  readonly firstToken: Summary;
  /** How many times shorter than computed. */
  readonly shorter: number;
  /** Prompt tokens that were not computed: the median. */
  readonly cached: number;
  /** All answers were those of computing. */
  readonly sameAnswers: boolean;
}

export interface PrefixFigures {
  readonly tokens: number;
  readonly rows: readonly PrefixRow[];
  /** Bytes of the prompt's cached units by the time that restoring them took (`restore_ms`). */
  readonly restoredPerSecond: Summary | undefined;
}

export async function measurePrefix(options: ServingOptions): Promise<PrefixFigures> {
  return await withFolder((state) => throughServer(options, state));
}

/** Asks for each prompt twice in one process, and twice again in the next one on the same state. */
async function throughServer(options: ServingOptions, state: string): Promise<PrefixFigures> {
  const { prefix: tokens, runs, workload, unitBytes, onProgress } = options;
  const context = contextOf(options, tokens + ANSWER_TOKENS);
  const flags = { context, slots: 1, state, "prefix-cache": "on" };
  const random = new RandomPrompts({ vocabSize: workload.vocabSize, seed: 2 });
  const prompts = Array.from({ length: runs }, () => random.next(tokens));
  const computed: Answer[] = [];
  const memory: Answer[] = [];
  const store: Answer[] = [];
  for (const restarted of [false, true]) {
    onProgress(`prefix: starting the server${restarted ? " again, on the same state" : ""}`);
    const server = await startServer(options, flags);
    const request = async (prompt: readonly number[]) => {
      const answer = await ask(server, { body: completionOf(prompt, ANSWER_TOKENS) });
      if (answer.outcome !== "whole") {
        throw new Error(`an answer is ${answer.outcome}, must be whole: ${answer.error ?? ""}`);
      }
      // Writing behind the answer is not what the next request shall wait for.
      await rest(server);
      return answer;
    };
    try {
      // Compiled code and grown tables belong to the first requests only.
      for (let i = 0; i < 2; i++) await request(random.next(tokens));
      for (const prompt of prompts) {
        if (restarted) store.push(await request(prompt));
        else computed.push(await request(prompt));
        memory.push(await request(prompt));
      }
    } finally {
      await server.stop();
    }
  }
  const texts = computed.map(({ text }) => text);
  const seconds = (answers: readonly Answer[]) =>
    summarize(answers.map(({ arrivals, submitted }) => arrivals[0] - submitted))!;
  const whole = seconds(computed);
  const row = (source: PrefixRow["source"], answers: readonly Answer[]): PrefixRow => ({
    source,
    firstToken: seconds(answers),
    shorter: whole.median / seconds(answers).median,
    cached: summarize(answers.map(({ timings }) => timings?.cache_n ?? 0))!.median,
    sameAnswers: answers.every(({ text }, i) => text === texts[i % texts.length]),
  });
  const restored = store.flatMap(({ timings }) =>
    timings === undefined || timings.restore_ms === 0
      ? []
      : [timings.cache_n / PAGE_TOKENS * unitBytes / timings.restore_ms * 1000]
  );
  return {
    tokens,
    rows: [row("computed", computed), row("memory", memory), row("store", store)],
    restoredPerSecond: summarize(restored),
  };
}

/** A table for people. */
export function formatPrefix(figures: PrefixFigures): string[] {
  const { tokens, rows, restoredPerSecond } = figures;
  const header = ["prefix", "first token ms", "shorter by", "tokens not computed"];
  const cells = rows.map((row) => [
    row.source === "store" ? "from Deno KV, after a restart" : row.source,
    formatSummary(scaled(row.firstToken, 1000)),
    `${row.shorter.toFixed(1)} x`,
    String(row.cached),
  ]);
  const wrong = rows.filter(({ sameAnswers }) => !sameAnswers);
  return [
    `Prompts of ${tokens} tokens whose prefix is known`,
    ...table([header, ...cells]),
    ...wrong.map(({ source }) => `${source}: ANOTHER ANSWER`),
    `restored at ${formatSummary(scaled(restoredPerSecond, 1e-6))} MB/s`,
  ];
}
