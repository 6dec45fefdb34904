/** What is drawn of a run: panels of series, each from the metrics that belong together. */

import type { MetricsLine, RunMetrics } from "./run_metrics.ts";

export type Point = readonly [at: number, value: number];

export interface Series {
  readonly name: string;
  /** Broken where a value is NaN, as one phase leads to no other. */
  readonly points: readonly Point[];
}

export interface Panel {
  readonly title: string;
  readonly series: readonly Series[];
  /** An area behind the lines: from a lower to an upper series. */
  readonly band?: readonly [lower: Series, upper: Series];
  /** What the axis shows at least. */
  readonly includes: readonly number[];
  /** A logarithmic axis where values lie wide apart. */
  readonly wide: boolean;
  /** A few measured points, to be marked as such. */
  readonly marked: boolean;
  /** Levels to be reached, by phase. */
  readonly levels: Readonly<Record<string, number>>;
}

/** More points of a phase are drawn as means of as many stretches. */
const MOST_POINTS = 300;

type Pick = (line: MetricsLine) => number | undefined;

const metric = (name: string): Pick => ({ values }) => values[name];
/** Of steps on sampled answers, whose loss is another than that of texts. */
const isPolicy = ({ values }: MetricsLine) => "reward" in values;

/** The last value, or the mean of the last stretch: what stands in the legend. */
export function lastOf({ points }: Series): number {
  return points.at(-1)![1];
}

/** The panels that a run has something for. `gates` are the accuracies that its phases must reach. */
export function panelsOf(
  run: RunMetrics,
  { gates = {} }: { gates?: Readonly<Record<string, number>> } = {},
): Panel[] {
  const series = (name: string, pick: Pick, { joined = false } = {}): Series => ({
    name,
    points: run.phases.flatMap(({ name, from }) => {
      const own = run.lines.filter(({ phase }) => phase === name).flatMap((line) => {
        const value = pick(line);
        return value === undefined ? [] : [[line.at, value] as const];
      });
      return own.length === 0 || joined ? own : [[from, NaN] as const, ...thinned(own)];
    }),
  });
  const named = (pattern: RegExp, name: (match: RegExpExecArray) => string) =>
    [...new Set(run.lines.flatMap(({ values }) => Object.keys(values)))].flatMap((key) => {
      const match = pattern.exec(key);
      return match === null ? [] : [{ name: name(match), pick: metric(key) }];
    });
  const families = named(/^eval\/families\/(.*)$/, ([, family]) => family);
  const panels = [
    panel("Loss of texts", [
      series("loss", (line) => isPolicy(line) ? undefined : line.values.loss),
    ], { wide: true }),
    panel("Held-out problems solved", [
      series("accuracy", metric("eval/accuracy"), { joined: true }),
    ], { includes: [0, 1], marked: true, levels: gates }),
    panel(
      "Held-out problems solved, by family",
      (families.length < 2 ? [] : families)
        .map(({ name, pick }) => series(name.replaceAll("_", " "), pick, { joined: true })),
      { includes: [0, 1], marked: true },
    ),
    panel("Reward", [
      series("reward", metric("reward")),
      ...named(/^rewards\/(.*)\/mean$/, ([, name]) => name.replaceAll("_", " "))
        .map(({ name, pick }) => series(name, pick)),
    ], { includes: [0, 1] }),
    panel("Policy loss", [
      series("loss", (line) => isPolicy(line) ? line.values.loss : undefined),
    ]),
    panel("Shares of answers", [
      series("groups of equal reward", metric("frac_reward_zero_std")),
      series("kept", metric("kept")),
      series("cut off", metric("completions/clipped_ratio")),
    ], { includes: [0, 1] }),
    panel("Tokens of an answer", [
      series("mean", metric("completions/mean_length")),
      series("mean of ended", metric("completions/mean_terminated_length")),
    ], {
      includes: [0],
      band: [
        series("shortest", metric("completions/min_length")),
        series("longest", metric("completions/max_length")),
      ],
    }),
    panel("Entropy (nats)", [series("entropy", metric("entropy"))], { includes: [0] }),
    panel("KL to the reference (k3, nats)", [series("kl", metric("kl"))], { includes: [0] }),
    panel("Clipped tokens", [series("clip ratio", metric("clip_ratio/region_mean"))], {
      includes: [0, 0.01],
    }),
    panel("Expert load (busiest / mean)", [series("expert load", metric("expert_load"))], {
      includes: [1],
    }),
    panel("Gradient norm", [series("norm", metric("grad_norm"))], { includes: [0] }),
    panel("Learning rate", [series("rate", metric("learning_rate"))], { includes: [0] }),
    panel("Tokens per second", [series("tokens/s", metric("tokens_per_second"))], {
      includes: [0],
    }),
  ];
  return panels.filter(({ series }) => series.length > 0);
}

function panel(title: string, series: readonly Series[], options: Partial<Panel> = {}): Panel {
  const { band, ...rest } = options;
  return {
    ...{ title, includes: [], wide: false, marked: false, levels: {}, ...rest },
    series: series.filter(({ points }) => points.length > 0),
    ...(band !== undefined && band[0].points.length > 0 && { band }),
  };
}

function thinned(points: readonly Point[]): readonly Point[] {
  if (points.length <= MOST_POINTS) return points;
  return Array.from({ length: MOST_POINTS }, (_, i) => {
    const from = Math.floor(i * points.length / MOST_POINTS);
    const to = Math.floor((i + 1) * points.length / MOST_POINTS);
    const stretch = points.slice(from, to);
    const sum = stretch.reduce((sum, [, value]) => sum + value, 0);
    return [points[to - 1][0], sum / stretch.length] as const;
  });
}
