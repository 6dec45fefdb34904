/** An evaluation's figures as text for people. */

import type { EvalCost, GroupSummary, Metric } from "../eval/summary.ts";
import type { EvalCounts, EvalSettings } from "../eval/types.ts";
import {
  type LayerSpecialisation,
  type Specialisation,
  TOKEN_CLASSES,
  type TokenClass,
} from "../experts/specialisation.ts";
import { table } from "./plan_report.ts";
import { formatCount } from "./terminal.ts";

/** What `--json` gets, but for the problems. */
export interface EvalReport {
  readonly set: string;
  readonly data: string;
  readonly problems: number;
  readonly settings: EvalSettings & { readonly shots: number };
  readonly engine: {
    readonly parameters: number;
    readonly activeParameters: number;
    readonly quantisation: string;
    readonly backend: string;
    readonly activations: string;
  };
  readonly metrics: readonly Metric[];
  /** What guessing scores. */
  readonly chance: number;
  readonly groups: readonly GroupSummary[];
  /** Prompts that the context had no room for all shots in, and that it had no room for at all. */
  readonly fewerShots: number;
  readonly tooLong: number;
  /** Answers that the limit of tokens ended. */
  readonly unfinished: number;
  readonly counts: EvalCounts;
  readonly watts: number | null;
  readonly cost: EvalCost;
}

export function evalText(report: EvalReport & { readonly model: string }): string {
  const { model, set, data, problems, engine, chance, metrics, groups } = report;
  const blocks = [
    `${set} (${data}): ${problems} problems, ${settingsText(report)}\n` +
    `${model}: ${formatCount(engine.parameters)} parameters, ` +
    `${formatCount(engine.activeParameters)} active, ${engine.quantisation}, ` +
    `${engine.backend} backend, ${engine.activations} activations`,
    table([
      ["metric", "value", "95 % interval", "chance"],
      ...metrics.map((metric) => [...metricCells(metric), percent(chance)]),
    ]),
    ...(groups.length > 1 ? [table(groupRows(groups))] : []),
    [...noteLines(report), ...costLines(report)].join("\n"),
  ];
  return `${blocks.join("\n\n")}\n`;
}

function settingsText({ settings, metrics }: EvalReport): string {
  const { shots, chat, maxTokens, temperature, topP, samples, seed } = settings;
  const asked = chat ? "as conversations" : `${shots} shots, raw prompts`;
  if (metrics.some(({ name }) => name === "acc")) return `${asked}, by log-likelihood`;
  const how = temperature === 0
    ? "greedy"
    : `temperature ${temperature}, top-p ${topP}, seed ${seed}, ${samples} answers each`;
  return `${asked}, ${how}, at most ${maxTokens} tokens`;
}

function metricCells({ name, value, low, high }: Metric): string[] {
  return [name, percent(value), `${percent(low)} to ${percent(high)}`];
}

/** With intervals where there is one metric; those of several are in the JSON. */
function groupRows(groups: readonly GroupSummary[]): string[][] {
  const names = groups[0].metrics.map(({ name }) => name);
  const alone = names.length === 1;
  return [
    ["group", "problems", ...names, ...(alone ? ["95 % interval"] : [])],
    ...groups.map(({ group, problems, metrics }) => [
      group,
      String(problems),
      ...metrics.flatMap((metric) => metricCells(metric).slice(1, alone ? 3 : 2)),
    ]),
  ];
}

function noteLines({ fewerShots, tooLong, unfinished, settings }: EvalReport): string[] {
  return [
    ...(fewerShots > 0 ? [`${fewerShots} prompts had fewer shots, for lack of context`] : []),
    ...(tooLong > 0 ? [`${tooLong} prompts were longer than the context and count as wrong`] : []),
    ...(unfinished > 0
      ? [`${unfinished} answers were cut off at ${settings.maxTokens} tokens`]
      : []),
  ];
}

function costLines({ counts, cost, watts, problems }: EvalReport): string[] {
  const { promptTokens, cachedTokens, answerTokens, seconds } = counts;
  const { perThousand: each } = cost;
  const speed = answerTokens > 0
    ? `${rate(cost.answerTokensPerSecond)} answer tokens/s`
    : `${rate(cost.problemsPerSecond)} problems/s`;
  const energy = each.wattHours === null
    ? "energy unknown (--watts)"
    : `${each.wattHours.toPrecision(3)} Wh at ${watts} W (stated, not measured)`;
  return [
    `${problems} problems in ${seconds.toFixed(1)} s: ${formatCount(promptTokens)} prompt tokens ` +
    `(${formatCount(cachedTokens)} of them cached), ${
      formatCount(answerTokens)
    } answer tokens, ${speed}`,
    `Cost of 1,000 such problems: ${formatCount(Math.round(each.tokens))} tokens computed, ` +
    `${(each.flops / 1e12).toPrecision(3)} TFLOP (2 a token and active parameter), ` +
    `${Math.round(each.seconds)} s, ${energy}`,
  ];
}

/** Experts named of each class. */
const NAMED = 2;

export function specialisationText({ tokens, layers }: Specialisation): string {
  const classes = TOKEN_CLASSES.filter((kind) => tokens[kind] > 0);
  const counted = classes.map((kind) => `${tokens[kind]} ${kind}`).join(", ");
  const [{ topK, experts }] = layers;
  const rows = [
    ["layer", "max/mean", "unused", "bits", ...classes],
    ...layers.map((layer) => [
      String(layer.layer),
      layer.maxOverMean.toFixed(2),
      String(layer.unused),
      layer.bits.toFixed(3),
      ...classes.map((kind) => busiest(layer, { kind, tokens: tokens[kind] })),
    ]),
  ];
  return `\nExperts by kind of token: ${counted}\n${table(rows)}\n` +
    `An expert with the share of a kind's tokens that choose it, the busiest first; without habits ` +
    `it would be ${percent(topK / experts)}.\nbits: what a choice says of the token's kind.\n`;
}

function busiest(
  { byClass }: LayerSpecialisation,
  { kind, tokens }: { kind: TokenClass; tokens: number },
): string {
  return byClass[kind].map((count, expert) => ({ count, expert }))
    .sort((a, b) => b.count - a.count || a.expert - b.expert).slice(0, NAMED)
    .map(({ count, expert }) => `${expert}: ${Math.round(100 * count / tokens)} %`).join(", ");
}

function rate(value: number): string {
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(3);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
