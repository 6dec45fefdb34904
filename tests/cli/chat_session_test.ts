import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type ChatOptions, chatSession } from "../../src/cli/chat_session.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { fixture, type FixtureOptions } from "../routes/_support.ts";

async function session(
  lines: readonly string[],
  options: FixtureOptions & Partial<ChatOptions> = {},
): Promise<{ text: string; prompts: string[] }> {
  const { model, engine, tokenizer } = fixture({ contextLength: 400, ...options });
  let text = "";
  let clock = 0;
  await chatSession({
    model,
    sampling: NEUTRAL_SAMPLING,
    lines: ReadableStream.from(lines),
    write: (part) => text += part,
    interruptible: (work) => work(new AbortController().signal),
    dim: ["<dim>", "</dim>"],
    now: () => clock += 100,
    ...options,
  });
  return { text, prompts: engine.requests.map(({ tokens }) => tokenizer.decode(tokens)) };
}

Deno.test("a chat session streams answers and remembers the conversation", async () => {
  const { text, prompts } = await session(["hi", "more", "/exit", "never"], {
    answer: (_, index) => `answer ${index}`,
    system: "be brief",
  });
  assertStringIncludes(text, "answer 0");
  assertMatch(text, /\[\d+ tokens, \d+\.\d tokens\/s\]/);
  assertEquals(prompts.length, 2);
  assertEquals(
    prompts[1],
    "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n" +
      "<|im_start|>assistant\nanswer 0<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n" +
      "<|im_start|>assistant\n",
  );
});

Deno.test("a chat session ends with its input, and /new forgets", async () => {
  const { prompts } = await session(["hi", "/new", "", "again", "/what"]);
  assertEquals(prompts.length, 2);
  assertEquals(prompts[1].includes("hi"), false);
});

Deno.test("thinking is dimmed and not remembered", async () => {
  const { text, prompts } = await session(["hi", "more"], {
    family: "tiny_ds",
    answer: "hm\n</think>\n\nParis",
  });
  assertStringIncludes(text, "<dim>hm</dim>\nParis");
  assertEquals(prompts[1].includes("hm"), false);
  assertStringIncludes(prompts[1], "Paris");
});

Deno.test("an interrupted answer ends, the session goes on", async () => {
  let controller = new AbortController();
  let written = 0;
  let out = "";
  const made = fixture({
    contextLength: 400,
    answer: (_, index) => index === 0 ? "a".repeat(200) : "fine",
    tokenMs: 2,
  });
  await chatSession({
    model: made.model,
    sampling: NEUTRAL_SAMPLING,
    lines: ReadableStream.from(["hi", "more"]),
    write: (part) => {
      out += part;
      if (part === "a" && ++written === 5) controller.abort();
    },
    interruptible: (work) => work((controller = new AbortController()).signal),
    dim: ["", ""],
    now: () => performance.now(),
  });
  assertStringIncludes(out, "aaaaa");
  assertStringIncludes(out, "[stopped]");
  assertStringIncludes(out, "fine");
  assertEquals(made.engine.requests.length, 2);
});

Deno.test("a conversation that no longer fits is said so, and the session goes on", async () => {
  const { text, prompts } = await session(["x".repeat(100), "hi"], { contextLength: 60 });
  assertStringIncludes(text, "must be fewer than 60 (the context length)");
  assertEquals(prompts.length, 1);
});

Deno.test("what a model writes cannot steer the terminal", async () => {
  const { text } = await session(["hi"], { answer: "\x1b[2J" });
  assert(!text.includes("\x1b"));
});
