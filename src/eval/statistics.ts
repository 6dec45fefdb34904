/** How certain a share is. */

/** The normal distribution's quantile of 97.5 %. */
const Z = 1.959963984540054;

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * The 95 % confidence interval of a share by Wilson's score (1927), which holds near 0 and 1 and for few
 * trials too. `successes` may be a sum of means.
 */
export function wilsonInterval(successes: number, trials: number): Interval {
  if (trials === 0) return { low: 0, high: 1 };
  const share = successes / trials;
  const spread = Z * Math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials));
  const centre = share + Z * Z / (2 * trials);
  const scale = 1 + Z * Z / trials;
  // At the ends the bounds are the ends, but for rounding.
  return {
    low: Math.max(0, (centre - spread) / scale),
    high: Math.min(1, (centre + spread) / scale),
  };
}
