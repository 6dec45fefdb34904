/** Medians and ranges of repeated measurements. */

export interface Summary {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** Measurements behind it. */
  readonly runs: number;
}

/** Undefined where nothing was measured; the median of an even count is the mean of the middle two. */
export function summarize(values: readonly number[]): Summary | undefined {
  if (values.length === 0) return undefined;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1
    ? sorted[middle]
    : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1], runs: sorted.length };
}

/** Three significant digits, without an exponent: 193, 24.8, 0.61. */
export function threeDigits(value: number): string {
  const digits = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)));
  return value.toFixed(Math.max(0, Math.min(6, 2 - digits)));
}

/** `193 (190-195)`; the median alone where it was measured once; `-` where it was not. */
export function formatSummary(summary: Summary | undefined): string {
  if (summary === undefined) return "-";
  const { median, min, max, runs } = summary;
  if (runs === 1) return threeDigits(median);
  return `${threeDigits(median)} (${threeDigits(min)}-${threeDigits(max)})`;
}

/** As `formatSummary`, in thousands of millions. */
export function formatGiga(summary: Summary | undefined): string {
  return formatSummary(scaled(summary, 1e-9));
}

/** All of it times a factor. */
export function scaled(summary: Summary | undefined, factor: number): Summary | undefined {
  if (summary === undefined) return undefined;
  const { median, min, max, runs } = summary;
  return { median: median * factor, min: min * factor, max: max * factor, runs };
}

/**
 * The smallest value that at least `share` of all are not above (nearest rank); undefined where there
 * are none.
 */
export function percentile(values: readonly number[], share: number): number | undefined {
  if (values.length === 0) return undefined;
  const rank = Math.max(1, Math.ceil(share * values.length));
  return values.toSorted((a, b) => a - b)[rank - 1];
}

/** A point of a line: where, and how high. */
export type Point = readonly [x: number, y: number];

/** The slope of the line with the least squared distances; undefined for points at one x only. */
export function slopeOf(points: readonly Point[]): number | undefined {
  const mean = (axis: 0 | 1) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  let products = 0;
  let squares = 0;
  for (const [x, y] of points) {
    products += (x - meanX) * (y - meanY);
    squares += (x - meanX) ** 2;
  }
  return squares > 0 ? products / squares : undefined;
}
