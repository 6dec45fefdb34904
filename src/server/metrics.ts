/**
 * Counters and histograms, and Prometheus' text form of them (version 0.0.4). What is measured is
 * the routes'.
 */

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  /** Behind the family's name: `_bucket`, `_sum`, `_count`. */
  readonly suffix?: string;
  readonly labels?: Labels;
  readonly value: number;
}

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly samples: readonly Sample[];
}

/** A family's name, and what it tells. */
export interface Named {
  readonly name: string;
  readonly help: string;
}

/** A sum that only grows, one for each set of labels. */
export class Counter {
  readonly #named: Named;
  readonly #series = new Map<string, { labels: Labels; value: number }>();

  constructor(named: Named) {
    this.#named = named;
  }

  add(value: number, labels: Labels = {}): void {
    const name = JSON.stringify(labels);
    const series = this.#series.get(name);
    if (series !== undefined) series.value += value;
    else this.#series.set(name, { labels, value });
  }

  family(): Family {
    return { ...this.#named, type: "counter", samples: [...this.#series.values()] };
  }
}

/** What a histogram holds. */
export interface Distribution {
  /** Upper ends of the buckets, ascending, each included. */
  readonly bounds: readonly number[];
  /** Values of each bucket alone; the last one, which may be missing, is for those above all bounds. */
  readonly counts: readonly number[];
  readonly sum: number;
}

/** A histogram of what was counted elsewhere. */
export function histogramFamily(named: Named, { bounds, counts, sum }: Distribution): Family {
  let total = 0;
  const samples = [...bounds.map(String), "+Inf"].map((le, i): Sample => {
    total += counts[i] ?? 0;
    return { suffix: "_bucket", labels: { le }, value: total };
  });
  samples.push({ suffix: "_sum", value: sum }, { suffix: "_count", value: total });
  return { ...named, type: "histogram", samples };
}

/** How often values were how large. */
export class Histogram {
  readonly #named: Named;
  /** Upper ends, ascending, each included in its bucket. */
  readonly #bounds: readonly number[];
  /** Values of each bucket alone; the last one is for those above all bounds. */
  readonly #counts: number[];
  #sum = 0;

  constructor(options: Named & { readonly bounds: readonly number[] }) {
    const { name, help, bounds } = options;
    this.#named = { name, help };
    this.#bounds = bounds;
    this.#counts = new Array(bounds.length + 1).fill(0);
  }

  observe(value: number, times = 1): void {
    const bucket = this.#bounds.findIndex((bound) => value <= bound);
    this.#counts[bucket < 0 ? this.#bounds.length : bucket] += times;
    this.#sum += value * times;
  }

  family(): Family {
    const [bounds, counts, sum] = [this.#bounds, this.#counts, this.#sum];
    return histogramFamily(this.#named, { bounds, counts, sum });
  }
}

function escapeLabel(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function escapeHelp(help: string): string {
  return help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function formatValue(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  return String(value);
}

/** Families as a page for Prometheus; every sample also gets the labels that all have. */
export function metricsPage(families: readonly Family[], common: Labels = {}): string {
  const lines = families.flatMap(({ name, help, type, samples }) => [
    `# HELP ${name} ${escapeHelp(help)}`,
    `# TYPE ${name} ${type}`,
    ...samples.map(({ suffix = "", labels, value }) => {
      const pairs = Object.entries({ ...common, ...labels })
        .map(([label, text]) => `${label}="${escapeLabel(text)}"`);
      const braces = pairs.length > 0 ? `{${pairs.join(",")}}` : "";
      return `${name}${suffix}${braces} ${formatValue(value)}`;
    }),
  ]);
  return `${lines.join("\n")}\n`;
}

export const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";
