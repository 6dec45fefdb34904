/** What writing prefixes to Deno KV costs the answers that are decoded meanwhile. */

import { table } from "../report.ts";
import { formatSummary, summarize, type Summary } from "../statistics.ts";
import { ask, completionOf, streamsOf } from "./client.ts";
import { contextOf, rest, type ServingOptions, startServer, withFolder } from "./options.ts";
import { RandomPrompts } from "./prompts.ts";
import { metricOf, metricsOf, type ServerProcess } from "./server_process.ts";

/** Answers in a row, so that what one leaves to be written is written while the next ones decode. */
const ANSWERS_PER_TURN = 4;

export interface WritingFigures {
  /** Tokens a second with the store, and with no prefix cache at all. */
  readonly on: Summary;
  readonly off: Summary;
  /** The share of the decode rate that writing took, of neighbouring turns. */
  readonly cost: Summary;
  /** Units that were written during the turns that count. */
  readonly unitsWritten: number | undefined;
  readonly unitsDropped: number | undefined;
}

/** Two servers take turns; each is at rest before the other's turn. */
export async function measureWriting(options: ServingOptions): Promise<WritingFigures> {
  return await withFolder(async (state) => {
    const { prompt, answer, runs, workload, onProgress } = options;
    const flags = { context: contextOf(options, prompt + answer), slots: 1 };
    const random = new RandomPrompts({ vocabSize: workload.vocabSize, seed: 3 });
    onProgress("writing: starting two servers");
    const on = await startServer(options, { ...flags, state, "prefix-cache": "on" });
    try {
      const off = await startServer(options, { ...flags, "prefix-cache": "off" });
      try {
        const rates = { on: [] as number[], off: [] as number[] };
        let before = "";
        for (let run = -1; run < runs; run++) {
          onProgress(run < 0 ? "writing: warming up" : `writing: run ${run + 1} of ${runs}`);
          if (run === 0) before = await metricsOf(on);
          const prompts = Array.from({ length: ANSWERS_PER_TURN }, () => random.next(prompt));
          // Whoever comes second in one run comes first in the next.
          const turns = [["on", on], ["off", off]] as const;
          for (const [name, server] of run % 2 === 0 ? turns : turns.toReversed()) {
            const rate = await decodeRate(server, { prompts, answer });
            if (run >= 0) rates[name].push(rate);
            await rest(server);
          }
        }
        const after = await metricsOf(on);
        const grown = (what: string) => {
          const [from, to] = [before, after].map((page) => unitsOf(page, what));
          return from === undefined || to === undefined ? undefined : to - from;
        };
        return {
          on: summarize(rates.on)!,
          off: summarize(rates.off)!,
          cost: summarize(rates.on.map((rate, i) => 1 - rate / rates.off[i]))!,
          unitsWritten: grown("written"),
          unitsDropped: grown("dropped"),
        };
      } finally {
        await off.stop();
      }
    } finally {
      await on.stop();
    }
  });
}

function unitsOf(page: string, what: string): number | undefined {
  return metricOf(page, { name: "sluice:store_pages_total", labels: { what } });
}

/** Tokens a second after each answer's first one, of answers one after the other. */
async function decodeRate(
  server: ServerProcess,
  { prompts, answer }: { prompts: readonly (readonly number[])[]; answer: number },
): Promise<number> {
  let tokens = 0;
  let seconds = 0;
  for (const prompt of prompts) {
    const [stream] = streamsOf([await ask(server, { body: completionOf(prompt, answer) })]);
    const { arrivals } = stream;
    tokens += stream.tokens * (arrivals.length - 1) / arrivals.length;
    seconds += arrivals.at(-1)! - arrivals[0];
  }
  return tokens / seconds;
}

/** A table for people. */
export function formatWriting(figures: WritingFigures): string[] {
  const { on, off, cost, unitsWritten, unitsDropped } = figures;
  const share = (value: number) => `${(value * 100).toFixed(1)} %`;
  return [
    "Decoding while prefixes are written to Deno KV",
    ...table([
      ["prefix cache", "decode tok/s"],
      ["on, with --state", formatSummary(on)],
      ["off", formatSummary(off)],
    ]),
    `writing costs ${share(cost.median)} (${share(cost.min)} to ${share(cost.max)}); ` +
    `${unitsWritten ?? "-"} units written, ${unitsDropped ?? "-"} dropped`,
  ];
}
