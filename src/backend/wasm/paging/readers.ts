/** The threads that read experts beside the one that runs plans. */

import type { ReaderStart } from "./reader_thread.ts";

export class Readers {
  readonly #workers: Worker[];
  readonly #up: Promise<void>;
  #failure: string | null = null;

  /** Starts the threads, which take a while to come up, before there is anything to read. */
  constructor(options: { count: number }) {
    this.#workers = Array.from(
      { length: options.count },
      () => new Worker(new URL("./reader_thread.ts", import.meta.url), { type: "module" }),
    );
    this.#up = Promise.all(this.#workers.map((worker) =>
      new Promise<void>((resolve) => {
        worker.onmessage = () => resolve();
        worker.onerror = (event) => {
          event.preventDefault();
          this.#failure = event.message;
          resolve();
        };
      })
    )).then(() => {});
  }

  /** Resolves when the threads have come up. */
  get up(): Promise<void> {
    return this.#up;
  }

  /** Why a thread has ended, where one has. */
  get failure(): string | null {
    return this.#failure;
  }

  start(message: ReaderStart): void {
    for (const worker of this.#workers) worker.postMessage(message);
  }

  close(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}
