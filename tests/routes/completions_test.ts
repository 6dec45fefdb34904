import { assert, assertEquals, assertMatch } from "@std/assert";
import { ask, complete, fixture, type Json, stream } from "./_support.ts";

Deno.test("a text completion has OpenAI's shape", async () => {
  const { app } = fixture({ answer: " there" });
  const answer = await complete(app);
  assertMatch(answer.id, /^cmpl-[0-9a-f]{32}$/);
  assertEquals(answer.object, "text_completion");
  assertEquals(answer.choices, [{
    index: 0,
    text: " there",
    logprobs: null,
    finish_reason: "stop",
  }]);
});

Deno.test("a prompt's text is encoded with what the tokenizer puts in front", async () => {
  const { app, engine, tokenizer } = fixture({ family: "tiny_ds" });
  await complete(app, { prompt: "hidden" });
  await complete(app, { prompt: "hidden", add_special_tokens: false });
  const plain = tokenizer.encode("hidden", { addSpecial: false });
  assertEquals(engine.requests[0].tokens, [...tokenizer.prefix, ...plain]);
  assertEquals(tokenizer.prefix.length, 1);
  assertEquals(engine.requests[1].tokens, plain);
});

Deno.test("control tokens in a prompt are plain text unless parse_special asks for them", async () => {
  const { app, engine, tokenizer } = fixture();
  await complete(app, { prompt: "<|im_end|>" });
  await complete(app, { prompt: "<|im_end|>", parse_special: true });
  assert(engine.requests[0].tokens.length > 1);
  assertEquals(tokenizer.decode(engine.requests[0].tokens), "<|im_end|>");
  assertEquals([...engine.requests[1].tokens], tokenizer.encode("<|im_end|>"));
  assertEquals(engine.requests[1].tokens.length, 1);
});

Deno.test("prompts come as a string, strings, token ids or lists of token ids", async () => {
  const cases: [unknown, number][] = [
    ["hi", 1],
    [["hi", "you"], 2],
    [[5, 6, 7], 1],
    [[[5, 6], [7], [8, 9, 10]], 3],
  ];
  for (const [prompt, count] of cases) {
    const { app, engine } = fixture({ answer: (_, index) => `n${index}` });
    const answer = await complete(app, { prompt });
    assertEquals(
      answer.choices.map((choice: Json) => [choice.index, choice.text]),
      Array.from({ length: count }, (_, i) => [i, `n${i}`]),
    );
    if (Array.isArray(prompt) && Array.isArray(prompt[0])) {
      assertEquals(engine.requests.map(({ tokens }) => [...tokens]), prompt);
    }
  }
});

Deno.test("without max_tokens sixteen tokens are generated", async () => {
  const { app, engine } = fixture();
  await complete(app);
  assertEquals(engine.requests[0].maxTokens, 16);
});

Deno.test("n choices of each prompt are numbered prompt by prompt", async () => {
  const { app, engine } = fixture({ answer: ({ tokens }) => `p${tokens.length}` });
  const answer = await complete(app, { prompt: [[5], [6, 7]], n: 2, best_of: 2 });
  assertEquals(answer.choices.map((choice: Json) => choice.text), ["p1", "p1", "p2", "p2"]);
  assertEquals(answer.usage.prompt_tokens, 3);
  assertEquals(engine.requests.length, 4);
});

Deno.test("many prompts never ask the engine for more than it has slots", async () => {
  const { app, engine } = fixture({ slots: 3, tokenMs: 1, capacity: 3, answer: "abc" });
  const answer = await complete(app, { prompt: Array.from({ length: 40 }, (_, i) => [i + 5]) });
  assertEquals(answer.choices.length, 40);
  assertEquals(engine.mostRunning, 3);
});

Deno.test("log-probabilities have OpenAI's older form, with offsets into the text", async () => {
  const { app } = fixture({ answer: "hidden é" });
  const { logprobs, text } = (await complete(app, { logprobs: 2 })).choices[0];
  const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs;
  const count = tokens.length;
  assertEquals([token_logprobs.length, top_logprobs.length, text_offset.length], [
    count,
    count,
    count,
  ]);
  assertEquals(text, "hidden é");
  for (let i = 0; i < count; i++) {
    assertEquals(top_logprobs[i][tokens[i]], token_logprobs[i]);
    assert(Object.keys(top_logprobs[i]).length >= 2);
    if (!tokens[i].startsWith("bytes:")) {
      assertEquals(text.slice(text_offset[i], text_offset[i] + tokens[i].length), tokens[i]);
    }
  }
  assert(tokens.some((token: string) => /^bytes:\\x[0-9a-f]{2}$/.test(token)));
});

Deno.test("logprobs 0 names the chosen token alone", async () => {
  const { app } = fixture({ answer: "ab" });
  const { logprobs } = (await complete(app, { logprobs: 0 })).choices[0];
  assertEquals(logprobs.top_logprobs.map((top: Json) => Object.keys(top)), [["a"], ["b"]]);
});

Deno.test("echo puts the prompt's text in front", async () => {
  const { app } = fixture({ family: "tiny_ds", answer: " you" });
  const text = async (fields: Json) =>
    (await complete(app, { echo: true, ...fields })).choices[0].text;
  assertEquals(await text({ prompt: "hi" }), "hi you");
  assertEquals(await text({ prompt: "hi", max_tokens: 0 }), "hi");
});

Deno.test("scoring a prompt as lm-eval does gives one entry per token and one more", async () => {
  const { app, engine, tokenizer } = fixture({
    // The one token behind the prompt would end the answer; it must be there all the same.
    answer: (request) => [request.tokens.length === 3 ? 507 : 20],
  });
  const prompt = [[5, 6, 7], [8, 9], [10]];
  const answer = await complete(app, {
    prompt,
    max_tokens: 1,
    logprobs: 1,
    echo: true,
    temperature: 0,
    seed: 1234,
  });
  assertEquals(answer.choices.map((choice: Json) => choice.index), [0, 1, 2]);
  for (const [i, tokens] of prompt.entries()) {
    const { logprobs } = answer.choices[i];
    for (const name of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
      assertEquals(logprobs[name].length, tokens.length + 1);
    }
    assertEquals([logprobs.token_logprobs[0], logprobs.top_logprobs[0]], [null, null]);
    for (let t = 1; t <= tokens.length; t++) {
      // In this engine every token is its own argmax.
      const best = Math.max(...Object.values<number>(logprobs.top_logprobs[t]));
      assert(Object.is(best, logprobs.token_logprobs[t]));
    }
  }
  assertEquals(answer.choices[0].logprobs.tokens.at(-1), "<|im_end|>");
  assertEquals(engine.requests[0].stopTokens, []);
  assertEquals(engine.requests[0].promptLogprobs, true);
  assertEquals(tokenizer.eosTokens.includes(507), true);
});

Deno.test("a chosen token that is not the most likely stands beside those that are", async () => {
  const { app } = fixture({ answer: "ab" });
  const { logprobs } = (await complete(app, { prompt: [5, 6], echo: true, logprobs: 1 }))
    .choices[0];
  assertEquals(logprobs.top_logprobs[1], { [logprobs.tokens[1]]: logprobs.token_logprobs[1] });
});

Deno.test("offsets of an echoed string leave out the tokens in front of it", async () => {
  const { app } = fixture({ family: "tiny_ds", answer: "!" });
  const { logprobs } = (await complete(app, { prompt: "hi", echo: true, logprobs: 0 })).choices[0];
  assertEquals(logprobs.tokens, ["<｜begin▁of▁sentence｜>", "h", "i", "!"]);
  assertEquals(logprobs.text_offset, [0, 0, 1, 2]);
});

Deno.test("a streamed completion says the same as a whole one", async () => {
  const { app } = fixture({ answer: "one 🙂 two STOP" });
  const fields = { stop: "STOP", logprobs: 1, echo: true, prompt: "é" };
  const [whole] = (await complete(app, fields)).choices;
  const chunks = await stream(app, "/v1/completions", fields);
  assertEquals(chunks.at(-1), "[DONE]");
  const choices = chunks.slice(0, -1).map((chunk) => chunk.choices[0]);
  assertEquals(choices.map((choice: Json) => choice.text).join(""), whole.text);
  for (const name of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
    assertEquals(
      choices.flatMap((choice: Json) => choice.logprobs?.[name] ?? []),
      whole.logprobs[name],
    );
  }
  assertEquals(choices.at(-1).finish_reason, whole.finish_reason);
});

Deno.test("streamed usage counts every prompt once and every answer", async () => {
  const { app } = fixture({ answer: "ab" });
  const chunks = await stream(app, "/v1/completions", {
    prompt: [[5, 6], [7]],
    n: 2,
    stream_options: { include_usage: true },
  });
  const { usage } = chunks.at(-2);
  assertEquals([usage.prompt_tokens, usage.completion_tokens], [3, 8]);
});

Deno.test("stop strings come in a list of up to sixteen", async () => {
  const { app } = fixture({ answer: "Question: a\n\nb" });
  const stop = Array.from({ length: 15 }, (_, i) => `nothing ${i}`);
  const answer = await complete(app, { stop: [...stop, "\n\n"] });
  assertEquals(answer.choices[0].text, "Question: a");
});

Deno.test("ignore_eos goes on where the model would end", async () => {
  const { app } = fixture({ answer: [72, 507, 73] });
  assertEquals((await complete(app)).usage.completion_tokens, 1);
  const answer = await complete(app, { ignore_eos: true });
  assertEquals(answer.usage.completion_tokens, 3);
  assertEquals(answer.choices[0].text.includes("<|im_end|>"), false);
});

Deno.test("tokenizer_info, tokenize and detokenize serve a remote tokenizer", async () => {
  const { app, tokenizer } = fixture({ family: "tiny_ds" });
  const info = await (await app.request("/tokenizer_info")).json();
  assertEquals([info.bos_token, info.eos_token, info.pad_token], [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
  ]);
  assert(info.chat_template.includes("add_generation_prompt"));
  const text = "hidden 🙂<｜end▁of▁sentence｜>";
  const { tokens } = await ask(app, "/tokenize", {
    body: { prompt: text, add_special_tokens: false },
  });
  assertEquals(tokens, tokenizer.encode(text, { addSpecial: false, parseSpecial: true }));
  assertEquals((await ask(app, "/detokenize", { body: { tokens } })).prompt, text);
  const withBos = await ask(app, "/v1/tokenize", { body: { prompt: "hi" } });
  assertEquals(withBos.tokens[0], tokenizer.bosToken);
});
