/** The ops once more, straight from their definitions in float64, sharing no code with a backend. */

/** x / rms(x) * weight of one row. */
export function normed(
  x: ArrayLike<number>,
  norm: { weight: Float32Array; eps: number },
): Float64Array {
  let mean = 0;
  for (let i = 0; i < x.length; i++) mean += x[i] ** 2 / x.length;
  const rms = Math.sqrt(mean + norm.eps);
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = x[i] / rms * norm.weight[i];
  return out;
}

export function product(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** The sum of magnitudes of the terms of `product`. */
export function magnitudeOf(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += Math.abs(a[i] * b[i]);
  return sum;
}

export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/** One head rotated; `cosSin` holds the cosines, then the sines. */
export function rotated(
  head: ArrayLike<number>,
  options: { cosSin: Float32Array; pairing: "halves" | "interleaved" },
): Float64Array {
  const { cosSin, pairing } = options;
  const pairs = cosSin.length / 2;
  const out = Float64Array.from(head);
  for (let i = 0; i < pairs; i++) {
    const [a, b] = pairing === "halves" ? [i, pairs + i] : [2 * i, 2 * i + 1];
    const [cos, sin] = [cosSin[i], cosSin[pairs + i]];
    out[a] = head[a] * cos - head[b] * sin;
    out[b] = head[b] * cos + head[a] * sin;
  }
  return out;
}

/** Softmax attention of one query over its keys and values; a sink takes part without a value. */
export function attended(
  query: Float64Array,
  options: { keys: Float64Array[]; values: Float64Array[]; scale: number; sink?: number },
): Float64Array {
  const { keys, values, scale, sink = -Infinity } = options;
  const scores = keys.map((key) => product(query, key) * scale);
  const largest = Math.max(sink, ...scores);
  const weights = scores.map((score) => Math.exp(score - largest));
  const total = weights.reduce((sum, weight) => sum + weight, Math.exp(sink - largest));
  const out = new Float64Array(values[0].length);
  for (const [p, value] of values.entries()) {
    const share = weights[p] / total;
    for (let i = 0; i < out.length; i++) out[i] += share * value[i];
  }
  return out;
}

/** The largest magnitude of all. */
export function largestOf(vectors: readonly ArrayLike<number>[]): number {
  let largest = 0;
  for (const vector of vectors) {
    for (let i = 0; i < vector.length; i++) largest = Math.max(largest, Math.abs(vector[i]));
  }
  return largest;
}

/** Row `index` of a matrix with rows of `width`. */
export function rowOf(matrix: Float32Array, index: number, width: number): Float32Array {
  return matrix.subarray(index * width, (index + 1) * width);
}
