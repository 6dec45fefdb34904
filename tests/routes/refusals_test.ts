import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { fixture, type Json, post, USER } from "./_support.ts";

/** Fields, and the name of the field that the refusal must carry. */
type Case = [fields: Json, param: string];

const LONG = "x".repeat(1001);

/** Wrong for chat and text completions alike. */
const COMMON: Case[] = [
  [{ temperature: -0.1 }, "temperature"],
  [{ temperature: 2.1 }, "temperature"],
  [{ temperature: "1" }, "temperature"],
  [{ temperature: [1] }, "temperature"],
  [{ temperature: true }, "temperature"],
  [{ top_p: -0.1 }, "top_p"],
  [{ top_p: 1.1 }, "top_p"],
  [{ top_p: {} }, "top_p"],
  [{ top_k: -2 }, "top_k"],
  [{ top_k: 1.5 }, "top_k"],
  [{ top_k: "5" }, "top_k"],
  [{ min_p: 1.1 }, "min_p"],
  [{ min_p: -0.1 }, "min_p"],
  [{ repetition_penalty: 0 }, "repetition_penalty"],
  [{ repetition_penalty: -1 }, "repetition_penalty"],
  [{ repetition_penalty: 1e9 }, "repetition_penalty"],
  [{ presence_penalty: 2.5 }, "presence_penalty"],
  [{ presence_penalty: "0" }, "presence_penalty"],
  [{ frequency_penalty: -2.5 }, "frequency_penalty"],
  [{ frequency_penalty: [] }, "frequency_penalty"],
  [{ logit_bias: [] }, "logit_bias"],
  [{ logit_bias: "12" }, "logit_bias"],
  [{ logit_bias: { a: 1 } }, "logit_bias"],
  [{ logit_bias: { "-1": 1 } }, "logit_bias"],
  [{ logit_bias: { "512": 1 } }, "logit_bias"],
  [{ logit_bias: { "1e1": 1 } }, "logit_bias"],
  [{ logit_bias: { "5": 101 } }, "logit_bias.5"],
  [{ logit_bias: { "5": "1" } }, "logit_bias.5"],
  [
    { logit_bias: Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [`0${i}`, 1])) },
    "logit_bias",
  ],
  [{ n: 0 }, "n"],
  [{ n: 129 }, "n"],
  [{ n: 1.5 }, "n"],
  [{ n: "2" }, "n"],
  [{ seed: "1" }, "seed"],
  [{ seed: 1.5 }, "seed"],
  [{ seed: 2 ** 60 }, "seed"],
  [{ stop: 5 }, "stop"],
  [{ stop: "" }, "stop"],
  [{ stop: {} }, "stop"],
  [{ stop: Array(17).fill("a") }, "stop"],
  [{ stop: ["a", ""] }, "stop[1]"],
  [{ stop: ["a", 5] }, "stop[1]"],
  [{ stop: [LONG] }, "stop[0]"],
  [{ max_tokens: -1 }, "max_tokens"],
  [{ max_tokens: 1.5 }, "max_tokens"],
  [{ max_tokens: "10" }, "max_tokens"],
  [{ max_tokens: 2 ** 40 }, "max_tokens"],
  [{ stream: "true" }, "stream"],
  [{ stream: 1 }, "stream"],
  [{ stream_options: [] }, "stream_options"],
  [{ stream_options: { include_usage: "yes" } }, "stream_options.include_usage"],
  [{ user: 5 }, "user"],
  [{ model: 5 }, "model"],
  [{ ignore_eos: 1 }, "ignore_eos"],
  [{ tools: [{ type: "function" }] }, "tools"],
  [{ functions: [{ name: "f" }] }, "functions"],
  [{ tool_choice: "required" }, "tool_choice"],
  [{ tool_choice: { type: "function" } }, "tool_choice"],
  [{ function_call: { name: "f" } }, "function_call"],
  [{ response_format: { type: "json_object" } }, "response_format"],
  [{ response_format: { type: "json_schema", json_schema: {} } }, "response_format"],
  [{ response_format: "text" }, "response_format"],
  [{ guided_json: {} }, "guided_json"],
  [{ grammar: "root ::= a" }, "grammar"],
  [{ modalities: ["text", "audio"] }, "modalities"],
  [{ audio: { voice: "a" } }, "audio"],
  [{ web_search_options: {} }, "web_search_options"],
  [{ reasoning_effort: "high" }, "reasoning_effort"],
  [{ thinking: { type: "disabled" } }, "thinking"],
  [{ chat_template: "{{ x }}" }, "chat_template"],
  [{ chat_template_kwargs: { enable_thinking: false } }, "chat_template_kwargs"],
  [{ min_tokens: 5 }, "min_tokens"],
  [{ stop_token_ids: [5] }, "stop_token_ids"],
  [{ use_beam_search: true }, "use_beam_search"],
  [{ typical_p: 0.5 }, "typical_p"],
  [{ skip_special_tokens: false }, "skip_special_tokens"],
  [{ prompt_logprobs: 1 }, "prompt_logprobs"],
];

const CHAT: Case[] = [
  [{ messages: null }, "messages"],
  [{ messages: [] }, "messages"],
  [{ messages: "hi" }, "messages"],
  [{ messages: {} }, "messages"],
  [{ messages: ["hi"] }, "messages[0]"],
  [{ messages: [null] }, "messages[0]"],
  [{ messages: [[]] }, "messages[0]"],
  [{ messages: [{ content: "hi" }] }, "messages[0].role"],
  [{ messages: [{ role: "robot", content: "hi" }] }, "messages[0].role"],
  [{ messages: [{ role: 5, content: "hi" }] }, "messages[0].role"],
  [{ messages: [{ role: "user" }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: null }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: 5 }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: {} }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: [5] }] }, "messages[0].content[0]"],
  [{ messages: [{ role: "user", content: [{ type: "text" }] }] }, "messages[0].content[0]"],
  [{ messages: [{ role: "user", content: [{ text: "a" }] }] }, "messages[0].content[0]"],
  [
    { messages: [USER[0], { role: "user", content: [{ type: "image_url", image_url: {} }] }] },
    "messages[1].content[0]",
  ],
  [
    { messages: [{ role: "user", content: [{ type: "input_audio" }] }] },
    "messages[0].content[0]",
  ],
  [{ messages: [{ role: "user", content: "a", name: 5 }] }, "messages[0].name"],
  [
    { messages: [{ role: "assistant", tool_calls: [{ id: "1" }] }] },
    "messages[0].tool_calls",
  ],
  [{ messages: [{ role: "assistant", content: "a", prefix: true }] }, "messages[0].prefix"],
  [{ messages: [{ role: "assistant", content: "a", audio: {} }] }, "messages[0].audio"],
  [{ messages: Array(4097).fill(USER[0]) }, "messages"],
  [{ logprobs: 5 }, "logprobs"],
  [{ logprobs: true, top_logprobs: 21 }, "top_logprobs"],
  [{ logprobs: true, top_logprobs: -1 }, "top_logprobs"],
  [{ top_logprobs: 2 }, "top_logprobs"],
  [{ logprobs: false, top_logprobs: 2 }, "top_logprobs"],
  [{ max_tokens: 0 }, "max_tokens"],
  [{ max_completion_tokens: 0 }, "max_completion_tokens"],
  [{ max_completion_tokens: 5, max_tokens: 6 }, "max_tokens"],
  [{ echo: true }, "echo"],
];

const COMPLETIONS: Case[] = [
  [{ prompt: null }, "prompt"],
  [{ prompt: 5 }, "prompt"],
  [{ prompt: "" }, "prompt"],
  [{ prompt: [] }, "prompt"],
  [{ prompt: {} }, "prompt"],
  [{ prompt: [512] }, "prompt[0]"],
  [{ prompt: [5, -1] }, "prompt[1]"],
  [{ prompt: [5, 1.5] }, "prompt[1]"],
  [{ prompt: [5, "a"] }, "prompt[1]"],
  [{ prompt: ["a", 5] }, "prompt[1]"],
  [{ prompt: [[5], []] }, "prompt[1]"],
  [{ prompt: [[5, 512]] }, "prompt[0]"],
  [{ prompt: [[[5]]] }, "prompt[0]"],
  [{ prompt: [null] }, "prompt[0]"],
  [{ prompt: Array(1025).fill("a") }, "prompt"],
  [{ prompt: Array(100).fill("a"), n: 100 }, "n"],
  [{ logprobs: true }, "logprobs"],
  [{ logprobs: 21 }, "logprobs"],
  [{ logprobs: -1 }, "logprobs"],
  [{ best_of: 3 }, "best_of"],
  [{ n: 2, best_of: 1 }, "best_of"],
  [{ best_of: "1" }, "best_of"],
  [{ suffix: "end" }, "suffix"],
  [{ echo: "yes" }, "echo"],
  [{ add_special_tokens: 1 }, "add_special_tokens"],
  [{ parse_special: "no" }, "parse_special"],
];

const ROUTES: [path: string, base: Json, cases: Case[]][] = [
  ["/v1/chat/completions", { messages: USER }, [...COMMON, ...CHAT]],
  ["/v1/completions", { prompt: "hi" }, [...COMMON, ...COMPLETIONS]],
  ["/tokenize", {}, [[{}, "prompt"], [{ prompt: 5 }, "prompt"], [
    { prompt: "a", add_special_tokens: 1 },
    "add_special_tokens",
  ]]],
  ["/detokenize", {}, [
    [{}, "tokens"],
    [{ tokens: "a" }, "tokens"],
    [{ tokens: [1, -1] }, "tokens[1]"],
    [{ tokens: [512] }, "tokens[0]"],
  ]],
];

for (const [path, base, cases] of ROUTES) {
  Deno.test(`${path} refuses ${cases.length} wrong fields by name, at once`, async () => {
    const { app, engine } = fixture();
    for (const [fields, param] of cases) {
      const shown = JSON.stringify(fields).slice(0, 120);
      const started = performance.now();
      const response = await post(app, path, { ...base, ...fields });
      const text = await response.text();
      assertEquals(response.status, 400, `${shown}: ${text}`);
      const { error } = JSON.parse(text);
      assertEquals(error.param, param, shown);
      assertEquals(error.type, "invalid_request_error");
      assertStringIncludes(error.message, param.replace(/^(prompt|logit_bias)[.[].*/, "$1"), shown);
      assert(error.message.length < 400 && !/\bat \S+:\d+|\/work|file:/.test(error.message), shown);
      assert(performance.now() - started < 100, `${shown} took too long`);
    }
    assertEquals(engine.requests.length, 0);
  });
}

async function send(body: BodyInit, headers: Record<string, string> = {}): Promise<Json> {
  const { app } = fixture({ app: { maxBodyBytes: 10_000 } });
  const response = await app.request("/v1/completions", { method: "POST", body, headers });
  const { error } = await response.json();
  return [response.status, error.message];
}

Deno.test("bodies that are no JSON object are refused", async () => {
  for (const body of ["", "{", "[]", "null", "5", '"a"', "{'a':1}", '{"a":1}}', "\ufeff", "a=b"]) {
    const [status, message] = await send(body);
    assertEquals(status, 400, body);
    assertStringIncludes(message, "cannot read the request: its body");
  }
});

Deno.test("a body that is not UTF-8 is refused instead of repaired", async () => {
  const text = new TextEncoder().encode('{"prompt":"hi"}');
  for (const bytes of [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xe2, 0x82]]) {
    const body = new Uint8Array([...text.slice(0, 11), ...bytes, ...text.slice(11)]);
    assertEquals(await send(body), [400, "cannot read the request: its body is not valid UTF-8"]);
  }
});

Deno.test("a body nested too deeply is refused before it is parsed", async () => {
  const deep = (levels: number) =>
    `{"prompt":"hi","x":${"[".repeat(levels - 1)}${"]".repeat(levels - 1)}}`;
  const [status, message] = await send(deep(65));
  assertEquals(status, 400);
  assertStringIncludes(message, "65 levels deep, must be at most 64");
  const { app } = fixture({ contextLength: 4096 });
  const open = { prompt: `${"[{".repeat(200)}\\"${"[".repeat(200)}` };
  for (const body of [deep(64), JSON.stringify(open)]) {
    assertEquals((await post(app, "/v1/completions", body)).status, 200);
  }
});

Deno.test("a body that is too large is refused, whether it says so or not", async () => {
  const text = JSON.stringify({ prompt: "x".repeat(10_001) });
  const [declared] = await send(text, { "content-length": String(text.length) });
  assertEquals(declared, 413);
  const stream = new Blob([text]).stream();
  const [undeclared, message] = await send(stream);
  assertEquals(undeclared, 413);
  assertStringIncludes(message, "must be at most 10000 bytes");
});

Deno.test("a compressed body is refused", async () => {
  const [status] = await send("{}", { "content-encoding": "gzip" });
  assertEquals(status, 415);
});

Deno.test("keys named like an object's own parts are only keys", async () => {
  const { app, engine } = fixture();
  const body = '{"prompt":"hi","__proto__":{"temperature":2},"constructor":5,"toString":null}';
  assertEquals((await post(app, "/v1/completions", body)).status, 200);
  assertEquals(engine.requests[0].sampling.temperature, 1);
  const bias = '{"prompt":"hi","logit_bias":{"__proto__":1}}';
  assertEquals((await post(app, "/v1/completions", bias)).status, 400);
});

Deno.test("a lone surrogate in a prompt is encoded as a replacement character", async () => {
  const { app, engine, tokenizer } = fixture();
  assertEquals((await post(app, "/v1/completions", '{"prompt":"a\\ud800b"}')).status, 200);
  assertEquals(tokenizer.decode(engine.requests[0].tokens), "a\ufffdb");
});
