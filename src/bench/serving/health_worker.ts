/**
 * A thread that asks for `/health` again and again over one connection, so that the load generator's
 * own work does not delay it. It is told where, and answers "stop" with the milliseconds of each request.
 */

/// <reference lib="deno.worker" />

import { RawConnection } from "./raw_http.ts";

const scope = globalThis as unknown as DedicatedWorkerGlobalScope;

/** Pause between an answer and the next request. */
const PAUSE_MS = 5;

export interface HealthTimes {
  readonly milliseconds: readonly number[];
  /** Why it ended early, where it did. */
  readonly error?: string;
}

scope.onmessage = async ({ data: url }: MessageEvent<string>) => {
  let stopped = false;
  scope.onmessage = () => stopped = true;
  const milliseconds: number[] = [];
  let error: string | undefined;
  let connection: RawConnection | undefined;
  try {
    connection = await RawConnection.open(url, "/health");
    while (!stopped) {
      const start = performance.now();
      const status = await connection.get();
      if (status !== 200) throw new Error(`its status is ${status}, must be 200`);
      milliseconds.push(performance.now() - start);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  } catch (cause) {
    error = String(cause);
  } finally {
    connection?.close();
  }
  const times: HealthTimes = { milliseconds, ...(error !== undefined && { error }) };
  scope.postMessage(times);
};
