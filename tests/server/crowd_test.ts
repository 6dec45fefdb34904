/** Many connections and many requests at once, over sockets and a scripted engine. */

import { assert, assertEquals } from "@std/assert";
import { serve } from "../../src/server/serve.ts";
import { fixture } from "../routes/_support.ts";
import type { CrowdAnswer, CrowdTask } from "./_crowd.ts";

const IDLE = 1_000;
const REQUESTS = 200;
/** Of these, so many are taken; the others must be told that there are too many. */
const CAPACITY = 64;
const HEALTH_MS = 2_000;

/** A thread of clients. */
function crowd() {
  const worker = new Worker(new URL("_crowd.ts", import.meta.url), { type: "module" });
  const perform = (task: CrowdTask) =>
    new Promise<CrowdAnswer[]>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(task);
    });
  return { perform, end: () => worker.terminate() };
}

Deno.test("1,000 idle connections and 200 requests at once: no error but 503, and health stays quick", async () => {
  const { app, faults, engine } = fixture({
    contextLength: 4_096,
    slots: 16,
    answer: "Hello there",
    tokenMs: 20,
    app: { maxRequests: CAPACITY },
  });
  const server = await serve({
    fetch: (request) => app.fetch(request),
    hostname: "127.0.0.1",
    port: 0,
    onError: (error) => faults.push(error),
  });
  const { url } = server;
  const [idle, asking, watching] = [crowd(), crowd(), crowd()];
  try {
    const opened = await idle.perform({ kind: "idle", url, count: IDLE });
    // Once before, so that nobody measures how code gets warm.
    await asking.perform({ kind: "ask", url, count: 50 });
    const watch = watching.perform({ kind: "health", url, ms: HEALTH_MS });
    await new Promise((resolve) => setTimeout(resolve, HEALTH_MS / 4));
    const asked = await asking.perform({ kind: "ask", url, count: REQUESTS });
    const health = await watch;
    const still = await idle.perform({ kind: "idle", url, count: IDLE });
    for (const answers of [opened, health, still]) {
      assertEquals(answers.filter(({ status }) => status !== 200), []);
    }
    const refused = asked.filter(({ status }) => status === 503);
    for (const { retryAfter } of refused) assertEquals(retryAfter, "1");
    const served = asked.filter(({ status }) => status === 200);
    assertEquals(served.filter(({ whole }) => !whole), []);
    assert(served.length >= CAPACITY, `${served.length} were answered`);
    assertEquals(served.length + refused.length, REQUESTS);
    const times = health.map(({ ms }) => ms).sort((a, b) => a - b);
    const p99 = times[Math.floor(times.length * 0.99)];
    const slowest = Math.max(...refused.map(({ ms }) => ms));
    console.log(
      `health of ${times.length}: p50 ${times[times.length >> 1].toFixed(1)} ms, p99 ` +
        `${p99.toFixed(1)} ms, most ${
          times.at(-1)?.toFixed(1)
        } ms; ${refused.length} refused, the ` +
        `slowest after ${slowest.toFixed(0)} ms`,
    );
    assert(p99 < 50, `health's p99 is ${p99} ms`);
    assertEquals([faults, engine.running], [[], 0]);
  } finally {
    for (const { end } of [idle, asking, watching]) end();
    await server.drain({ deadlineMs: 500, graceMs: 500 });
  }
});
