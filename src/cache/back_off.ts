/** How long to wait before something that failed is tried again: longer after each failure. */

export interface BackOffLimits {
  /** Milliseconds after the first failure; doubles up to the second. */
  readonly retryMs: number;
  readonly maxRetryMs: number;
}

export class BackOff {
  readonly #limits: BackOffLimits;
  #nextMs: number;

  constructor(limits: BackOffLimits) {
    this.#limits = limits;
    this.#nextMs = limits.retryMs;
  }

  /** Milliseconds to wait now. */
  next(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(this.#limits.maxRetryMs, 2 * ms);
    return ms;
  }

  /** It has worked: the next failure is a first one. */
  reset(): void {
    this.#nextMs = this.#limits.retryMs;
  }
}
