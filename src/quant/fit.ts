/**
 * How values become few levels: least-squares fits of a scale, or of a scale and a minimum, searched
 * over several roundings. All values of a block weigh the same, which is right for inputs of which
 * nothing is known. Arithmetic is in doubles, so that every machine makes the same bytes.
 */

/** Roundings that are tried on either side of the plain one, and how far apart they are in levels. */
const TRIALS = 10;
const TRIAL_STEP = 0.1;

/** A block of `values`, from `start` on. */
export interface Span {
  readonly values: Float32Array;
  readonly start: number;
  readonly length: number;
}

/**
 * The scale d for which d q, with whole q from -levels to levels - 1, comes nearest to the values; 0
 * for zeros. Its sign is that which gives the largest value the level that only one side has.
 */
export function fitScale({ values, start, length }: Span, levels: number): number {
  let largest = 0;
  for (let i = start; i < start + length; i++) {
    if (Math.abs(values[i]) > Math.abs(largest)) largest = values[i];
  }
  if (largest === 0) return 0;
  let best = 0;
  let bestGain = -1;
  for (let trial = -TRIALS; trial <= TRIALS; trial++) {
    const inverse = -(levels + trial * TRIAL_STEP) / largest;
    let xq = 0;
    let qq = 0;
    for (let i = start; i < start + length; i++) {
      const q = clamp(Math.round(values[i] * inverse), -levels, levels - 1);
      xq += values[i] * q;
      qq += q * q;
    }
    // With the best d for these q, the squared error is sum x^2 less this.
    const gain = qq > 0 ? xq * xq / qq : 0;
    if (gain <= bestGain) continue;
    bestGain = gain;
    best = xq / qq;
  }
  return best;
}

/** d q - minimum, whole q from 0 to levels; neither number is negative. */
export interface Affine {
  readonly scale: number;
  readonly minimum: number;
}

/** The scale and the minimum that come nearest to the values; the minimum is 0 where all are positive. */
export function fitAffine({ values, start, length }: Span, levels: number): Affine {
  let low = 0;
  let high = values[start];
  let x = 0;
  let xx = 0;
  for (let i = start; i < start + length; i++) {
    const value = values[i];
    if (value < low) low = value;
    if (value > high) high = value;
    x += value;
    xx += value * value;
  }
  if (high <= low) return { scale: 0, minimum: -low };
  let best: Affine = { scale: (high - low) / levels, minimum: -low };
  let least = Infinity;
  for (let trial = -TRIALS; trial <= TRIALS; trial++) {
    const inverse = (levels + trial * TRIAL_STEP) / (high - low);
    let q1 = 0;
    let q2 = 0;
    let xq = 0;
    for (let i = start; i < start + length; i++) {
      const q = clamp(Math.round((values[i] - low) * inverse), 0, levels);
      q1 += q;
      q2 += q * q;
      xq += values[i] * q;
    }
    const determinant = length * q2 - q1 * q1;
    if (determinant <= 0) continue;
    let scale = (length * xq - q1 * x) / determinant;
    let minimum = (q1 * xq - q2 * x) / determinant;
    if (minimum < 0) {
      minimum = 0;
      scale = xq / q2;
    }
    // Of the least-squares solution, whose residual is orthogonal to what was fitted.
    const error = xx - scale * xq + minimum * x;
    if (scale <= 0 || error >= least) continue;
    least = error;
    best = { scale, minimum };
  }
  return best;
}

/** Squared error of the values in their nearest levels; at least `most` where it is no less. */
export function affineError(
  { values, start, length }: Span,
  { scale, minimum, levels, most }: Affine & { levels: number; most: number },
): number {
  const inverse = scale > 0 ? 1 / scale : 0;
  let error = 0;
  for (let i = start; i < start + length && error < most; i++) {
    const q = clamp(Math.round((values[i] + minimum) * inverse), 0, levels);
    const rest = values[i] - scale * q + minimum;
    error += rest * rest;
  }
  return error;
}

export function clamp(value: number, low: number, high: number): number {
  return value < low ? low : value > high ? high : value;
}
