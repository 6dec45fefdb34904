import { assert, assertEquals, assertThrows } from "@std/assert";
import { type ChatMessage, ChatTemplate, loadChatTemplate } from "../../src/chat/mod.ts";
import { CapacityError, FormatError, RequestError } from "../../src/errors.ts";
import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import { tokenizerFromHuggingFace } from "../../src/tokenizer/mod.ts";

const DATA = new URL("../data/chat/", import.meta.url).pathname;
const TOKENIZER = new URL("../data/tokenizers/tiny_ds/", import.meta.url).pathname;
const HELLO: ChatMessage[] = [{ role: "user", content: "Hello" }];

function readJson(path: string) {
  return JSON.parse(Deno.readTextFileSync(path));
}

for (
  const [set, { file, cases: count }] of Object.entries<{ file: string; cases: number }>(
    readJson(`${DATA}index.json`).sets,
  )
) {
  Deno.test(`the ${set} template renders and refuses every golden conversation as transformers`, () => {
    const { template, special_tokens, cases } = readJson(`${DATA}${file}`);
    assertEquals(cases.length, count);
    const chat = new ChatTemplate(Deno.readTextFileSync(`${DATA}${template}`), {
      bosToken: special_tokens.bos_token,
      eosToken: special_tokens.eos_token,
      padToken: special_tokens.pad_token,
      unkToken: special_tokens.unk_token,
    });
    for (const { name, messages, tools, add_generation_prompt, kwargs, rendered, error } of cases) {
      const render = () =>
        chat.render(messages, { tools, addGenerationPrompt: add_generation_prompt, extra: kwargs });
      if (error === undefined) assertEquals(render(), rendered, name);
      else assertThrows(render, RequestError, undefined, name);
    }
  });
}

/** Renders a template as it stands, for messages that say Hello. */
function rendered(source: string, extra: Record<string, unknown> = {}): string {
  return new ChatTemplate(source, { now: () => new Date(2026, 10, 3, 15, 4, 5) })
    .render(HELLO, { extra });
}

Deno.test("what a template writes is Python's text of it", () => {
  assertEquals(
    rendered("{{ none }} {{ true }} {{ x }}|{{ [1, 'a', none] }}"),
    "None True |[1, 'a', None]",
  );
  assertEquals(rendered("{{ messages[0] }}"), "{'role': 'user', 'content': 'Hello'}");
  assertEquals(
    rendered("{{ ['it\\'s', 'a\\n\u00a0'] }}{{ (1, 2) }}"),
    "[\"it's\", 'a\\n\\xa0'](1, 2)",
  );
  assertEquals(rendered("{{ x | trim }}|{{ none | trim }}|{{ 'a' ~ 1 ~ none }}"), "|None|a1None");
});

Deno.test("strings are stripped of the characters that are given, of Python's spaces without", () => {
  const text = "\n\n  xa \u2028";
  assertEquals(rendered("{{ t.strip('\\n') }}", { t: text }), "  xa \u2028");
  assertEquals(rendered("{{ t.lstrip() }}|{{ t.rstrip() }}", { t: text }), "xa \u2028|\n\n  xa");
  assertEquals(rendered("{{ t.strip('\\n ').lstrip('x') }}", { t: text }), "a \u2028");
  assertEquals(rendered("{{ t | trim }}", { t: "\x1c\ufeffa\x85" }), "\ufeffa");
});

Deno.test("comparisons do not convert and concatenations want strings on both sides", () => {
  assertEquals(
    rendered("{{ '1' == 1 }}{{ 1 == 1.0 }}{{ none == x }}{{ [1] == [1] }}"),
    "FalseTrueFalseTrue",
  );
  for (const source of ["{{ 'a' + 1 }}", "{{ 'a' + none }}", "{{ 'a' + x }}", "{{ 'a' + {} }}"]) {
    assertThrows(() => rendered(source), RequestError);
  }
});

Deno.test("JSON keeps letters and brackets and refuses what Python cannot write", () => {
  const x = { a: "<é>", b: [1, null] };
  assertEquals(rendered("{{ x | tojson }}", { x }), '{"a": "<é>", "b": [1, null]}');
  assertEquals(
    rendered("{{ [] | tojson(indent=2) }}{{ x.b | tojson(indent=1) }}", { x }),
    "[][\n 1,\n null\n]",
  );
  for (const source of ["{{ y | tojson }}", "{{ messages | map(attribute='role') | tojson }}"]) {
    assertThrows(() => rendered(source), RequestError);
  }
  assertEquals(rendered("{{ messages | map(attribute='role') | list | tojson }}"), '["user"]');
});

Deno.test("loops have a scope per iteration and keep what was written before a break", () => {
  assertEquals(
    rendered("{% for i in [1, 2, 3] %}{{ i }}{% if i == 2 %}!{% break %}{% endif %},{% endfor %}"),
    "1,2!",
  );
  assertEquals(rendered("{% for i in [1, 2] %}{{ i }}{% continue %}x{% endfor %}"), "12");
  assertEquals(
    rendered("{% for i in [1, 2] %}{{ s }}{% set s = 'x' %}{{ s }}{% endfor %}{{ s }}"),
    "xx",
  );
  assertEquals(rendered("{% for i in y %}a{% else %}none{% endfor %}"), "none");
  assertEquals(rendered("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"), "a1");
  assertEquals(
    rendered(
      "{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}{{ loop.last }}{{ loop.previtem }}{% endfor %}",
    ),
    "1False2True1",
  );
});

Deno.test("strftime_now writes the clock's date as Python does", () => {
  assertEquals(
    rendered("{{ strftime_now('%d %b %Y %H:%M:%S %A %-d %j %I%p %q') }}"),
    "03 Nov 2026 15:04:05 Tuesday 3 307 03PM %q",
  );
});

Deno.test("raise_exception is a RequestError with the template's own message", () => {
  const error = assertThrows(
    () => rendered("{{ raise_exception('Roles must alternate') }}"),
    RequestError,
  );
  assertEquals(error.message, "Roles must alternate");
  assertEquals(error.param, "messages");
  assertEquals(error.status, 400);
});

Deno.test("extra variables replace neither messages nor special tokens nor functions", () => {
  const chat = new ChatTemplate("{{ bos_token }}{{ messages | length }}{{ range(2) }}{{ n }}", {
    bosToken: "<s>",
  });
  const extra = { bos_token: "no", messages: [], range: 1, true: false, namespace: 1, n: "yes" };
  assertEquals(chat.render(HELLO, { extra }), "<s>1[0, 1]yes");
});

const bombs: Record<string, string> = {
  "a huge range": "{% for i in range(1000000000) %}x{% endfor %}",
  "loops in loops":
    "{% for i in range(1000) %}{% for j in range(1000) %}{{ j }}{% endfor %}{% endfor %}",
  "empty loops": "{% for i in range(10000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
  "a string that doubles":
    "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
  "a list that doubles":
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
  "a list within lists, written out":
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
  "a list within lists as JSON":
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
  "a list within lists, compared":
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == 'x' }}",
  "a list within lists, concatenated":
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l ~ '' }}",
  "a list within lists, joined":
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | join }}",
  "a namespace within itself":
    "{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns.a | tojson }}",
  "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
  "a macro that calls itself twice":
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
  "a string repeated": "{{ 'x' * 1000000000 }}",
  "a replacement": "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
  "a replacement under another name":
    "{% set a = 'a' * 100000 %}{% set f = a['replace'] %}{{ f('', a) }}",
  "a replacing filter": "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}",
  "a separator": "{% set a = 'a' * 100000 %}{{ range(100000) | join(a) }}",
  "an indentation": "{{ 'a\\nb' | indent(1000000000) }}",
  "an indentation of JSON": "{{ [1] | tojson(indent=1000000000) }}",
  "an output in small parts": "{% for i in range(40000) %}" + "x".repeat(100) + "{% endfor %}",
  "sorting again and again":
    "{% for i in range(10000) %}{% set x = range(100000) | sort %}{% endfor %}",
  "splitting again and again":
    "{% set a = 'ab' * 500000 %}{% for i in range(10000) %}{% set x = a.split('a') %}{% endfor %}",
  "macros defined again and again": `{% for i in range(40000) %}{% macro m() %}${
    "{{ x }}".repeat(5000)
  }{% endmacro %}{% endfor %}`,
};

for (const [name, source] of Object.entries(bombs)) {
  Deno.test(`the budget ends ${name}`, () => {
    const chat = new ChatTemplate(source);
    const begin = performance.now();
    assertThrows(() => chat.render(HELLO), CapacityError);
    const milliseconds = performance.now() - begin;
    assert(milliseconds < 1000, `${milliseconds} ms`);
  });
}

Deno.test("nesting within the bounds is rendered, in a macro as well", () => {
  const nested = "{% if messages %}".repeat(140) + "{{ n }}" + "{% endif %}".repeat(140);
  assertEquals(rendered(nested, { n: "x" }), "x");
  const counted =
    "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(50) }}";
  assertEquals(rendered(counted), Array.from({ length: 51 }, (_, i) => 50 - i).join(""));
});

Deno.test("the budget is the caller's to set, and a long honest conversation stays within it", () => {
  const source = Deno.readTextFileSync(`${DATA}qwen3.jinja`);
  const messages = Array.from({ length: 200 }, (_, i): ChatMessage => ({
    role: i % 2 === 0 ? "user" : "assistant",
    content: "words ".repeat(200),
  }));
  const text = new ChatTemplate(source, { budget: { milliseconds: 2000 } }).render(messages);
  assert(text.length > 200 * 1200);
  for (const budget of [{ steps: 500 }, { outputUnits: 100_000 }, { milliseconds: -1 }]) {
    assertThrows(() => new ChatTemplate(source, { budget }).render(messages), CapacityError);
  }
});

const damages: Record<string, string> = {
  "an open tag": "{% if x %}",
  "an unknown statement": "{% include 'x' %}",
  "an expression without an end": "{{ x",
  "more than 256 KiB": "x".repeat(300_000),
  "endless nesting": "{{ " + "(".repeat(50_000) + "1" + ")".repeat(50_000) + " }}",
  "deep nesting": "{% if x %}".repeat(400) + "{% endif %}".repeat(400),
  "endless white space": " ".repeat(100_000),
  "a block through a filter that may grow it": "{% filter replace('a', 'b') %}a{% endfilter %}",
};

for (const [name, source] of Object.entries(damages)) {
  Deno.test(`a template with ${name} is refused when it is read`, () => {
    const error = assertThrows(() => new ChatTemplate(source, { name: "m.gguf" }), FormatError);
    assert(error.message.startsWith('cannot parse the chat template of "m.gguf": '), error.message);
  });
}

const tokenizer = tokenizerFromHuggingFace({
  tokenizer: Deno.readTextFileSync(`${TOKENIZER}tokenizer.json`),
  tokenizerConfig: Deno.readTextFileSync(`${TOKENIZER}tokenizer_config.json`),
}, { name: "tiny_ds" });

function gguf(metadata: Record<string, MetadataValue>) {
  return {
    format: "gguf" as const,
    name: "m.gguf",
    metadata: new Map(Object.entries(metadata)),
    sidecar: () => Promise.resolve(null),
  };
}

function folder(files: Record<string, string>) {
  return {
    format: "safetensors" as const,
    name: "m",
    metadata: new Map(),
    sidecar: (name: string) => Promise.resolve(files[name] ?? null),
  };
}

Deno.test("the template comes from wherever the checkpoint keeps it", async () => {
  const source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
  const config = (chat_template: unknown) => ({
    "tokenizer_config.json": JSON.stringify({ chat_template }),
  });
  const checkpoints = [
    gguf({ "tokenizer.chat_template": source }),
    gguf({ "tokenizer.chat_template.default": source, "tokenizer.chat_template.rag": "no" }),
    folder({ "chat_template.jinja": source, ...config("no") }),
    folder(config(source)),
    folder(config([{ name: "rag", template: "no" }, { name: "default", template: source }])),
  ];
  for (const checkpoint of checkpoints) {
    const chat = await loadChatTemplate(checkpoint, { tokenizer });
    assertEquals(chat.isFallback, false);
    assertEquals(chat.render(HELLO), "<｜begin▁of▁sentence｜>Hello<｜end▁of▁sentence｜>");
  }
});

Deno.test("the template for tools is used where there are tools", async () => {
  const keys = { "tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools" };
  const chat = await loadChatTemplate(gguf(keys), { tokenizer });
  assertEquals(chat.render(HELLO), "plain");
  assertEquals(chat.render(HELLO, { tools: [] }), "plain");
  assertEquals(chat.render(HELLO, { tools: [{ type: "function" }] }), "tools");
});

Deno.test("a checkpoint without a template gets ChatML and says so", async () => {
  const chat = await loadChatTemplate(gguf({}), { tokenizer });
  assertEquals(chat.isFallback, true);
  assertEquals(chat.render(HELLO), "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
  assertEquals(
    chat.render(HELLO, { addGenerationPrompt: false }),
    "<|im_start|>user\nHello<|im_end|>\n",
  );
});

Deno.test("a damaged place for the template is a FormatError", async () => {
  const broken = [
    gguf({ "tokenizer.chat_template": 7 }),
    folder({ "tokenizer_config.json": "{" }),
    folder({ "tokenizer_config.json": "null" }),
    folder({ "tokenizer_config.json": '{"chat_template": 7}' }),
    folder({ "tokenizer_config.json": '{"chat_template": [{"name": "x"}]}' }),
  ];
  for (const checkpoint of broken) {
    let caught: unknown;
    await loadChatTemplate(checkpoint, { tokenizer }).catch((error) => caught = error);
    assert(caught instanceof FormatError, String(caught));
  }
});
