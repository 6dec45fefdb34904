/** Means and deviations of lists in which null says that there is no value. */

export interface Statistics {
  readonly mean: number;
  /** Of the sample (n - 1); 0 for a single value. */
  readonly deviation: number;
  readonly count: number;
}

/** Null where there is no value at all. */
export function statisticsOf(values: Iterable<number | null>): Statistics | null {
  const given = [...values].filter((value) => value !== null);
  const count = given.length;
  if (count === 0) return null;
  const mean = given.reduce((sum, value) => sum + value, 0) / count;
  const squares = given.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: count === 1 ? 0 : Math.sqrt(squares / (count - 1)), count };
}
