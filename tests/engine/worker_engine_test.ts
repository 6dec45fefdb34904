import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { serveStore } from "../../src/cache/serve_store.ts";
import { CapacityError, ExpertReadError, FormatError, RequestError } from "../../src/errors.ts";
import type { EngineEvent, EngineOptions, LoadProgress } from "../../src/engine/types.ts";
import type { Report } from "../../src/engine/wire.ts";
import { WorkerEngine } from "../../src/engine/worker_engine.ts";
import type { EngineWorker, StoreConnection } from "../../src/engine/worker_link.ts";
import { MemoryStore } from "./_memory_store.ts";
import {
  answerOf,
  collect,
  FAULT_TOKEN,
  TOY_ROUTED_LAYERS,
  toyAnswer,
  toyEngine,
  toyPrompt,
  toyRequest,
  VOCAB,
} from "./toy.ts";

const OPTIONS: EngineOptions = {
  model: "toy",
  backend: "reference",
  activations: "f32",
  threads: 1,
  contextLength: 2000,
  slots: 3,
  chunkTokens: 16,
};

function startToy(): Worker {
  return new Worker(new URL("./toy_worker.ts", import.meta.url), { type: "module" });
}

async function withWorker(
  options: Partial<EngineOptions>,
  body: (engine: WorkerEngine) => Promise<void>,
  start: () => Worker = startToy,
): Promise<void> {
  const engine = await WorkerEngine.open({ start, engine: { ...OPTIONS, ...options } });
  try {
    await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

Deno.test("a worker's engine answers as the engine in this thread does", async () => {
  await withWorker({}, async (engine) => {
    assertEquals([engine.info.modelName, engine.info.vocabSize], ["toy", VOCAB]);
    const prompts = Array.from({ length: 8 }, (_, i) => toyPrompt(5 + i * 20, i));
    const answers = await Promise.all(
      prompts.map((prompt) => answerOf(engine.generate(toyRequest(prompt, { maxTokens: 30 })))),
    );
    assertEquals(answers, prompts.map((prompt) => toyAnswer(prompt, 30)));
    const { running, waiting, promptTokens, completionTokens } = engine.stats();
    const promptTokensSent = prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    assertEquals([running, waiting, promptTokens, completionTokens], [0, 0, promptTokensSent, 240]);
  });
});

Deno.test("the tokens of one step for several sequences cross in one message", async () => {
  const tokensPerMessage: number[] = [];
  const start = () => {
    const worker = startToy();
    worker.addEventListener("message", ({ data }: MessageEvent<Report>) => {
      if (data.type !== "news") return;
      const tokens = data.items.filter((item) => "event" in item && item.event.type === "token");
      if (tokens.length > 0) tokensPerMessage.push(tokens.length);
    });
    return worker;
  };
  await withWorker({}, async (engine) => {
    await Promise.all(
      [1, 2, 3].map((seed) =>
        answerOf(engine.generate(toyRequest(toyPrompt(3, seed), { maxTokens: 50 })))
      ),
    );
  }, start);
  assertEquals(tokensPerMessage.reduce((sum, count) => sum + count, 0), 150);
  // Requests may start a step apart; from then on all three have a token in every step.
  assert(tokensPerMessage.length <= 55, `${tokensPerMessage.length} messages`);
});

Deno.test("load progress comes through, its last report with all bytes", async () => {
  const reports: Parameters<LoadProgress>[0][] = [];
  const engine = await WorkerEngine.open({
    start: startToy,
    engine: OPTIONS,
    onProgress: (progress) => reports.push(progress),
  });
  await engine.close();
  assert(reports.length >= 1 && reports.length < 100);
  assertEquals(reports[reports.length - 1], { loadedBytes: 1000, totalBytes: 1000 });
});

Deno.test("an error while loading keeps its class", async () => {
  await assertRejects(
    () => WorkerEngine.open({ start: startToy, engine: { ...OPTIONS, model: "damaged" } }),
    FormatError,
    "cannot open the toy: its state is damaged, must be whole",
  );
});

Deno.test("a worker that dies while loading rejects", async () => {
  await assertRejects(
    () => WorkerEngine.open({ start: startToy, engine: { ...OPTIONS, model: "dying" } }),
    Error,
    "died while opening",
  );
});

Deno.test("request errors keep class, param, status and code across the worker", async () => {
  await withWorker({ maxWaiting: 0, slots: 1 }, async (engine) => {
    const error = await assertRejects(
      () => collect(engine.generate(toyRequest(toyPrompt(3000)))),
      RequestError,
      "the prompt is 3000 tokens, must be at most 1999",
    );
    assertEquals([error.param, error.status, error.code], [
      "prompt",
      400,
      "context_length_exceeded",
    ]);
    const running = answerOf(engine.generate(toyRequest([1])));
    await assertRejects(() => collect(engine.generate(toyRequest([2]))), CapacityError);
    await running;
  });
});

Deno.test("an error in a worker's step ends its request, and the next one is answered", async () => {
  await withWorker({}, async (engine) => {
    await assertRejects(
      () => collect(engine.generate(toyRequest([1, FAULT_TOKEN]))),
      Error,
      "the fault token was computed",
    );
    assertEquals(await answerOf(engine.generate(toyRequest([1]))), toyAnswer([1], 8));
  });
});

Deno.test("an abort reaches a worker that computes without pause", async () => {
  await withWorker({ model: "busy", slots: 1 }, async (engine) => {
    const controller = new AbortController();
    const events: EngineEvent[] = [];
    const request = toyRequest(toyPrompt(3), { maxTokens: 1900 });
    for await (const event of engine.generate(request, { signal: controller.signal })) {
      events.push(event);
      if (events.length === 3) controller.abort();
    }
    const last = events[events.length - 1];
    assert(last.type === "done");
    assertEquals(last.reason, "abort");
    // The step under way when the signal fired, and at most one more.
    assert(events.length <= 3 + 2 + 1, `${events.length} events`);
    for await (const event of engine.generate(toyRequest(toyPrompt(4), { maxTokens: 1900 }))) {
      if (event.type === "token") break;
    }
    assertEquals(
      await answerOf(engine.generate(toyRequest([1], { maxTokens: 2 }))),
      toyAnswer([1], 2),
    );
  });
});

Deno.test("this thread stays responsive while the worker computes", async () => {
  await withWorker({ model: "busy" }, async (engine) => {
    const running = answerOf(engine.generate(toyRequest(toyPrompt(16), { maxTokens: 5 })));
    let longest = 0;
    for (let last = performance.now(), i = 0; i < 50; i++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
    }
    // The prompt's step holds its thread for 400 ms.
    assert(longest < 200, `a timer of 1 ms took ${longest} ms`);
    assertEquals((await running).length, 5);
  });
});

Deno.test("a signal that has fired, and one that fires while queued, end with abort", async () => {
  await withWorker({ slots: 1 }, async (engine) => {
    const fired = await collect(
      engine.generate(toyRequest([1]), { signal: AbortSignal.abort() }),
    );
    assertEquals(fired.map((event) => event.type === "done" && event.reason), ["abort"]);
    const controller = new AbortController();
    const both = [1, 2].map((seed) =>
      collect(engine.generate(toyRequest(toyPrompt(3, seed), { maxTokens: 1900 }), controller))
    );
    controller.abort();
    for (const events of await Promise.all(both)) {
      const last = events[events.length - 1];
      assertEquals(last.type === "done" && last.reason, "abort");
    }
    assertEquals([engine.stats().running, engine.stats().waiting], [0, 0]);
  });
});

for (
  const [fault, model, message] of [
    ["a crash", "crashing", "crashed on purpose"],
    ["a lost backend", "losing", "a kernel failed on purpose"],
  ]
) {
  Deno.test(`${fault} ends requests that were being answered, one that waited gets a second worker, the next one a third`, async () => {
    let started = 0;
    const start = () => {
      started++;
      return startToy();
    };
    await withWorker({ model }, async (engine) => {
      const endings = await Promise.allSettled(
        [1, 2, 3, 4].map((seed) =>
          answerOf(engine.generate(toyRequest(toyPrompt(3, seed), { maxTokens: 1000 })))
        ),
      );
      for (const ending of endings) {
        assert(ending.status === "rejected");
        assertInstanceOf(ending.reason, Error);
        assert(ending.reason.message.includes(message), ending.reason.message);
      }
      // The second worker crashes over the fourth request as the first one did over the others.
      assertEquals([engine.stats().running, engine.stats().waiting, started], [0, 0, 2]);
      const answers = await Promise.all(
        [5, 6].map((seed) => answerOf(engine.generate(toyRequest(toyPrompt(3, seed))))),
      );
      assertEquals(answers, [5, 6].map((seed) => toyAnswer(toyPrompt(3, seed), 8)));
      assertEquals(started, 3);
    }, start);
  });
}

Deno.test("requests that a crashed worker had not begun to answer are answered by the next one", async () => {
  // One slot, so that the others wait; the first one's answer is what the crash cuts short.
  await withWorker({ model: "crashing", slots: 1 }, async (engine) => {
    const [first, ...others] = await Promise.allSettled([
      collect(engine.generate(toyRequest(toyPrompt(3, 1), { maxTokens: 1000 }))),
      ...[2, 3].map((seed) => collect(engine.generate(toyRequest(toyPrompt(3, seed))))),
    ]);
    assertEquals(first.status, "rejected");
    for (const [i, ending] of others.entries()) {
      assert(ending.status === "fulfilled", `request ${i + 2} failed`);
      const types = ending.value.map(({ type }) => type);
      assertEquals(types, ["started", "prompt", ...Array(8).fill("token"), "done"]);
      const tokens = ending.value.flatMap((event) => event.type === "token" ? [event.token] : []);
      assertEquals(tokens, toyAnswer(toyPrompt(3, i + 2), 8));
    }
  });
});

Deno.test("a worker that has answered something is replaced before anybody asks", async () => {
  let started = 0;
  const start = () => {
    started++;
    return startToy();
  };
  await withWorker({ model: "crashing" }, async (engine) => {
    await answerOf(engine.generate(toyRequest(toyPrompt(3, 1), { maxTokens: 2 })));
    const long = answerOf(engine.generate(toyRequest(toyPrompt(3, 2), { maxTokens: 1000 })));
    await assertRejects(() => long, Error, "crashed on purpose");
    assertEquals(started, 2);
    const { steps, completionTokens } = engine.stats();
    assert(steps.rows >= 21 && completionTokens >= 20, "what the first one counted still counts");
    assertEquals(
      await answerOf(engine.generate(toyRequest([1], { maxTokens: 2 }))),
      toyAnswer([1], 2),
    );
    assertEquals(started, 2);
  }, start);
});

Deno.test("a store that is lost is connected again, by the worker that runs then and no other", async () => {
  const kept = new MemoryStore();
  const connected: { lose: () => void; stop: () => void }[] = [];
  const store: StoreConnection = {
    connect(onLost) {
      const { port1, port2 } = new MessageChannel();
      const stop = serveStore(port1 as unknown as Parameters<typeof serveStore>[0], kept);
      const lose = () => {
        stop();
        onLost();
      };
      connected.push({ lose, stop });
      return port2;
    },
    close: () => Promise.resolve(),
  };
  const until = async (isSo: () => boolean) => {
    for (let i = 0; i < 500 && !isSo(); i++) await new Promise((done) => setTimeout(done, 20));
    assert(isSo(), "within ten seconds");
  };
  const options = { ...OPTIONS, model: "crashing" };
  const engine = await WorkerEngine.open({ start: startToy, engine: options, store });
  /** Asks for something new, whose end is kept. */
  const ask = async (seed: number) => {
    await until(() => engine.stats().store?.state === "ready");
    const before = kept.units.size;
    await answerOf(engine.generate(toyRequest(toyPrompt(3, seed), { maxTokens: 2 })));
    await until(() => kept.units.size > before);
  };
  try {
    await ask(1);
    connected[0].lose();
    await ask(2);
    assertEquals(connected.length, 2);
    const long = answerOf(engine.generate(toyRequest(toyPrompt(3, 3), { maxTokens: 1000 })));
    await assertRejects(() => long, Error, "crashed on purpose");
    await ask(4);
    assertEquals(connected.length, 3, "the next worker has a port of its own");
    connected[1].lose();
    assertEquals(connected.length, 3, "a worker that has ended wants none");
    connected[2].lose();
    await ask(5);
    assertEquals(connected.length, 4);
  } finally {
    await engine.close({ graceMs: 0 });
    for (const { stop } of connected) stop();
  }
});

Deno.test("close lets the worker's requests finish, then refuses", async () => {
  const engine = await WorkerEngine.open({ start: startToy, engine: OPTIONS });
  const running = answerOf(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 100 })));
  await engine.close();
  assertEquals(await running, toyAnswer(toyPrompt(5), 100));
  await assertRejects(
    () => collect(engine.generate(toyRequest([1]))),
    CapacityError,
    "the engine is closing",
  );
});

Deno.test("close aborts what is left after the grace", async () => {
  const engine = await WorkerEngine.open({
    start: startToy,
    engine: { ...OPTIONS, model: "busy" },
  });
  const running = collect(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 1000 })));
  await engine.close({ graceMs: 50 });
  const events = await running;
  const last = events[events.length - 1];
  assertEquals(last.type === "done" && last.reason, "abort");
});

Deno.test("routing and its counts cross from the worker as the engine has them", async () => {
  await withWorker({ model: "mixture" }, async (engine) => {
    assertEquals(engine.info.routedLayers, TOY_ROUTED_LAYERS);
    const prompt = toyPrompt(20);
    const request = toyRequest(prompt, { maxTokens: 4, routedExperts: "all" });
    const { engine: local } = toyEngine({ routed: TOY_ROUTED_LAYERS, contextLength: 2000 });
    try {
      const untimed = (events: EngineEvent[]) => events.filter(({ type }) => type !== "done");
      assertEquals(
        untimed(await collect(engine.generate(request))),
        untimed(await collect(local.generate(request))),
      );
      const [stats, again] = await Promise.all([engine.routingStats(), engine.routingStats()]);
      assertEquals(stats, await local.routingStats());
      assertEquals([stats.tokens, again], [23, stats]);
    } finally {
      await local.close();
    }
  });
});

Deno.test("whoever waits for counts is told when the worker ends, and whoever asks after it", async () => {
  const { engine: local } = toyEngine();
  const { info } = local;
  await local.close();
  /** A worker that opens and then hears nothing. */
  const worker: EngineWorker = {
    onmessage: null,
    onerror: null,
    onmessageerror: null,
    terminate: () => {},
    postMessage: ({ type }) => {
      const data: Report = { type: "ready", info };
      if (type === "open") worker.onmessage?.(new MessageEvent("message", { data }));
    },
  };
  const engine = await WorkerEngine.open({ start: () => worker, engine: OPTIONS });
  const asked = engine.routingStats();
  worker.onerror?.(new ErrorEvent("error", { message: "hit by a meteor" }));
  await assertRejects(() => asked, Error, "hit by a meteor");
  await assertRejects(() => engine.routingStats(), CapacityError, "worker is gone");
  await engine.close({ graceMs: 0 });
});

Deno.test("a failed read of experts keeps its class across the worker, and the next request is answered", async () => {
  await withWorker({ model: "unreadable" }, async (engine) => {
    await assertRejects(
      () => collect(engine.generate(toyRequest(toyPrompt(5)))),
      ExpertReadError,
      "on purpose",
    );
    const prompt = toyPrompt(6, 2);
    assertEquals(await answerOf(engine.generate(toyRequest(prompt))), toyAnswer(prompt, 8));
  });
});
