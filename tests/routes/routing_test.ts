import { assert, assertEquals } from "@std/assert";
import { ExpertReadError } from "../../src/errors.ts";
import {
  chat,
  complete,
  type Fixture,
  fixture,
  type FixtureOptions,
  post,
  stream,
} from "./_support.ts";
import type { Json } from "./_support.ts";

const LAYERS = [{ layer: 1, experts: 8, topK: 2 }, { layer: 2, experts: 4, topK: 1 }];

function mixture(options: FixtureOptions = {}): Fixture {
  return fixture({ routedLayers: LAYERS, answer: [10, 11, 12, 13], ...options });
}

/** What the fake engine's gates choose for a token. */
const ids = (token: number) => [[token % 8, (token + 1) % 8], [token % 4]];

Deno.test("return_routed_experts lists ids and weights by token, layer and rank", async () => {
  const { app, engine } = mixture();
  const answer = await chat(app, { return_routed_experts: true, max_tokens: 3 });
  const [choice] = answer.choices;
  assertEquals(choice.finish_reason, "length");
  // The third token has not been fed in.
  assertEquals(choice.routed_experts, [ids(10), ids(11)]);
  // Tenths as float32 has them, in nine digits.
  const weights = [[0.100000001, 0.200000003], [0.100000001]];
  assertEquals(choice.routed_expert_weights, [weights, weights]);
  assert(!("prompt_routed_experts" in answer));
  assertEquals(engine.requests[0].routedExperts, "completion");
});

Deno.test("an answer that a stop token ends has a routing for each of its tokens", async () => {
  const { app, tokenizer } = mixture({ answer: "Hello" });
  const { choices, usage } = await chat(app, { return_routed_experts: true });
  const tokens = tokenizer.encode("Hello", { addSpecial: false });
  assertEquals(usage.completion_tokens, tokens.length);
  assertEquals(choices[0].routed_experts, tokens.map(ids));
});

Deno.test("nobody gets routing who did not ask, and the engine is not asked either", async () => {
  const { app, engine } = mixture();
  for (
    const answer of [
      await chat(app, { return_routed_experts: false }),
      await complete(app, { return_routed_experts: null }),
    ]
  ) {
    assertEquals(Object.keys(answer).filter((key) => key.includes("routed")), []);
    assertEquals(Object.keys(answer.choices[0]).filter((key) => key.includes("routed")), []);
  }
  assertEquals(engine.requests.map(({ routedExperts }) => routedExperts), [undefined, undefined]);
});

Deno.test("a chat's prompt has its routing once, beside the choices", async () => {
  const { app, engine } = mixture();
  const answer = await chat(app, { return_prompt_routed_experts: true, n: 2, max_tokens: 2 });
  const { tokens } = engine.requests[0];
  assertEquals(answer.prompt_routed_experts, tokens.map(ids));
  assertEquals(answer.prompt_routed_expert_weights.length, tokens.length);
  assertEquals(engine.requests.map(({ routedExperts }) => routedExperts), ["all", "completion"]);
  for (const choice of answer.choices) assertEquals(choice.routed_experts, [ids(10)]);
});

Deno.test("each choice of a completion has its own prompt's routing", async () => {
  const { app } = mixture();
  const prompt = [[1, 2, 3], [4, 5]];
  const { choices } = await complete(app, {
    prompt,
    return_prompt_routed_experts: true,
    max_tokens: 1,
  });
  assertEquals(
    choices.map((choice: Json) => choice.prompt_routed_experts),
    prompt.map((tokens) => tokens.map(ids)),
  );
  assertEquals(choices.map((choice: Json) => choice.routed_experts), [[], []]);
});

Deno.test("a stream tells each token's routing with the token after it", async () => {
  const { app, engine } = mixture({ answer: "Hello there" });
  const chunks = await stream(app, "/v1/chat/completions", {
    return_routed_experts: true,
    return_prompt_routed_experts: true,
  });
  assertEquals(chunks[0].prompt_routed_experts, engine.requests[0].tokens.map(ids));
  assertEquals(chunks[0].choices[0].delta.role, "assistant");
  const routed = chunks.filter((chunk: Json) => chunk !== "[DONE]")
    .map((chunk: Json) => chunk.choices[0].routed_experts);
  assertEquals(routed[0], undefined);
  // The first delta has none yet, the others have one token each.
  assertEquals(routed[1], undefined);
  const { choices } = await chat(app, { return_routed_experts: true });
  assertEquals(routed.flatMap((part: Json) => part ?? []), choices[0].routed_experts);
  assert(routed.filter((part: Json) => part?.length === 1).length >= 2);
});

Deno.test("a streamed completion tells its prompt's routing first, even without echo", async () => {
  const { app } = mixture();
  const chunks = await stream(app, "/v1/completions", {
    prompt: [7, 8],
    return_prompt_routed_experts: true,
    max_tokens: 3,
  });
  const [first] = chunks[0].choices;
  assertEquals([first.text, first.prompt_routed_experts], ["", [ids(7), ids(8)]]);
  const rest = chunks.slice(1, -1).flatMap((chunk: Json) => chunk.choices[0].routed_experts ?? []);
  assertEquals(rest, [ids(10), ids(11)]);
});

Deno.test("a stop string cuts text off, and no routing", async () => {
  const { app, engine } = mixture({ answer: "one two three" });
  const { choices, usage } = await chat(app, { return_routed_experts: true, stop: [" two"] });
  assertEquals(choices[0].message.content, "one");
  assertEquals(choices[0].routed_experts.length, usage.completion_tokens - 1);
  assertEquals(engine.requests.length, 1);
});

Deno.test("a dense model answers 400, streamed or not, and says why", async () => {
  const { app, engine } = fixture();
  for (const field of ["return_routed_experts", "return_prompt_routed_experts"]) {
    for (const streamed of [true, false]) {
      const { error } = await chat(app, { [field]: true, stream: streamed }, 400);
      assertEquals([error.param, error.code], ["return_routed_experts", "no_routed_experts"]);
      assert(error.message.includes("the model is dense"), error.message);
    }
  }
  assertEquals(engine.requests, []);
  const { error } = await chat(app, { return_routed_experts: 1 }, 400);
  assertEquals(error.param, "return_routed_experts");
});

Deno.test("weights that cannot be read are a 503 that hides where they lie, and a fault", async () => {
  const lost = new ExpertReadError("cannot read experts of layer 3: /secret/model.gguf is gone");
  const { app, faults } = mixture({ answer: [lost] });
  const response = await post(app, "/v1/completions", { prompt: "hi" });
  assertEquals([response.status, response.headers.get("retry-after")], [503, "1"]);
  const { error } = await response.json();
  assertEquals([error.type, error.code], ["server_error", "expert_read_failed"]);
  assert(!error.message.includes("secret"));
  assertEquals(faults, [lost]);
});

Deno.test("a stream whose weights cannot be read ends with an error event", async () => {
  const lost = new ExpertReadError("cannot read experts of layer 3: the file ends at 7");
  const { app, faults } = mixture({ answer: [10, 11, lost], tokenMs: 60 });
  const chunks = await stream(app, "/v1/completions", { prompt: "hi" });
  assertEquals(chunks.at(-1).error.code, "expert_read_failed");
  assert(!chunks.includes("[DONE]"));
  assertEquals(faults, [lost]);
});

Deno.test("what the model's makers recommend holds where the request says nothing", async () => {
  const { app, engine } = mixture({
    defaultSampling: { temperature: 0.25, topP: 0.5, topK: 7, minP: 0.1, repetitionPenalty: 1.5 },
  });
  await chat(app);
  await chat(app, { temperature: 1.5, top_p: 1, top_k: -1, min_p: 0, repetition_penalty: 1 });
  const picked = engine.requests.map(({ sampling }) => {
    const { temperature, topP, topK, minP, repetitionPenalty } = sampling;
    return [temperature, topP, topK, minP, repetitionPenalty];
  });
  assertEquals(picked, [[0.25, 0.5, 7, 0.1, 1.5], [1.5, 1, 0, 0, 1]]);
});
