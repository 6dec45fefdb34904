import { assert, assertEquals, assertRejects } from "@std/assert";
import { ExpertReadError, RequestError } from "../../src/errors.ts";
import { RoutingCounter, RoutingRows, summariseLoad } from "../../src/engine/routing.ts";
import type { EngineEvent, GenerateRequest, TokenRouting } from "../../src/engine/types.ts";
import {
  answerOf,
  collect,
  TOY_ROUTED_LAYERS,
  toyAnswer,
  toyEngine,
  type ToyEngineOptions,
  toyPrompt,
  toyRequest,
  toyRouting,
} from "./toy.ts";

const MIXTURE: ToyEngineOptions = { routed: TOY_ROUTED_LAYERS };
const CHOICES = 5;

/** What the toy's gates choose for tokens `from..` of a text, in the engine's form. */
function expected(tokens: readonly number[], from = 0): TokenRouting {
  const rows = tokens.slice(from).map((_, i) => toyRouting(tokens.slice(0, from + i + 1)));
  return {
    experts: Int32Array.from(rows.flatMap(({ experts }) => experts)),
    weights: Float32Array.from(rows.flatMap(({ weights }) => weights)),
  };
}

/** Routing events joined in order. */
function answerRouting(events: readonly EngineEvent[]): TokenRouting {
  const all = events.flatMap((event) => event.type === "routing" ? [event.routing] : []);
  return {
    experts: Int32Array.from(all.flatMap(({ experts }) => [...experts])),
    weights: Float32Array.from(all.flatMap(({ weights }) => [...weights])),
  };
}

function promptRouting(events: readonly EngineEvent[]): TokenRouting | undefined {
  const prompt = events.find((event) => event.type === "prompt");
  assert(prompt?.type === "prompt");
  return prompt.routing;
}

async function run(
  options: ToyEngineOptions,
  request: GenerateRequest,
): Promise<{ events: EngineEvent[]; reads: { rows: number; weights: boolean }[] }> {
  const { engine, backend } = toyEngine({ ...MIXTURE, ...options });
  try {
    const events = await collect(engine.generate(request));
    return { events, reads: backend.routingReads };
  } finally {
    await engine.close();
  }
}

Deno.test("a token's routing is that of its own row, and follows its token event", async () => {
  const prompt = toyPrompt(40);
  const answer = toyAnswer(prompt, 6);
  const request = toyRequest(prompt, { maxTokens: 6, routedExperts: "all" });
  const { events } = await run({}, request);
  assertEquals(promptRouting(events), expected(prompt));
  // The sixth token is never fed in.
  assertEquals(answerRouting(events), expected([...prompt, ...answer.slice(0, 5)], prompt.length));
  assertEquals(
    events.map(({ type }) => type).join(" "),
    `started prompt token ${"routing token ".repeat(5)}done`,
  );
});

Deno.test("the last token has a routing where a stop token followed it", async () => {
  const prompt = toyPrompt(5);
  const answer = toyAnswer(prompt, 8);
  const stop = answer.findIndex((token, i) => i >= 3 && answer.indexOf(token) === i);
  const request = toyRequest(prompt, {
    stopTokens: [answer[stop]],
    routedExperts: "completion",
  });
  const { events } = await run({}, request);
  assertEquals(events.filter(({ type }) => type === "token").length, stop);
  const tokens = [...prompt, ...answer.slice(0, stop)];
  assertEquals(answerRouting(events), expected(tokens, prompt.length));
  assertEquals(promptRouting(events), undefined);
});

Deno.test("routing is the same in chunks, beside others and after giving way", async () => {
  const { engine } = toyEngine({ ...MIXTURE, chunkTokens: 7, contextLength: 200, pages: 6 });
  try {
    const prompts = [toyPrompt(60, 1), toyPrompt(61, 2), toyPrompt(62, 3)];
    const all = await Promise.all(prompts.map((prompt) =>
      collect(
        engine.generate(toyRequest(prompt, { maxTokens: 120, routedExperts: "all" })),
      )
    ));
    for (const [i, prompt] of prompts.entries()) {
      const answer = toyAnswer(prompt, 120);
      assertEquals(promptRouting(all[i]), expected(prompt));
      assertEquals(
        answerRouting(all[i]),
        expected([...prompt, ...answer.slice(0, 119)], prompt.length),
      );
    }
  } finally {
    await engine.close();
  }
});

Deno.test("nothing is read where nobody asked and counting is off", async () => {
  const request = toyRequest(toyPrompt(30));
  const { events, reads } = await run({ countRouting: false }, request);
  assertEquals(reads, []);
  assertEquals(answerRouting(events).experts.length, 0);
});

Deno.test("weights are read in those steps only that have a row they are wanted of", async () => {
  const request = toyRequest(toyPrompt(30), { maxTokens: 3, routedExperts: "completion" });
  const { reads } = await run({ countRouting: false }, request);
  // Two steps of the prompt without, two tokens fed in with: ids and weights of two layers.
  assertEquals(reads.map(({ rows }) => rows), Array(8).fill(1));
  assertEquals(reads.filter(({ weights }) => weights).length, 4);
});

Deno.test("a dense model refuses to return routed experts", async () => {
  const { engine } = toyEngine();
  const request = toyRequest([1], { routedExperts: "completion" });
  const error = await assertRejects(
    () => collect(engine.generate(request)),
    RequestError,
    "the model is dense",
  );
  assertEquals([error.status, error.param], [400, "return_routed_experts"]);
  assertEquals(await engine.routingStats(), { counting: false, tokens: 0, layers: [] });
  await engine.close();
});

Deno.test("the engine counts what the gates choose for every row", async () => {
  const { engine, backend } = toyEngine(MIXTURE);
  const { stepMs } = backend;
  backend.traffic = [{
    layer: 3,
    resident: 4,
    hits: 5,
    prefetched: 6,
    misses: 7,
    predictions: { made: 10, right: 9 },
    bytesRead: 8,
  }];
  const prompt = toyPrompt(50);
  const answer = await answerOf(engine.generate(toyRequest(prompt, { maxTokens: 20 })));
  const rows = expected([...prompt, ...answer.slice(0, 19)]).experts;
  const stats = await engine.routingStats();
  assertEquals([stats.counting, stats.tokens, stats.layers.length], [true, 69, 2]);
  for (const [i, { experts, load }] of stats.layers.entries()) {
    const own = [...rows].filter((_, at) => i === 0 ? at % CHOICES < 2 : at % CHOICES >= 2);
    assertEquals(
      load,
      Array.from({ length: experts }, (_, id) => own.filter((chosen) => chosen === id).length),
    );
  }
  assertEquals(stats.layers.map(({ traffic }) => traffic), [
    undefined,
    {
      ...{ resident: 4, hits: 5, prefetched: 6, misses: 7, bytesRead: 8 },
      predictions: { made: 10, right: 9 },
    },
  ]);
  backend.stepMs = stepMs;
  await engine.close();
});

Deno.test("counting reads ids and no weights", async () => {
  const { reads } = await run({}, toyRequest(toyPrompt(20), { maxTokens: 2 }));
  assertEquals(reads, [16, 16, 4, 4, 1, 1].map((rows) => ({ rows, weights: false })));
});

Deno.test("a failed read of experts ends the requests of its step; the engine goes on", async () => {
  const { engine, backend } = toyEngine(MIXTURE);
  const lost = new ExpertReadError("cannot read experts of layer 3: the file ends at 7");
  let steps = 0;
  backend.stepMs = () => {
    if (++steps === 4) throw lost;
    return 0;
  };
  const first = collect(engine.generate(toyRequest(toyPrompt(5), { maxTokens: 50 })));
  await assertRejects(() => first, ExpertReadError, "the file ends at 7");
  const prompt = toyPrompt(9, 4);
  assertEquals(await answerOf(engine.generate(toyRequest(prompt))), toyAnswer(prompt, 8));
  assertEquals(engine.stats().running, 0);
  await engine.close();
});

Deno.test("a plan that fails behind submit ends its requests even in steps without logits", async () => {
  const { engine, backend } = toyEngine(MIXTURE);
  const read = backend.read.bind(backend);
  let failing = true;
  backend.read = async (...args) => {
    if (failing) {
      failing = false;
      throw new ExpertReadError("cannot read experts: the source is gone");
    }
    return await read(...args);
  };
  // Three chunks: the first one wants no logits.
  const failed = collect(engine.generate(toyRequest(toyPrompt(40))));
  await assertRejects(() => failed, ExpertReadError, "the source is gone");
  assertEquals(backend.steps, [16]);
  await engine.close();
});

Deno.test("the summary of a load knows even, uneven and unused experts", () => {
  assertEquals(summariseLoad([3, 3, 3, 3]), { maxOverMean: 1, entropy: 2, dead: [] });
  assertEquals(summariseLoad([8, 0, 0, 0]), { maxOverMean: 4, entropy: 0, dead: [1, 2, 3] });
  assertEquals(summariseLoad([2, 1, 1, 0]), { maxOverMean: 2, entropy: 1.5, dead: [3] });
  assertEquals(summariseLoad([0, 0]), { maxOverMean: null, entropy: null, dead: [0, 1] });
});

Deno.test("rows of routing hold layer after layer", () => {
  const rows = new RoutingRows(TOY_ROUTED_LAYERS, 2);
  const step = {
    experts: [Int32Array.of(1, 2, 3, 4), Int32Array.of(5, 6, 7, 8, 9, 10)],
    weights: [Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6, 7, 8, 9, 10)],
  };
  rows.push(step, 1);
  assertEquals([...rows.take().experts], [3, 4, 8, 9, 10]);
  rows.push(step, 0);
  assertEquals([...rows.take().weights], [3, 4, 8, 9, 10, 1, 2, 5, 6, 7]);
  const counter = new RoutingCounter(TOY_ROUTED_LAYERS);
  counter.add(step, 2);
  const { layers, tokens } = counter.stats({ counting: true, traffic: [] });
  assertEquals(tokens, 2);
  assertEquals(layers[0].load, [0, 1, 1, 1, 1, 0, 0, 0]);
});
