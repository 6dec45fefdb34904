/** What the machine could do at best: bytes read and int8 multiply-adds per second, by N threads. */

/** Bytes each thread reads over and over: far beyond the last-level cache. */
const MEMORY_BYTES = 256 << 20;
/** Time for a request to reach every thread before all start together. */
const HEAD_START_MS = 10;

export interface ProbeRequest {
  readonly what: "read" | "dot";
  /** Unix time in milliseconds. */
  readonly startAt: number;
  readonly milliseconds: number;
}

/** Bytes, or multiply-adds, per second of one thread. */
export interface ProbeResult {
  readonly perSecond: number;
}

export interface CeilingsOptions {
  readonly threads: number;
  /** How long a measurement takes. */
  readonly milliseconds?: number;
  /** Memory of each thread, a multiple of 64 KiB. */
  readonly memoryBytes?: number;
}

/** Threads that sleep between measurements. */
export class Ceilings {
  readonly #workers: readonly Worker[];
  readonly #milliseconds: number;

  private constructor(workers: readonly Worker[], milliseconds: number) {
    this.#workers = workers;
    this.#milliseconds = milliseconds;
  }

  static async open(options: CeilingsOptions): Promise<Ceilings> {
    const { threads, milliseconds = 200, memoryBytes = MEMORY_BYTES } = options;
    const workers = Array.from(
      { length: threads },
      () => new Worker(new URL("./probe_worker.ts", import.meta.url), { type: "module" }),
    );
    await Promise.all(workers.map((worker) => ask(worker, memoryBytes)));
    return new Ceilings(workers, milliseconds);
  }

  /** Bytes per second that all threads together read from memory. */
  async bandwidth(): Promise<number> {
    return await this.#sum("read") ?? 0;
  }

  /** int8 multiply-adds per second of all threads; undefined without relaxed SIMD. */
  async multiplyAdds(): Promise<number | undefined> {
    return await this.#sum("dot");
  }

  close(): void {
    for (const worker of this.#workers) worker.terminate();
  }

  async #sum(what: ProbeRequest["what"]): Promise<number | undefined> {
    const startAt = performance.timeOrigin + performance.now() + HEAD_START_MS;
    const request: ProbeRequest = { what, startAt, milliseconds: this.#milliseconds };
    const results = await Promise.all(this.#workers.map((worker) => ask(worker, request)));
    if (results.some((result) => result === null)) return undefined;
    return results.reduce((sum, result) => sum + result!.perSecond, 0);
  }
}

function ask(worker: Worker, message: ProbeRequest | number): Promise<ProbeResult | null> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<ProbeResult | null>) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(`a measuring thread has failed: ${event.message}`));
    };
    worker.postMessage(message);
  });
}
