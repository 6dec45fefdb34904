/**
 * Turns at what takes the thread for a moment (templates, tokenizers). However many requests come at
 * once, the event loop goes round between two of them, so that short answers like `/health` get through.
 */
export class Turns {
  readonly #waiting: (() => void)[] = [];
  #taken = false;

  /** Resolves at once where nobody else has had a turn in this round. */
  async take(): Promise<void> {
    if (this.#taken) return await new Promise((resolve) => this.#waiting.push(resolve));
    this.#taken = true;
    setTimeout(() => this.#next(), 0);
  }

  #next(): void {
    const resolve = this.#waiting.shift();
    if (resolve === undefined) {
      this.#taken = false;
      return;
    }
    resolve();
    setTimeout(() => this.#next(), 0);
  }
}
