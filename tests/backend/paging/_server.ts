/**
 * A range server in a thread of its own: the thread that runs plans waits for experts without a turn
 * of its event loop.
 */

import type { ServerCommand } from "./_server_worker.ts";

export class ServerThread {
  readonly #worker: Worker;
  /** "http://127.0.0.1:PORT/". */
  readonly url: string;

  private constructor(worker: Worker, url: string) {
    this.#worker = worker;
    this.url = url;
  }

  static async start(
    options: { files: Record<string, string>; latencyMs?: number },
  ): Promise<ServerThread> {
    const worker = new Worker(new URL("./_server_worker.ts", import.meta.url), { type: "module" });
    return new ServerThread(worker, await ask(worker, { type: "start", ...options }));
  }

  /** Makes every later answer faulty, or proper again. */
  async fault(kind: Extract<ServerCommand, { type: "fault" }>["kind"]): Promise<void> {
    await ask(this.#worker, { type: "fault", kind });
  }

  /** Requests answered so far. */
  async requests(): Promise<number> {
    return Number(await ask(this.#worker, { type: "requests" }));
  }

  /** Stops listening; `start` listens on the same port again. */
  async stop(): Promise<void> {
    await ask(this.#worker, { type: "stop" });
  }

  async restart(): Promise<void> {
    await ask(this.#worker, { type: "restart" });
  }

  async close(): Promise<void> {
    await this.stop();
    this.#worker.terminate();
  }
}

function ask(worker: Worker, command: ServerCommand): Promise<string> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    worker.postMessage(command);
  });
}
