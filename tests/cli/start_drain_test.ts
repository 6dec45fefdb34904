/** What running streams get when the process is told to stop. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { main } from "../../src/cli/start.ts";
import type { Server } from "../../src/server/serve.ts";
import { TINY_V3 } from "../support/fixtures.ts";
import { recordedIo } from "./_io.ts";

/** Serves a small mixture, begins a stream of so many tokens, and stops the server then. */
async function stoppedInStream(
  { drain, tokens }: { drain: string; tokens: number },
): Promise<{ text: string; code: number; drainMs: number }> {
  const io = recordedIo();
  const stop = Promise.withResolvers<void>();
  const listening = Promise.withResolvers<Server>();
  const code = main(["--model", TINY_V3, "--port", "0", "--drain", drain, "--log", "off"], {
    ...io,
    stopped: stop.promise,
    onListening: listening.resolve,
  });
  try {
    const { url } = await listening.promise;
    const deadline = performance.now() + 20_000;
    while (io.out() === "") {
      assert(performance.now() < deadline, "the model did not load in time");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({
        prompt: "What is 47 + 38?",
        stream: true,
        max_tokens: tokens,
        ignore_eos: true,
      }),
    });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = (await reader.read()).value ?? "";
    const started = performance.now();
    stop.resolve();
    while (true) {
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
    }
    return { text, code: await code, drainMs: performance.now() - started };
  } finally {
    stop.resolve();
  }
}

Deno.test("a stream that ends in time is whole when the server drains, which exits with 0", async () => {
  const { text, code } = await stoppedInStream({ drain: "60", tokens: 30 });
  assertEquals(code, 0);
  assert(text.endsWith("data: [DONE]\n\n"), text.slice(-200));
  assertStringIncludes(text, '"finish_reason":"length"');
});

Deno.test("a stream that outlasts --drain ends with an error event, and the server exits with 0", async () => {
  const { text, code, drainMs } = await stoppedInStream({ drain: "0.1", tokens: 2_000 });
  assertEquals(code, 0);
  assert(!text.includes("[DONE]"));
  const last = JSON.parse(text.trim().split("\n\n").at(-1)!.slice("data: ".length));
  assertEquals(last.error.code, "shutting_down");
  assert(drainMs < 5_000, `draining took ${drainMs} ms`);
});
