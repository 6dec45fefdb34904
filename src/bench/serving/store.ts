/**
 * How fast kept units come out of a local Deno KV database: by the store alone, and into the pages of an
 * engine. No server and no tokenizer are needed, so that any model can be measured.
 */

import { PAGE_TOKENS } from "../../backend/backend.ts";
import { chainKey, rootKey } from "../../cache/chain.ts";
import { openStore } from "../../cache/open_store.ts";
import { openEngine } from "../../engine/open_engine.ts";
import type { Engine, EngineEvent, EngineOptions } from "../../engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../sampling/types.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../../text/load.ts";
import { formatSummary, scaled, summarize, type Summary, threeDigits } from "../statistics.ts";
import { contextOf, type ServingOptions, withFolder } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";

/** Units that are read from a store in a row, at most so many bytes of them. */
const STORE_UNITS = 256;
const STORE_BYTES = 256 * 2 ** 20;
const STORE_OPTIONS = { quotaBytes: 2 ** 31, expiryMs: 3_600_000 } as const;

export interface StoreFigures {
  /** Bytes of a unit of PAGE_TOKENS tokens. */
  readonly unitBytes: number;
  /** Bytes a second that the store by itself reads and writes. */
  readonly read: Summary;
  readonly write: Summary;
  /** Tokens of the prompts that an engine restored, and those of them that came from the store. */
  readonly tokens: number;
  readonly restored: number;
  /** Bytes of restored units by the time that the engine spent on it. */
  readonly restoredPerSecond: Summary | undefined;
}

export async function measureStore(options: ServingOptions): Promise<StoreFigures> {
  const { unitBytes, onProgress } = options;
  return await withFolder(async (folder) => {
    onProgress("store: by itself");
    const alone = await storeAlone(options, folder);
    onProgress("store: through an engine");
    return { unitBytes, ...alone, ...await throughEngine(options, `${folder}/engine`) };
  });
}

/** Writes units of random bytes into a new local database and reads them back after opening it anew. */
async function storeAlone(
  { runs, unitBytes }: ServingOptions,
  folder: string,
): Promise<{ read: Summary; write: Summary }> {
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
  return { read: summarize(reads)!, write: summarize(writes)! };
}

function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) {
    crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  }
  return bytes;
}

type Done = Extract<EngineEvent, { type: "done" }>;

/** Evaluates prompts with one engine and, after it has been closed, with another on the same state. */
async function throughEngine(options: ServingOptions, state: string) {
  const { model, threads, activations, prefix: tokens, runs, unitBytes, workload } = options;
  const engineOptions: EngineOptions = {
    ...DEFAULT_ENGINE_OPTIONS,
    ...{ model, threads, activations, slots: 1, contextLength: contextOf(options, tokens) },
    ...("kv-type" in options.serverFlags &&
      { kvType: options.serverFlags["kv-type"] as EngineOptions["kvType"] }),
    cache: { ...STORE_OPTIONS, state },
  };
  const random = new RandomPrompts({ vocabSize: workload.vocabSize, seed: 6 });
  const prompts = Array.from({ length: runs }, () => random.next(tokens));
  const done: Done[] = [];
  for (const restarted of [false, true]) {
    const engine = await openEngine(engineOptions);
    try {
      for (const prompt of prompts) {
        const end = await evaluate(engine, prompt);
        if (restarted) done.push(end);
      }
    } finally {
      await engine.close();
    }
  }
  const rates = done.filter(({ cached, timings }) => cached.store > 0 && timings.restoreMs > 0)
    .map(({ cached, timings }) =>
      cached.store / PAGE_TOKENS * unitBytes / timings.restoreMs * 1000
    );
  return {
    tokens,
    restored: summarize(done.map(({ cached }) => cached.store))!.median,
    restoredPerSecond: summarize(rates),
  };
}

/** Runs a prompt for one token of answer. */
async function evaluate(engine: Engine, tokens: readonly number[]): Promise<Done> {
  const request = { tokens, sampling: NEUTRAL_SAMPLING, maxTokens: 1, stopTokens: [] };
  let done: Done | undefined;
  for await (const event of engine.generate(request)) if (event.type === "done") done = event;
  return done!;
}

/** Lines for people. */
export function formatStore(figures: StoreFigures): string[] {
  const { unitBytes, read, write, tokens, restored, restoredPerSecond } = figures;
  const mega = (summary: Summary | undefined) => formatSummary(scaled(summary, 1e-6));
  return [
    `Units of ${PAGE_TOKENS} tokens (${
      threeDigits(unitBytes / 1e3)
    } kB) in a local Deno KV database`,
    `a store by itself reads ${mega(read)} MB/s and writes ${mega(write)} MB/s`,
    `an engine restores ${restored} of ${tokens} tokens at ${mega(restoredPerSecond)} MB/s`,
  ];
}
