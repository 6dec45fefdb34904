/** `deno task replay`: how often a cache of experts would have had what recorded prompts asked for. */

import { OptionError } from "../errors.ts";
import { POLICY_NAMES } from "../experts/policy.ts";
import {
  evaluatePredictions,
  type PredictionReport,
  replay,
  replayOracle,
  type ReplayResult,
  type ReplayTrace,
} from "../experts/replay.ts";
import type { Trace } from "../experts/trace.ts";
import { choiceFlag, helpText, parseFlags, sharesFlag, switchFlag, textFlag } from "./flags.ts";
import { type CommandIo, printable, processIo, runCommand, write } from "./terminal.ts";
import { readTrace } from "./trace_file.ts";

const FLAGS = {
  trace: textFlag({
    help: "a trace that `deno task trace` wrote",
    placeholder: "FILE",
    must: "the path of a file",
  }),
  policy: choiceFlag({
    help: "which expert makes room",
    words: ["all", ...POLICY_NAMES],
    fallback: "all",
  }),
  budget: sharesFlag({
    help: "shares of the experts that fit in memory",
    fallback: [0.1, 0.25, 0.5, 0.75],
  }),
  json: switchFlag({ help: "print one JSON object" }),
};

/** Hit rates of one policy with room for some experts, on the documents of a kind. */
interface ReplayRow extends ReplayResult {
  /** A kind of documents; null stands for all of them, in the order of the trace. */
  readonly kind: string | null;
  /** The share of the experts that was asked for, and how many that are. */
  readonly budget: number;
  readonly residents: number;
  /** "oracle" is the bound. */
  readonly policy: string;
}

interface Report {
  readonly model: Trace["model"];
  readonly experts: number;
  readonly documents: number;
  /** How good the trace's own predictions were; null where it has none. */
  readonly predictions: { readonly decode: PredictionReport; readonly prefill: PredictionReport };
  readonly rows: readonly ReplayRow[];
}

/** Runs the command and returns its exit code. */
// Asynchronous so that a bad file rejects.
// deno-lint-ignore require-await
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { values, help } = parseFlags(FLAGS, { command: "replay", args, env: io.env });
  if (help) {
    const usage = "deno task replay --trace FILE [flags]";
    const about = "Replays recorded routing against caches of experts; the oracle is the bound.";
    write(io.stdout, `${helpText(FLAGS, { usage, about })}\n`);
    return 0;
  }
  if (values.trace === undefined) {
    throw new OptionError("cannot replay: --trace is missing, must be the path of a file");
  }
  const trace = readTrace(values.trace);
  const report = replayAll(trace, values);
  write(io.stdout, `${values.json ? JSON.stringify(report) : formatReport(report)}\n`);
  return 0;
}

function replayAll(
  trace: Trace,
  { policy, budget }: { policy: "all" | typeof POLICY_NAMES[number]; budget: readonly number[] },
): Report {
  const experts = trace.layers.length * trace.experts;
  const policies = policy === "all" ? POLICY_NAMES : [policy];
  const rows: ReplayRow[] = [];
  for (const [kind, part] of partsOf(trace)) {
    for (const share of budget) {
      const residents = Math.max(1, Math.floor(experts * share));
      const place = { kind, budget: share, residents };
      for (const policy of policies) {
        rows.push({ ...place, policy, ...replay(part, { policy, residents }) });
      }
      rows.push({ ...place, policy: "oracle", ...replayOracle(part, { residents }) });
    }
  }
  return {
    model: trace.model,
    experts,
    documents: trace.documents.length,
    predictions: {
      decode: evaluatePredictions(trace, { prefill: false }),
      prefill: evaluatePredictions(trace, { prefill: true }),
    },
    rows,
  };
}

/** All documents, and where there are several kinds each by itself. */
function partsOf(trace: Trace): (readonly [kind: string | null, ReplayTrace])[] {
  const kinds = Map.groupBy(trace.documents, ({ kind }) => kind);
  const each = [...kinds].map(([kind, documents]) => [kind, { ...trace, documents }] as const);
  return [[null, trace], ...(each.length > 1 ? each : [])];
}

function formatReport({ model, experts, documents, predictions, rows }: Report): string {
  const blocks = [
    `${model.name}: ${experts} experts in all, ${documents} documents. ` +
    "Hits of the experts that decode (prefill) looked up.",
  ];
  for (const [kind, own] of Map.groupBy(rows, (row) => row.kind)) {
    const budgets = [...Map.groupBy(own, ({ budget }) => budget)];
    const header = [
      kind ?? "all",
      ...budgets.map(([share, [{ residents }]]) => `${percent(share)} (${residents})`),
    ];
    const policies = [...new Set(own.map(({ policy }) => policy))];
    const lines = policies.map((policy) => [
      policy,
      ...budgets.map(([, cells]) => {
        const cell = cells.find((row) => row.policy === policy) as ReplayRow;
        return `${percent(cell.decode.hitRate)} (${percent(cell.prefill.hitRate)})`;
      }),
    ]);
    blocks.push(table([header, ...lines]));
  }
  for (const [phase, { precision, recall }] of Object.entries(predictions)) {
    if (precision === null) continue;
    blocks.push(
      `Predictions for ${phase}: ${percent(precision)} of the foreseen were chosen, ` +
        `${percent(recall)} of the chosen had been foreseen.`,
    );
  }
  return printable(blocks.join("\n\n"));
}

function percent(share: number | null): string {
  return share === null ? "-" : `${(share * 100).toFixed(1)}%`;
}

/** Columns padded to their widest entry, the first to the left, the others to the right. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ")
  ).join("\n");
}

if (import.meta.main) await runCommand(() => main(Deno.args));
