/** Work behind the answers, one piece after the other, bounded in the bytes that wait. */

export class WriteQueue {
  readonly #maxBytes: number;
  #bytes = 0;
  #tail: Promise<void> = Promise.resolve();

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** False where `bytes` more would be too many: the work is not done then. Its errors are its own. */
  add(bytes: number, work: () => Promise<void>): boolean {
    if (this.#bytes + bytes > this.#maxBytes) return false;
    this.#bytes += bytes;
    this.#tail = this.#tail.then(work).catch(() => {}).finally(() => this.#bytes -= bytes);
    return true;
  }

  /** Resolves when everything that was added before is done. */
  drained(): Promise<void> {
    return this.#tail;
  }
}
