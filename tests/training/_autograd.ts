/** A small reverse-mode autodiff over float64 matrices: an oracle that shares nothing with the product. */

/** A matrix and the derivative of the loss by each of its numbers. */
export class Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly v: Float64Array;
  readonly g: Float64Array;

  constructor(rows: number, cols: number, v: ArrayLike<number> = new Float64Array(rows * cols)) {
    this.rows = rows;
    this.cols = cols;
    this.v = Float64Array.from(v);
    this.g = new Float64Array(rows * cols);
  }
}

/** Operations, each remembered until `backward`. */
export class Graph {
  readonly #steps: (() => void)[] = [];

  /** Derivatives of everything by the one number of `loss`. */
  backward(loss: Matrix): void {
    loss.g[0] = 1;
    for (const step of this.#steps.toReversed()) step();
  }

  /** An elementwise function of one matrix, by value and slope. */
  #each(x: Matrix, f: (x: number) => number, slope: (x: number) => number): Matrix {
    const y = new Matrix(x.rows, x.cols, x.v.map(f));
    this.#steps.push(() => x.v.forEach((value, i) => x.g[i] += y.g[i] * slope(value)));
    return y;
  }

  scale(x: Matrix, factor: number): Matrix {
    return this.#each(x, (value) => value * factor, () => factor);
  }

  sigmoid(x: Matrix): Matrix {
    const s = (value: number) => 1 / (1 + Math.exp(-value));
    return this.#each(x, s, (value) => s(value) * (1 - s(value)));
  }

  silu(x: Matrix): Matrix {
    return this.mul(x, this.sigmoid(x));
  }

  add(a: Matrix, b: Matrix): Matrix {
    const y = new Matrix(a.rows, a.cols, a.v.map((value, i) => value + b.v[i]));
    this.#steps.push(() => y.g.forEach((g, i) => (a.g[i] += g, b.g[i] += g)));
    return y;
  }

  mul(a: Matrix, b: Matrix): Matrix {
    const y = new Matrix(a.rows, a.cols, a.v.map((value, i) => value * b.v[i]));
    this.#steps.push(() => y.g.forEach((g, i) => (a.g[i] += g * b.v[i], b.g[i] += g * a.v[i])));
    return y;
  }

  /** Each row of `a` plus the one row of `b`. */
  addRow(a: Matrix, b: Matrix): Matrix {
    const y = new Matrix(a.rows, a.cols, a.v.map((value, i) => value + b.v[i % a.cols]));
    this.#steps.push(() => y.g.forEach((g, i) => (a.g[i] += g, b.g[i % a.cols] += g)));
    return y;
  }

  /** Each row of `a` times the row's one number of `b`. */
  mulColumn(a: Matrix, b: Matrix): Matrix {
    const row = (i: number) => Math.floor(i / a.cols);
    const y = new Matrix(a.rows, a.cols, a.v.map((value, i) => value * b.v[row(i)]));
    this.#steps.push(() =>
      y.g.forEach((g, i) => (a.g[i] += g * b.v[row(i)], b.g[row(i)] += g * a.v[i]))
    );
    return y;
  }

  /** 1 / (sum of each row + eps) */
  inverseRowSums(a: Matrix, eps: number): Matrix {
    const y = new Matrix(a.rows, 1);
    for (let r = 0; r < a.rows; r++) {
      y.v[r] = 1 / (a.v.subarray(r * a.cols, (r + 1) * a.cols).reduce((s, x) => s + x, 0) + eps);
    }
    this.#steps.push(() =>
      a.v.forEach((_, i) => {
        const r = Math.floor(i / a.cols);
        a.g[i] -= y.g[r] * y.v[r] ** 2;
      })
    );
    return y;
  }

  /** x w^T */
  linear(x: Matrix, w: Matrix): Matrix {
    const y = new Matrix(x.rows, w.rows);
    this.#triples(y, x.cols, (at, t, r, k) => y.v[at] += x.v[t * x.cols + k] * w.v[r * w.cols + k]);
    this.#steps.push(() =>
      this.#triples(y, x.cols, (at, t, r, k) => {
        x.g[t * x.cols + k] += y.g[at] * w.v[r * w.cols + k];
        w.g[r * w.cols + k] += y.g[at] * x.v[t * x.cols + k];
      })
    );
    return y;
  }

  /** a b */
  matmul(a: Matrix, b: Matrix): Matrix {
    const y = new Matrix(a.rows, b.cols);
    this.#triples(y, a.cols, (at, t, c, k) => y.v[at] += a.v[t * a.cols + k] * b.v[k * b.cols + c]);
    this.#steps.push(() =>
      this.#triples(y, a.cols, (at, t, c, k) => {
        a.g[t * a.cols + k] += y.g[at] * b.v[k * b.cols + c];
        b.g[k * b.cols + c] += y.g[at] * a.v[t * a.cols + k];
      })
    );
    return y;
  }

  #triples(
    y: Matrix,
    depth: number,
    visit: (at: number, row: number, col: number, k: number) => void,
  ): void {
    for (let row = 0; row < y.rows; row++) {
      for (let col = 0; col < y.cols; col++) {
        for (let k = 0; k < depth; k++) visit(row * y.cols + col, row, col, k);
      }
    }
  }

  /** Columns `from .. to`. */
  columns(x: Matrix, from: number, to: number): Matrix {
    const y = new Matrix(x.rows, to - from);
    const at = (i: number) => Math.floor(i / y.cols) * x.cols + from + i % y.cols;
    y.v.forEach((_, i) => y.v[i] = x.v[at(i)]);
    this.#steps.push(() => y.g.forEach((g, i) => x.g[at(i)] += g));
    return y;
  }

  /** Rows `from .. to`. */
  rowRange(x: Matrix, from: number, to: number): Matrix {
    const y = new Matrix(to - from, x.cols, x.v.subarray(from * x.cols, to * x.cols));
    this.#steps.push(() => y.g.forEach((g, i) => x.g[from * x.cols + i] += g));
    return y;
  }

  /** Matrices side by side. */
  beside(...parts: readonly Matrix[]): Matrix {
    const y = new Matrix(parts[0].rows, parts.reduce((sum, { cols }) => sum + cols, 0));
    let from = 0;
    for (const part of parts) {
      const start = from;
      const at = (i: number) => Math.floor(i / part.cols) * y.cols + start + i % part.cols;
      part.v.forEach((value, i) => y.v[at(i)] = value);
      this.#steps.push(() => part.g.forEach((_, i) => part.g[i] += y.g[at(i)]));
      from += part.cols;
    }
    return y;
  }

  rows(table: Matrix, ids: readonly number[]): Matrix {
    const { cols } = table;
    const y = new Matrix(ids.length, cols);
    y.v.forEach((_, i) => y.v[i] = table.v[ids[Math.floor(i / cols)] * cols + i % cols]);
    this.#steps.push(() =>
      y.g.forEach((g, i) => table.g[ids[Math.floor(i / cols)] * cols + i % cols] += g)
    );
    return y;
  }

  /** x / sqrt(mean(x^2) + eps) * w, by columns and sums rather than by a formula of its slope. */
  rmsNorm(x: Matrix, w: Matrix, eps: number): Matrix {
    const means = this.#each(this.mul(x, x), (value) => value / x.cols, () => 1 / x.cols);
    const inverse = this.inverseRowSums(means, eps);
    const root = this.#each(inverse, Math.sqrt, (value) => 0.5 / Math.sqrt(value));
    const ones = new Matrix(x.rows, x.cols, new Float64Array(x.rows * x.cols).fill(0));
    return this.mul(this.mulColumn(x, root), this.addRow(ones, w));
  }

  /** Softmax of each row over its first `row + 1` numbers. */
  causalSoftmax(x: Matrix): Matrix {
    const y = new Matrix(x.rows, x.cols);
    for (let t = 0; t < x.rows; t++) {
      const row = x.v.subarray(t * x.cols, t * x.cols + t + 1);
      const largest = Math.max(...row);
      const powers = row.map((value) => Math.exp(value - largest));
      const total = powers.reduce((sum, power) => sum + power, 0);
      powers.forEach((power, i) => y.v[t * x.cols + i] = power / total);
    }
    this.#steps.push(() => softmaxBackward(x, y));
    return y;
  }

  softmax(x: Matrix): Matrix {
    const y = new Matrix(x.rows, x.cols);
    for (let t = 0; t < x.rows; t++) {
      const powers = x.v.subarray(t * x.cols, (t + 1) * x.cols).map(Math.exp);
      const total = powers.reduce((sum, power) => sum + power, 0);
      powers.forEach((power, i) => y.v[t * x.cols + i] = power / total);
    }
    this.#steps.push(() => softmaxBackward(x, y));
    return y;
  }

  /** Pairs of columns turned by the row's angle. */
  rotate(
    x: Matrix,
    options: { frequencies: readonly number[]; pairing: "halves" | "interleaved"; factor: number },
  ): Matrix {
    const { frequencies, pairing, factor } = options;
    const y = new Matrix(x.rows, x.cols);
    const pairs = frequencies.length;
    const visit = (f: (a: number, b: number, cos: number, sin: number) => void) => {
      for (let t = 0; t < x.rows; t++) {
        frequencies.forEach((frequency, i) => {
          const [a, b] = pairing === "halves" ? [i, i + pairs] : [2 * i, 2 * i + 1];
          const angle = t * frequency;
          const base = t * x.cols;
          f(base + a, base + b, factor * Math.cos(angle), factor * Math.sin(angle));
        });
      }
    };
    visit((a, b, cos, sin) => {
      y.v[a] = x.v[a] * cos - x.v[b] * sin;
      y.v[b] = x.v[a] * sin + x.v[b] * cos;
    });
    this.#steps.push(() =>
      visit((a, b, cos, sin) => {
        x.g[a] += y.g[a] * cos + y.g[b] * sin;
        x.g[b] += y.g[b] * cos - y.g[a] * sin;
      })
    );
    return y;
  }

  /** The mean of -log softmax(logits[t])[targets[t]]. */
  crossEntropy(logits: Matrix, targets: readonly number[]): Matrix {
    const p = new Matrix(logits.rows, logits.cols);
    const loss = new Matrix(1, 1);
    for (let t = 0; t < logits.rows; t++) {
      const row = logits.v.subarray(t * logits.cols, (t + 1) * logits.cols);
      const largest = Math.max(...row);
      const total = row.reduce((sum, value) => sum + Math.exp(value - largest), 0);
      row.forEach((value, i) => p.v[t * p.cols + i] = Math.exp(value - largest) / total);
      loss.v[0] -= Math.log(p.v[t * p.cols + targets[t]]) / logits.rows;
    }
    this.#steps.push(() =>
      p.v.forEach((value, i) => {
        const hit = targets[Math.floor(i / p.cols)] === i % p.cols ? 1 : 0;
        logits.g[i] += loss.g[0] * (value - hit) / logits.rows;
      })
    );
    return loss;
  }
}

function softmaxBackward(x: Matrix, y: Matrix): void {
  for (let t = 0; t < x.rows; t++) {
    let mean = 0;
    for (let i = t * x.cols; i < (t + 1) * x.cols; i++) mean += y.v[i] * y.g[i];
    for (let i = t * x.cols; i < (t + 1) * x.cols; i++) x.g[i] += y.v[i] * (y.g[i] - mean);
  }
}
