/** Deadlines over HTTP with the engine in its worker, which has to tell of them between its steps. */

import { assert, assertEquals } from "@std/assert";
import { main } from "../../src/cli/start.ts";
import type { Server } from "../../src/server/serve.ts";
import { TINY_V3 } from "../support/fixtures.ts";
import { recordedIo } from "./_io.ts";

Deno.test("an answer that passes its deadline ends then, streamed or not, and the next one is right", async () => {
  const io = recordedIo();
  const stop = Promise.withResolvers<void>();
  const listening = Promise.withResolvers<Server>();
  const code = main(["--model", TINY_V3, "--port", "0", "--log", "off", "--deadline", "30"], {
    ...io,
    stopped: stop.promise,
    onListening: listening.resolve,
  });
  try {
    const { url } = await listening.promise;
    const loaded = performance.now() + 20_000;
    while (io.out() === "") {
      assert(performance.now() < loaded, "the model did not load in time");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const ask = async (fields: Record<string, unknown>) => {
      const started = performance.now();
      const response = await fetch(`${url}/v1/completions`, {
        method: "POST",
        body: JSON.stringify({ prompt: "a", ignore_eos: true, ...fields }),
        // Nothing but a hang takes so long.
        signal: AbortSignal.timeout(10_000),
      });
      const text = await response.text();
      return { status: response.status, text, ms: performance.now() - started };
    };
    // Whoever comes first finds code and plans that are not warm.
    await ask({ max_tokens: 10 });
    for (let i = 0; i < 3; i++) {
      const whole = await ask({ max_tokens: 2_000, deadline_ms: 150 });
      assertEquals([whole.status, JSON.parse(whole.text).error.code], [504, "deadline_exceeded"]);
      const streamed = await ask({ max_tokens: 2_000, deadline_ms: 250, stream: true });
      const last = streamed.text.trim().split("\n\n").at(-1)!.slice("data: ".length);
      assertEquals([streamed.status, JSON.parse(last).error.code], [200, "deadline_exceeded"]);
      for (const { ms } of [whole, streamed]) assert(ms < 2_000, `it took ${ms} ms`);
      const { status, text } = await ask({ max_tokens: 5 });
      assertEquals([status, JSON.parse(text).usage.completion_tokens], [200, 5]);
    }
  } finally {
    stop.resolve();
  }
  assertEquals(await code, 0);
});
