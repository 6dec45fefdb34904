import { assert, assertEquals, assertRejects } from "@std/assert";
import { CapacityError, FormatError, RequestError } from "../../src/errors.ts";
import type { EngineEvent, GenerateRequest } from "../../src/engine/types.ts";
import { tokenLogprobs } from "../../src/sampling/logprobs.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import {
  answerOf,
  collect,
  FAULT_TOKEN,
  NAN_TOKEN,
  toyAnswer,
  toyEngine,
  type ToyEngineOptions,
  toyLogits,
  toyPrompt,
  toyRequest,
  VOCAB,
} from "./toy.ts";

/** Runs `body` with an engine, and closes it whatever happens. */
async function withEngine(
  options: ToyEngineOptions,
  body: (toy: ReturnType<typeof toyEngine>) => Promise<void>,
): Promise<void> {
  const toy = toyEngine(options);
  try {
    await body(toy);
  } finally {
    await toy.engine.close({ graceMs: 0 });
  }
}

function lastOf(events: EngineEvent[]): Extract<EngineEvent, { type: "done" }> {
  const last = events[events.length - 1];
  assert(last.type === "done");
  return last;
}

Deno.test("a greedy answer is the model's, with a start, the prompt, tokens and an end in this order", async () => {
  await withEngine({}, async ({ engine }) => {
    const prompt = toyPrompt(40);
    const events = await collect(engine.generate(toyRequest(prompt)));
    assertEquals(events.map(({ type }) => type), [
      "started",
      "prompt",
      ...new Array(8).fill("token"),
      "done",
    ]);
    const tokens = events.flatMap((event) => event.type === "token" ? [event.token] : []);
    assertEquals(tokens, toyAnswer(prompt, 8));
    const { reason, promptTokens, completionTokens, timings, stopToken } = lastOf(events);
    assertEquals([reason, promptTokens, completionTokens, stopToken], ["length", 40, 8, undefined]);
    assert(timings.queueMs >= 0 && timings.prefillMs > 0 && timings.decodeMs > 0);
    assertEquals(engine.stats(), {
      running: 0,
      waiting: 0,
      promptTokens: 40,
      completionTokens: 8,
      // Of 47 tokens that were fed in.
      pages: { total: 15, used: 0, kept: 1 },
      preemptions: 0,
      prefixCache: { queried: 40, memory: 0, store: 0 },
      store: undefined,
      speculation: { drafted: 0, accepted: 0 },
      // Prompt chunks of 16, 16 and 8 rows, then a row for each token but the last.
      steps: { bySize: [7, 1, 2, 0, 0, 0, 0, 0, 0, 0], rows: 47 },
    });
  });
});

for (const chunkTokens of [1, 7, 64, 500]) {
  Deno.test(`the answer is the same with prompts in chunks of ${chunkTokens}`, async () => {
    await withEngine({ chunkTokens, contextLength: 400 }, async ({ engine, backend }) => {
      const prompt = toyPrompt(200);
      const answer = await answerOf(engine.generate(toyRequest(prompt, { maxTokens: 70 })));
      assertEquals(answer, toyAnswer(prompt, 70));
      assertEquals(backend.steps.length, Math.ceil(200 / chunkTokens) + 69);
    });
  });
}

Deno.test("requests side by side, more than there are slots, get what each gets alone", async () => {
  await withEngine({ slots: 3, chunkTokens: 10 }, async ({ engine, backend }) => {
    const prompts = Array.from({ length: 11 }, (_, i) => toyPrompt(1 + i * 17, i));
    const answers = await Promise.all(
      prompts.map((prompt, i) =>
        answerOf(engine.generate(toyRequest(prompt, { maxTokens: 5 + i * 3 })))
      ),
    );
    assertEquals(answers, prompts.map((prompt, i) => toyAnswer(prompt, 5 + i * 3)));
    assert(Math.max(...backend.steps) > 10, "no step had answers beside a chunk");
  });
});

Deno.test("a pool smaller than the slots' contexts makes requests wait, not fail", async () => {
  await withEngine({ slots: 3, pages: 4, contextLength: 256 }, async ({ engine }) => {
    const prompts = [100, 150, 30, 200, 60].map((length, i) => toyPrompt(length, i));
    const answers = await Promise.all(
      prompts.map((prompt) => answerOf(engine.generate(toyRequest(prompt, { maxTokens: 20 })))),
    );
    assertEquals(answers, prompts.map((prompt) => toyAnswer(prompt, 20)));
  });
});

Deno.test("answers that gave way to others half way come out as if nothing had happened", async () => {
  const options = { slots: 3, pages: 16, contextLength: 700, logitRows: 5 };
  await withEngine(options, async ({ engine, backend }) => {
    const prompts = [1, 2, 3].map((seed) => toyPrompt(10 * seed, seed));
    const sampling = { ...NEUTRAL_SAMPLING, repetitionPenalty: 1.2, temperature: 0.5, seed: 8 };
    const request = (tokens: number[]) =>
      toyRequest(tokens, { maxTokens: 600, topLogprobs: 1, promptLogprobs: true, sampling });
    const withoutTimings = (events: EngineEvent[]) => events.slice(0, -1);
    const together = await Promise.all(
      prompts.map((tokens) => collect(engine.generate(request(tokens)))),
    );
    const computed = backend.steps.reduce((sum, rows) => sum + rows, 0);
    assert(computed > 3 * 599 + 60 + 64, "nothing was computed twice");
    for (const [i, tokens] of prompts.entries()) {
      const alone = await collect(engine.generate(request(tokens)));
      assertEquals(withoutTimings(together[i]), withoutTimings(alone));
      assertEquals(lastOf(together[i]).completionTokens, 600);
    }
  });
});

Deno.test("plans are recorded once per shape of a step", async () => {
  await withEngine({ slots: 1, chunkTokens: 16 }, async ({ engine, backend }) => {
    for (let i = 0; i < 3; i++) {
      await answerOf(engine.generate(toyRequest(toyPrompt(33, i), { maxTokens: 30 })));
    }
    // The largest step; chunks of 16 without logits; one token with logits, last of a prompt or not.
    assertEquals(backend.plansRecorded, 3);
  });
});

Deno.test("more shapes than the runner keeps plans for are recorded again", async () => {
  const options = { slots: 1, chunkTokens: 100, reusePrefixes: false };
  await withEngine(options, async ({ engine, backend }) => {
    const lengths = Array.from({ length: 90 }, (_, i) => 2 + i);
    for (const length of [...lengths, 2]) {
      const prompt = toyPrompt(length);
      assertEquals(
        await answerOf(engine.generate(toyRequest(prompt, { maxTokens: 1 }))),
        toyAnswer(prompt, 1),
      );
    }
    assertEquals(backend.plansRecorded, 92);
  });
});

Deno.test("a stop token ends the answer and is not emitted", async () => {
  await withEngine({}, async ({ engine }) => {
    const prompt = toyPrompt(10);
    const expected = toyAnswer(prompt, 20);
    const stopAt = expected.findIndex((token, i) =>
      i >= 3 && !expected.slice(0, i).includes(token)
    );
    const stopTokens = [expected[stopAt]];
    const events = await collect(
      engine.generate(toyRequest(prompt, { maxTokens: 20, stopTokens })),
    );
    assertEquals(
      events.flatMap((event) => event.type === "token" ? [event.token] : []),
      expected.slice(0, stopAt),
    );
    const { reason, stopToken, completionTokens } = lastOf(events);
    assertEquals([reason, stopToken, completionTokens], ["stop", stopTokens[0], stopAt]);
  });
});

Deno.test("max tokens 0 evaluates the prompt only", async () => {
  await withEngine({}, async ({ engine, backend }) => {
    const events = await collect(engine.generate(toyRequest(toyPrompt(40), { maxTokens: 0 })));
    assertEquals(events.map(({ type }) => type), ["started", "prompt", "done"]);
    assertEquals(lastOf(events).reason, "length");
    assertEquals(backend.steps, [16, 16, 8]);
  });
});

Deno.test("the context bounds the answer", async () => {
  await withEngine({ contextLength: 70 }, async ({ engine }) => {
    const prompt = toyPrompt(60);
    const events = await collect(engine.generate(toyRequest(prompt, { maxTokens: 1000 })));
    const { reason, completionTokens } = lastOf(events);
    assertEquals([reason, completionTokens], ["length", 10]);
  });
});

Deno.test("log-probabilities are those of the raw logits, whatever the sampling", async () => {
  await withEngine({ logitRows: 5 }, async ({ engine }) => {
    const prompt = toyPrompt(30);
    const sampling = { ...NEUTRAL_SAMPLING, temperature: 0.7, topP: 0.8, seed: 5 };
    const events = await collect(
      engine.generate(toyRequest(prompt, {
        sampling,
        topLogprobs: 3,
        promptLogprobs: true,
      })),
    );
    const [, first] = events;
    assert(first.type === "prompt" && first.promptLogprobs !== undefined);
    assertEquals(first.promptLogprobs.length, 30);
    assertEquals(first.promptLogprobs[0], null);
    for (let i = 1; i < 30; i++) {
      const logits = toyLogits(prompt.slice(0, i));
      assertEquals(first.promptLogprobs[i], tokenLogprobs(logits, { token: prompt[i], top: 3 }));
    }
    const history = [...prompt];
    for (const event of events) {
      if (event.type !== "token") continue;
      const { chosen, top } = tokenLogprobs(toyLogits(history), { token: event.token, top: 3 });
      assertEquals([event.logprob, event.top], [chosen.logprob, top]);
      history.push(event.token);
    }
    assertEquals(history.length, 38);
  });
});

Deno.test("prompt log-probabilities come with max tokens 0 as well", async () => {
  await withEngine({}, async ({ engine }) => {
    const prompt = toyPrompt(20);
    const [, first] = await collect(
      engine.generate(toyRequest(prompt, { maxTokens: 0, topLogprobs: 0, promptLogprobs: true })),
    );
    assert(first.type === "prompt");
    assertEquals(
      first.promptLogprobs?.slice(1).map((entry) => entry?.chosen.token),
      prompt.slice(1),
    );
  });
});

Deno.test("a seed gives the same answer alone, in company and in other chunks", async () => {
  const sampling = { ...NEUTRAL_SAMPLING, temperature: 1, seed: 11 };
  const request = toyRequest(toyPrompt(50), { sampling, maxTokens: 40 });
  const answers: number[][] = [];
  for (const chunkTokens of [3, 50]) {
    await withEngine({ chunkTokens }, async ({ engine }) => {
      const company = [1, 2, 3].map((seed) =>
        answerOf(engine.generate(toyRequest(toyPrompt(30, seed), { maxTokens: 25 })))
      );
      answers.push(await answerOf(engine.generate(request)));
      await Promise.all(company);
      answers.push(await answerOf(engine.generate(request)));
    });
  }
  for (const answer of answers) assertEquals(answer, answers[0]);
  assert(answers[0].join() !== toyAnswer(request.tokens, 40).join());
});

Deno.test("an aborted request ends with the reason abort and frees its slot within one step", async () => {
  await withEngine({ slots: 1, contextLength: 2000 }, async ({ engine, backend }) => {
    const controller = new AbortController();
    const events: EngineEvent[] = [];
    const request = toyRequest(toyPrompt(20), { maxTokens: 1900 });
    let stepsAtAbort = 0;
    for await (const event of engine.generate(request, { signal: controller.signal })) {
      events.push(event);
      if (events.length === 5) {
        controller.abort();
        stepsAtAbort = backend.steps.length;
        assertEquals(engine.stats().running, 0);
      }
    }
    assertEquals(lastOf(events).reason, "abort");
    const next = toyPrompt(3);
    assertEquals(
      await answerOf(engine.generate(toyRequest(next, { maxTokens: 1 }))),
      toyAnswer(next, 1),
    );
    assert(backend.steps.length - stepsAtAbort <= 2, "the aborted request went on");
  });
});

Deno.test("leaving the loop frees the slot, also while a step runs", async () => {
  await withEngine({ slots: 1, contextLength: 2000 }, async ({ engine, backend }) => {
    backend.stepMs = () => 5;
    for (let i = 0; i < 3; i++) {
      for await (const event of engine.generate(toyRequest(toyPrompt(5, i), { maxTokens: 1000 }))) {
        if (event.type === "token") break;
      }
      assertEquals(engine.stats().running, 0);
    }
    const waiting = engine.generate(toyRequest(toyPrompt(5)))[Symbol.asyncIterator]();
    const first = waiting.next();
    await waiting.return?.();
    assertEquals((await first).done, true);
    const { running, waiting: queued, promptTokens, completionTokens } = engine.stats();
    assertEquals([running, queued, promptTokens, completionTokens], [0, 0, 15, 3]);
  });
});

Deno.test("a waiting request can be aborted, and a signal that has fired starts nothing", async () => {
  await withEngine({ slots: 1, contextLength: 500 }, async ({ engine, backend }) => {
    backend.stepMs = () => 1;
    const running = answerOf(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 50 })));
    const controller = new AbortController();
    const waiting = collect(
      engine.generate(toyRequest(toyPrompt(6)), { signal: controller.signal }),
    );
    await new Promise((resolve) => setTimeout(resolve, 10));
    assertEquals(engine.stats().waiting, 1);
    controller.abort();
    const events = await waiting;
    assertEquals(events.map(({ type }) => type), ["done"]);
    assertEquals(lastOf(events).reason, "abort");
    const again = await collect(
      engine.generate(toyRequest(toyPrompt(7)), { signal: controller.signal }),
    );
    assertEquals(again.map(({ type }) => type), ["done"]);
    assertEquals(await running, toyAnswer(toyPrompt(5), 50));
  });
});

Deno.test("a thousand requests that are left half way leak no slot and no page", async () => {
  await withEngine({ slots: 3, pages: 9, contextLength: 180 }, async ({ engine }) => {
    const leave = async (i: number) => {
      let events = 0;
      const request = toyRequest(toyPrompt(1 + (i * 37) % 120, i), { maxTokens: 40 });
      for await (const _ of engine.generate(request)) if (++events > i % 6) break;
    };
    for (let i = 0; i < 1000; i += 20) {
      await Promise.all(Array.from({ length: 20 }, (_, k) => leave(i + k)));
    }
    const { running, waiting } = engine.stats();
    assertEquals([running, waiting], [0, 0]);
    const prompts = [1, 2, 3].map((seed) => toyPrompt(150, seed));
    const answers = await Promise.all(
      prompts.map((prompt) => answerOf(engine.generate(toyRequest(prompt, { maxTokens: 30 })))),
    );
    assertEquals(answers, prompts.map((prompt) => toyAnswer(prompt, 30)));
  });
});

Deno.test("an error in a step ends its requests with that error, and the engine lives on", async () => {
  await withEngine({ slots: 2 }, async ({ engine }) => {
    const bystander = answerOf(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 60 })));
    const doomed = collect(engine.generate(toyRequest([1, 2, FAULT_TOKEN, 3])));
    const later = answerOf(engine.generate(toyRequest(toyPrompt(9), { maxTokens: 20 })));
    await assertRejects(() => doomed, Error, "the fault token was computed");
    // It shared the step, whose results are lost as a whole.
    await assertRejects(() => bystander, Error, "the fault token was computed");
    assertEquals(await later, toyAnswer(toyPrompt(9), 20));
    assertEquals(engine.stats().running, 0);
  });
});

Deno.test("NaN logits end their own request only", async () => {
  await withEngine({ slots: 2 }, async ({ engine }) => {
    const doomed = collect(engine.generate(toyRequest([1, 2, NAN_TOKEN])));
    const bystander = answerOf(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 20 })));
    await assertRejects(() => doomed, FormatError, "the logit of token 0 is NaN");
    assertEquals(await bystander, toyAnswer(toyPrompt(5), 20));
  });
});

const WRONG_REQUESTS: [string, GenerateRequest, string, string][] = [
  ["without tokens", toyRequest([]), "prompt", "its tokens are none, must be at least one"],
  ["with an id that is no token", toyRequest([3, VOCAB]), "prompt", `is ${VOCAB}, must be`],
  ["with a fraction for an id", toyRequest([1.5]), "prompt", "is 1.5, must be"],
  [
    "with a negative max_tokens",
    toyRequest([1], { maxTokens: -1 }),
    "max_tokens",
    "is -1, must be",
  ],
  ["with half a max_tokens", toyRequest([1], { maxTokens: 0.5 }), "max_tokens", "is 0.5, must be"],
  ["with a wrong stop token", toyRequest([1], { stopTokens: [-5] }), "stop", "is -5, must be"],
  [
    "with wrong top_logprobs",
    toyRequest([1], { topLogprobs: NaN }),
    "top_logprobs",
    "is NaN, must be",
  ],
  [
    "with too many top_logprobs",
    toyRequest([1], { topLogprobs: 1001 }),
    "top_logprobs",
    "is 1001, must be an integer, from 0 to 1000",
  ],
  [
    "with a wrong temperature",
    toyRequest([1], { sampling: { ...NEUTRAL_SAMPLING, temperature: -1 } }),
    "temperature",
    "is -1, must be",
  ],
  [
    "longer than the context",
    toyRequest(toyPrompt(300)),
    "prompt",
    "the prompt is 300 tokens, must be at most 299 (the context length is 300",
  ],
];

for (const [what, request, param, message] of WRONG_REQUESTS) {
  Deno.test(`a request ${what} is a RequestError that names ${param}`, async () => {
    await withEngine({}, async ({ engine }) => {
      const error = await assertRejects(
        () => collect(engine.generate(request)),
        RequestError,
        message,
      );
      assertEquals(error.param, param);
      assertEquals(await answerOf(engine.generate(toyRequest([1]))), toyAnswer([1], 8));
    });
  });
}

Deno.test("a prompt as long as the context is evaluated where no answer is asked for", async () => {
  await withEngine({ contextLength: 64 }, async ({ engine }) => {
    const events = await collect(engine.generate(toyRequest(toyPrompt(64), { maxTokens: 0 })));
    assertEquals(lastOf(events).promptTokens, 64);
    const tooLong = await assertRejects(
      () => collect(engine.generate(toyRequest(toyPrompt(65), { maxTokens: 0 }))),
      RequestError,
      "the prompt is 65 tokens, must be at most 64",
    );
    assertEquals(tooLong.code, "context_length_exceeded");
  });
});

Deno.test("a request that the KV cache never holds is a CapacityError naming both numbers", async () => {
  await withEngine({ pages: 2 }, async ({ engine }) => {
    await assertRejects(
      () => collect(engine.generate(toyRequest(toyPrompt(100), { maxTokens: 29 }))),
      CapacityError,
      "prompt and answer are up to 129 tokens, must be at most 128",
    );
  });
});

Deno.test("a full queue refuses with CapacityError", async () => {
  await withEngine({ slots: 1, maxWaiting: 2 }, async ({ engine }) => {
    const accepted = [1, 2, 3].map((seed) =>
      answerOf(engine.generate(toyRequest(toyPrompt(4, seed))))
    );
    await assertRejects(
      () => collect(engine.generate(toyRequest(toyPrompt(4)))),
      CapacityError,
      "must be fewer than 2",
    );
    assertEquals(
      await Promise.all(accepted),
      [1, 2, 3].map((seed) => toyAnswer(toyPrompt(4, seed), 8)),
    );
    await answerOf(engine.generate(toyRequest(toyPrompt(4))));
  });
});

Deno.test("nothing is queued before the iteration starts", async () => {
  await withEngine({}, async ({ engine }) => {
    engine.generate(toyRequest(toyPrompt(4)));
    await new Promise((resolve) => setTimeout(resolve, 5));
    assertEquals(engine.stats().promptTokens, 0);
  });
});

Deno.test("other tasks of the thread run between steps", async () => {
  await withEngine({ contextLength: 1000 }, async ({ engine, backend }) => {
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    // Steps that hold the thread: without a turn of the event loop no timer would fire.
    backend.stepMs = () => {
      const until = performance.now() + 1;
      while (performance.now() < until);
      return 0;
    };
    await answerOf(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 50 })));
    clearInterval(timer);
    assert(ticks > 5, `the timer fired ${ticks} times`);
  });
});

Deno.test("close lets requests finish, refuses new ones and closes the backend", async () => {
  const { engine, backend } = toyEngine({ slots: 1 });
  const running = answerOf(engine.generate(toyRequest(toyPrompt(5))));
  const waiting = answerOf(engine.generate(toyRequest(toyPrompt(6))));
  const closed = engine.close();
  await assertRejects(
    () => collect(engine.generate(toyRequest([1]))),
    CapacityError,
    "the engine is closing",
  );
  await closed;
  assertEquals(await running, toyAnswer(toyPrompt(5), 8));
  assertEquals(await waiting, toyAnswer(toyPrompt(6), 8));
  assert(backend.closed);
  await engine.close();
});

Deno.test("close aborts what does not finish within the grace", async () => {
  const { engine, backend } = toyEngine({ contextLength: 5000 });
  backend.stepMs = () => 2;
  const events = collect(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 4000 })));
  await engine.close({ graceMs: 20 });
  assertEquals(lastOf(await events).reason, "abort");
  assert(backend.closed);
});
