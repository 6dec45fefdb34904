/** What guessing tokens by looking up n-grams gives, where answers repeat their prompts and where not. */

import { percent, quotient, table } from "../report.ts";
import { formatSummary, summarize, type Summary } from "../statistics.ts";
import { type Answer, ask, streamsOf } from "./client.ts";
import { contextOf, rest, type ServingOptions, startServer } from "./options.ts";
import { CONVERSATIONS } from "./prompts.ts";

/** Tokens of the answers; some models end theirs sooner. */
const ANSWER_TOKENS = 256;
/** Tokens that the conversations take at most, in any vocabulary. */
const PROMPT_TOKENS = 700;

export interface SpeculationRow {
  readonly kind: string;
  /** Tokens of the answer. */
  readonly tokens: number;
  /** Tokens a second after the first one, with guessing and without. */
  readonly on: Summary;
  readonly off: Summary;
  readonly ratio: number;
  /** Of the tokens that were guessed; undefined where none were. */
  readonly accepted: number | undefined;
  /** Guessed tokens for each token of the answer. */
  readonly drafted: number;
  /** Both answers are the same text. */
  readonly sameAnswer: boolean;
}

/** Two servers take turns on each conversation. */
export async function measureSpeculation(options: ServingOptions): Promise<SpeculationRow[]> {
  const { runs, workload, onProgress } = options;
  const tokens = Math.min(PROMPT_TOKENS + ANSWER_TOKENS, workload.contextLength - 1);
  const flags = { context: contextOf(options, tokens), slots: 1, "prefix-cache": "off" };
  onProgress("speculation: starting two servers");
  const on = await startServer(options, { ...flags, speculate: "ngram" });
  try {
    const off = await startServer(options, { ...flags, speculate: "off" });
    const servers = { on, off };
    try {
      const answers = CONVERSATIONS.map(() => ({ on: [] as Answer[], off: [] as Answer[] }));
      for (let run = -1; run < runs; run++) {
        onProgress(run < 0 ? "speculation: warming up" : `speculation: run ${run + 1} of ${runs}`);
        for (const [i, { messages }] of CONVERSATIONS.entries()) {
          for (const name of ["on", "off"] as const) {
            const body = { messages, temperature: 0, max_tokens: ANSWER_TOKENS };
            const answer = await ask(servers[name], { path: "/v1/chat/completions", body });
            if (run >= 0) answers[i][name].push(answer);
            await rest(servers[name]);
          }
        }
      }
      return CONVERSATIONS.map(({ kind }, i) => rowOf(kind, answers[i]));
    } finally {
      await off.stop();
    }
  } finally {
    await on.stop();
  }
}

function rowOf(
  kind: string,
  { on, off }: { readonly on: readonly Answer[]; readonly off: readonly Answer[] },
): SpeculationRow {
  const [fast, plain] = [on, off].map((answers) => summarize(answers.map(rateOf))!);
  const sum = (field: "draft_n" | "draft_n_accepted") =>
    on.reduce((total, { timings }) => total + (timings?.[field] ?? 0), 0);
  const tokens = on[0].usage!.completion_tokens;
  const drafted = sum("draft_n");
  return {
    kind,
    tokens,
    on: fast,
    off: plain,
    ratio: fast.median / plain.median,
    accepted: quotient(sum("draft_n_accepted"), drafted),
    drafted: drafted / on.length / tokens,
    sameAnswer: on.every(({ text }) => text === off[0].text),
  };
}

/** Tokens a second after the answer's first piece; throws Error where the answer is not whole. */
function rateOf(answer: Answer): number {
  const [{ tokens, arrivals }] = streamsOf([answer]);
  const seconds = arrivals.at(-1)! - arrivals[0];
  return tokens * (arrivals.length - 1) / arrivals.length / seconds;
}

/** A table for people. */
export function formatSpeculation(rows: readonly SpeculationRow[]): string[] {
  const header = [
    "speculation",
    "tokens",
    "off tok/s",
    "ngram tok/s",
    "faster",
    "guessed a token",
    "right",
  ];
  const cells = rows.map((row) => [
    row.kind,
    String(row.tokens),
    formatSummary(row.off),
    formatSummary(row.on),
    `${row.ratio.toFixed(2)} x`,
    row.drafted.toFixed(2),
    percent(row.accepted),
  ]);
  return [
    "Guessing by looking up n-grams",
    ...table([header, ...cells]),
    ...rows.filter(({ sameAnswer }) => !sameAnswer).map(({ kind }) => `${kind}: ANOTHER ANSWER`),
  ];
}
