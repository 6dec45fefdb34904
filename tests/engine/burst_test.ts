/** Where a backend chooses tokens by itself, answers are the same and steps wait for nobody. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { BURST_TOKENS, turnsOf } from "../../src/engine/burst.ts";
import { FormatError, RequestError } from "../../src/errors.ts";
import type { EngineEvent, GenerateRequest } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../src/sampling/types.ts";
import { collect, toyAnswer, toyEngine, toyRequest, VOCAB } from "./toy.ts";

const PROMPT = [3, 1, 4, 1, 5, 9, 2, 6];

function tokensOf(events: readonly EngineEvent[]): number[] {
  return events.flatMap((event) => event.type === "token" ? [event.token] : []);
}

Deno.test("a burst's turns compute each sequence's rows in order, the longest first", () => {
  const row = (sequence: number, position: number) => ({
    ...{ sequence, slot: sequence, position, token: 0, wantsLogits: true },
  });
  const rows = [row(7, 4), row(7, 5), row(8, 1), row(9, 2), row(9, 3), row(9, 4)];
  assertEquals(turnsOf(rows), [[3, 0, 2], [4, 1], [5]]);
});

Deno.test("a greedy answer is that of single steps, and the host waits for few of its tokens", async () => {
  const { engine, backend } = toyEngine({ chooses: true });
  let waits = 0;
  const read = backend.readIntegers.bind(backend);
  backend.readIntegers = (buffer, options) => {
    waits++;
    return read(buffer, options);
  };
  const count = 3 * BURST_TOKENS + 9;
  const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: count })));
  assertEquals(tokensOf(events), toyAnswer(PROMPT, count));
  assert(waits < count / 4, `${waits} waits`);
  await engine.close({ graceMs: 0 });
});

Deno.test("nothing behind a stop token is shown, and what was computed behind it harms nobody", async () => {
  const { engine } = toyEngine({ chooses: true });
  for (const length of [2, BURST_TOKENS, BURST_TOKENS + 3]) {
    const answer = toyAnswer(PROMPT, length);
    const stop = answer[length - 1];
    const shown = answer.slice(0, answer.indexOf(stop));
    const request = toyRequest(PROMPT, { maxTokens: 60, stopTokens: [stop] });
    const events = await collect(engine.generate(request));
    assertEquals(tokensOf(events), shown);
    const done = events.at(-1);
    assert(done?.type === "done" && done.reason === "stop" && done.stopToken === stop);
  }
  await engine.close({ graceMs: 0 });
});

Deno.test("answers of different lengths side by side, some sampled, are as each alone", async () => {
  const requests = [
    toyRequest([1, 2, 3], { maxTokens: 7 }),
    toyRequest([4, 5], { maxTokens: 41 }),
    toyRequest([6, 7, 8, 9], { maxTokens: 23 }),
    toyRequest([2, 2, 2], {
      maxTokens: 12,
      sampling: { ...NEUTRAL_SAMPLING, temperature: 0.8, seed: 5 },
    }),
    toyRequest([8, 1], { maxTokens: 30 }),
  ];
  const plain = toyEngine();
  const alone: number[][] = [];
  for (const request of requests) {
    alone.push(tokensOf(await collect(plain.engine.generate(request))));
  }
  const { engine } = toyEngine({ chooses: true });
  const together = await Promise.all(
    requests.map(async (request) => tokensOf(await collect(engine.generate(request)))),
  );
  assertEquals(together, alone);
  assertEquals(engine.stats().pages.used, 0);
  await plain.engine.close({ graceMs: 0 });
  await engine.close({ graceMs: 0 });
});

Deno.test("an answer goes on over pages that the burst needs ahead, up to the context's end", async () => {
  const { engine } = toyEngine({ chooses: true, contextLength: 150, pages: 3, slots: 2 });
  const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: 142 })));
  assertEquals(tokensOf(events), toyAnswer(PROMPT, 142));
  await engine.close({ graceMs: 0 });
});

const SAMPLING: readonly Partial<SamplingParams>[] = [
  { temperature: 1.1, topP: 0.9 },
  { temperature: 0.7, topK: 12, minP: 0.03 },
  { temperature: 2, repetitionPenalty: 1.4, frequencyPenalty: 0.2 },
  { presencePenalty: 1.5, logitBias: [[7, 2.5], [8, -Infinity]] },
  { temperature: 1, logitBias: [[20, 4]] },
  {},
];

/** Requests that differ in their prompts, and in how their tokens are chosen. */
function sampledRequests(maxTokens: number) {
  return SAMPLING.map((sampling, i) =>
    toyRequest([...PROMPT, i, i + 1], {
      maxTokens: maxTokens + 5 * i,
      sampling: { ...NEUTRAL_SAMPLING, ...sampling, seed: 70 + i },
    })
  );
}

async function answersAlone(requests: readonly GenerateRequest[]): Promise<number[][]> {
  const { engine } = toyEngine({ contextLength: 512 });
  const answers: number[][] = [];
  for (const request of requests) answers.push(tokensOf(await collect(engine.generate(request))));
  await engine.close({ graceMs: 0 });
  return answers;
}

Deno.test("a seed gives the same text in bursts as in single steps, whatever filters and penalties", async () => {
  const requests = sampledRequests(70);
  const alone = await answersAlone(requests);
  for (const slots of [1, 6]) {
    const { engine, backend } = toyEngine({ chooses: true, slots });
    const answers = await Promise.all(
      requests.map(async (request) => tokensOf(await collect(engine.generate(request)))),
    );
    assertEquals(answers, alone);
    // One read of logits for each step without a burst: those with prompts.
    assert(backend.logitReads < 70, `${backend.logitReads} steps waited for the host`);
    await engine.close({ graceMs: 0 });
  }
});

Deno.test("a seed gives the same text where bursts and single steps take turns", async () => {
  const requests = sampledRequests(200);
  const alone = await answersAlone(requests);
  const { engine, backend } = toyEngine({ chooses: true, slots: 7, contextLength: 512 });
  let shown = 0;
  const answers = requests.map(async (request) => {
    const tokens: number[] = [];
    for await (const event of engine.generate(request)) {
      if (event.type !== "token") continue;
      tokens.push(event.token);
      // Log-probabilities are read step by step, of all that runs beside them.
      if (++shown % 300 > 0) continue;
      const prompt = [shown % 50, 3];
      const scored = toyRequest(prompt, { maxTokens: 7, topLogprobs: 1 });
      assertEquals(tokensOf(await collect(engine.generate(scored))), toyAnswer(prompt, 7));
    }
    return tokens;
  });
  assertEquals(await Promise.all(answers), alone);
  const most = alone.length + 7 * Math.floor(shown / 300);
  assert(backend.logitReads > 14 && backend.logitReads <= most, `${backend.logitReads} reads`);
  await engine.close({ graceMs: 0 });
});

Deno.test("what is discarded behind a stop token has drawn nothing, and a bias of nothing but -Infinity is named", async () => {
  const { engine } = toyEngine({ chooses: true });
  const sampling = { ...NEUTRAL_SAMPLING, temperature: 1, seed: 4 };
  const [answer] = await answersAlone([toyRequest(PROMPT, { maxTokens: 40, sampling })]);
  const stop = answer[20];
  const shown = answer.slice(0, answer.indexOf(stop));
  const request = toyRequest(PROMPT, { maxTokens: 40, sampling, stopTokens: [stop] });
  assertEquals(tokensOf(await collect(engine.generate(request))), shown);
  const logitBias = Array.from({ length: VOCAB }, (_, token) => [token, -Infinity] as const);
  const none = toyRequest(PROMPT, { maxTokens: 4, sampling: { ...sampling, logitBias } });
  await assertRejects(() => collect(engine.generate(none)), RequestError, "one must be finite");
  await engine.close({ graceMs: 0 });
});

Deno.test("answers that give way for want of pages and are computed again are as alone", async () => {
  const requests = sampledRequests(400).slice(0, 3);
  const alone = await answersAlone(requests);
  const { engine } = toyEngine({ chooses: true, slots: 3, contextLength: 512, pages: 16 });
  const answers = await Promise.all(
    requests.map(async (request) => tokensOf(await collect(engine.generate(request)))),
  );
  assertEquals(answers, alone);
  assert(engine.stats().preemptions > 0, "nobody had to give way");
  assertEquals(engine.stats().pages.used, 0);
  await engine.close({ graceMs: 0 });
});

Deno.test("logits that are no numbers end the request by name, and the next one is right", async () => {
  const { engine, backend } = toyEngine({ chooses: true });
  const read = backend.readIntegers.bind(backend);
  backend.readIntegers = async (buffer, options) => (await read(buffer, options)).fill(-1);
  const answer = collect(engine.generate(toyRequest(PROMPT, { maxTokens: 9 })));
  await assertRejects(
    () => answer,
    FormatError,
    "cannot choose a token: a logit is NaN or infinite",
  );
  backend.readIntegers = read;
  const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: 20 })));
  assertEquals(tokensOf(events), toyAnswer(PROMPT, 20));
  await engine.close({ graceMs: 0 });
});
