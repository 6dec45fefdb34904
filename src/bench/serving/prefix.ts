/**
 * What a prompt costs whose prefix is known: its time to the first token when it is computed, when its
 * pages are in memory, and when another process left them in Deno KV. And how fast units come out of a
 * store by itself.
 */

import { PAGE_TOKENS } from "../../backend/backend.ts";
import { chainKey, rootKey } from "../../cache/chain.ts";
import { openStore } from "../../cache/open_store.ts";
import { table } from "../report.ts";
import { formatSummary, scaled, summarize, type Summary, threeDigits } from "../statistics.ts";
import { type Answer, ask, completionOf } from "./client.ts";
import { contextOf, rest, type ServingOptions, startServer, withFolder } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";

/** Enough to see that the answers are the same. */
const ANSWER_TOKENS = 8;
/** Units that are read from a store in a row, at most so many bytes of them. */
const STORE_UNITS = 256;
const STORE_BYTES = 256 * 2 ** 20;
const STORE_OPTIONS = { quotaBytes: 2 ** 31, expiryMs: 3_600_000 } as const;

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
  /** Bytes of a unit of PAGE_TOKENS tokens. */
  readonly unitBytes: number;
  /** Bytes of the prompt's cached units by the time that restoring them took (`restore_ms`). */
  readonly restoredPerSecond: Summary | undefined;
  /** Bytes a second that a store by itself reads and writes. */
  readonly storeRead: Summary | undefined;
  readonly storeWrite: Summary | undefined;
}

export async function measurePrefix(
  options: ServingOptions,
): Promise<PrefixFigures> {
  return await withFolder(async (folder) => {
    const figures = await throughServer(options, `${folder}/server`);
    options.onProgress("prefix: a store by itself");
    return { ...figures, ...await storeAlone(options, folder) };
  });
}

/** Asks for the same prompts before and after a restart, in turns with new ones. */
async function throughServer(
  options: ServingOptions,
  state: string,
) {
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
    unitBytes,
    restoredPerSecond: summarize(restored),
  };
}

/** Writes units of random bytes into a new local database and reads them back after opening it anew. */
async function storeAlone(
  { runs, unitBytes }: { readonly runs: number; readonly unitBytes: number },
  folder: string,
): Promise<{ storeRead: Summary | undefined; storeWrite: Summary | undefined }> {
  const count = Math.max(1, Math.min(STORE_UNITS, Math.floor(STORE_BYTES / unitBytes)));
  const reads: number[] = [];
  const writes: number[] = [];
  const sizes = Array.from({ length: PAGE_TOKENS + 1 }, (_, n) => n * unitBytes / PAGE_TOKENS);
  for (let run = 0; run < runs; run++) {
    const options = { ...STORE_OPTIONS, state: `${folder}/store-${run}`, model: "bench" };
    const onWarning = (message: string) => {
      throw new Error(message);
    };
    const root = rootKey({ model: "bench", numerics: "", kvType: "f16", tenant: "" });
    const tokens = Array.from({ length: count * PAGE_TOKENS }, (_, i) => i + run);
    const writing = openStore(options, { onWarning });
    await writing.flush();
    const started = performance.now();
    for (let i = 0, parent = root; i < count; i++) {
      const key = chainKey(parent, tokens.slice(i * PAGE_TOKENS, (i + 1) * PAGE_TOKENS));
      const bytes = randomBytes(unitBytes);
      writing.save({ key, parent, tokens: PAGE_TOKENS, bytes });
      // A full queue would drop units.
      await writing.flush();
      parent = key;
    }
    writes.push(count * unitBytes / (performance.now() - started) * 1000);
    await writing.close();

    const reading = openStore(options, { onWarning });
    await reading.flush();
    const begun = performance.now();
    const found = await reading.load({ parent: root, tokens, unitBytes: sizes });
    const bytes = found.reduce((sum, unit) => sum + unit.bytes.length, 0);
    reads.push(bytes / (performance.now() - begun) * 1000);
    await reading.close();
    if (found.length !== count) {
      throw new Error(`a store has ${found.length} units, must have the ${count} it was given`);
    }
  }
  return { storeRead: summarize(reads), storeWrite: summarize(writes) };
}

function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) {
    crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  }
  return bytes;
}

/** A table for people. */
export function formatPrefix(figures: PrefixFigures): string[] {
  const { tokens, rows, unitBytes, restoredPerSecond, storeRead, storeWrite } = figures;
  const mega = (summary: Summary | undefined) => formatSummary(scaled(summary, 1e-6));
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
    `restored at ${mega(restoredPerSecond)} MB/s by the server; a store by itself reads ` +
    `${mega(storeRead)} and writes ${mega(storeWrite)} MB/s ` +
    `(${threeDigits(unitBytes / 1e3)} kB a unit of ${PAGE_TOKENS} tokens)`,
  ];
}
