/** The threads that read experts beside the one that runs plans. */

import { BackendLostError } from "../../../errors.ts";
import type { ReaderStart } from "./reader_thread.ts";

export class Readers {
  readonly #workers: Worker[];
  readonly #ready = new Set<Worker>();
  /** What those get that come up later: a message that nobody takes keeps the memories for good. */
  #message: ReaderStart | null = null;
  readonly #up: Promise<void>;

  /** Starts the threads, which take a while to come up, before there is anything to read. */
  constructor(options: { count: number }) {
    this.#workers = Array.from(
      { length: options.count },
      () => new Worker(new URL("./reader_thread.ts", import.meta.url), { type: "module" }),
    );
    this.#up = Promise.all(this.#workers.map((worker) =>
      new Promise<void>((resolve, reject) => {
        worker.onmessage = () => {
          this.#ready.add(worker);
          if (this.#message !== null) worker.postMessage(this.#message);
          resolve();
        };
        worker.onerror = (event) => {
          event.preventDefault();
          reject(new BackendLostError(`cannot read experts: a thread failed (${event.message})`));
        };
      })
    )).then(() => {});
    // Files are read without these threads where need be; URLs' readers are waited for.
    this.#up.catch(() => {});
  }

  /** Resolves when the threads have come up; rejects with BackendLostError where one fails instead. */
  get up(): Promise<void> {
    return this.#up;
  }

  start(message: ReaderStart): void {
    this.#message = message;
    for (const worker of this.#ready) worker.postMessage(message);
  }

  close(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}
