import { assert, assertEquals } from "@std/assert";
import { ChatTemplate, promptOpensReasoning, ReasoningSplitter } from "../../src/chat/mod.ts";

const DATA = new URL("../data/chat/", import.meta.url).pathname;

interface Split {
  reasoning: string;
  content: string;
}

function split(parts: readonly string[], options: { inReasoning?: boolean } = {}): Split {
  const splitter = new ReasoningSplitter(options);
  const whole = { reasoning: "", content: "" };
  for (const delta of [...parts.map((part) => splitter.push(part)), splitter.flush()]) {
    whole.reasoning += delta.reasoning;
    whole.content += delta.content;
  }
  return whole;
}

const cases: [string, string, Split, { inReasoning?: boolean }?][] = [
  ["an answer alone", "Hello", { reasoning: "", content: "Hello" }],
  ["nothing", "", { reasoning: "", content: "" }],
  ["an answer that begins with spaces", "  \n  code", { reasoning: "", content: "  \n  code" }],
  ["reasoning and answer", "<think>\nbecause\n</think>\n\nSo.", {
    reasoning: "because",
    content: "So.",
  }],
  ["reasoning opened by the prompt", "because\n\nof\n</think>\n\n  So.\n", {
    reasoning: "because\n\nof",
    content: "  So.\n",
  }, { inReasoning: true }],
  ["empty reasoning", "<think>\n\n</think>\n\nSo.", { reasoning: "", content: "So." }],
  ["empty reasoning of an open prompt", "</think>So.", { reasoning: "", content: "So." }, {
    inReasoning: true,
  }],
  ["reasoning that never ends", "<think>\nI wonder\n", { reasoning: "I wonder\n", content: "" }],
  ["reasoning that ends within its tag", "<think>a\n</thi", { reasoning: "a\n</thi", content: "" }],
  ["an answer that is nearly a tag", " <thin", { reasoning: "", content: " <thin" }],
  ["an answer that begins like a tag", "<this> is", { reasoning: "", content: "<this> is" }],
  ["a tag in the middle of an answer", "The tag <think>x</think> is", {
    reasoning: "",
    content: "The tag <think>x</think> is",
  }],
  ["a second pair of tags", "<think>a</think>b<think>c</think>", {
    reasoning: "a",
    content: "b<think>c</think>",
  }],
  ["half tags in the reasoning", "<think>1 <</ </thin </think</think>x", {
    reasoning: "1 <</ </thin </think",
    content: "x",
  }],
  ["line breaks inside", "<think>\r\na\r\n\r\nb\n\n\n</think>\r\n\r\nc\n\nd", {
    reasoning: "a\r\n\r\nb",
    content: "c\n\nd",
  }],
  ["an answer of one line break", "<think>a</think>\n", { reasoning: "a", content: "" }],
];

for (const [name, text, expected, options] of cases) {
  Deno.test(`output is split: ${name}, however it arrives`, () => {
    assertEquals(split([text], options), expected);
    assertEquals(split([...text], options), expected);
    for (let cut = 1; cut < text.length; cut++) {
      assertEquals(split([text.slice(0, cut), text.slice(cut)], options), expected);
    }
  });
}

Deno.test("no part of a tag is given out before it is known to be none", () => {
  const splitter = new ReasoningSplitter();
  assertEquals(splitter.push("<thi"), { reasoning: "", content: "" });
  assertEquals(splitter.push("nk>\nso"), { reasoning: "so", content: "" });
  assertEquals(splitter.push("\n</"), { reasoning: "", content: "" });
  assertEquals(splitter.push("b>"), { reasoning: "\n</b>", content: "" });
  assertEquals(splitter.push("</think>\n"), { reasoning: "", content: "" });
  assertEquals(splitter.push("\nyes"), { reasoning: "", content: "yes" });
  assertEquals(splitter.push(" <think>"), { reasoning: "", content: " <think>" });
});

Deno.test("a prompt that opens reasoning is told from one that does not", () => {
  const prompt = (name: string, extra = {}) =>
    new ChatTemplate(Deno.readTextFileSync(`${DATA}${name}.jinja`), { bosToken: "<s>" })
      .render([{ role: "user", content: "What is <think>?" }], { extra });
  assert(promptOpensReasoning(prompt("deepseek_r1_distill_original")));
  assert(!promptOpensReasoning(prompt("deepseek_v3")));
  assert(!promptOpensReasoning(prompt("qwen3", { enable_thinking: false })));
});

Deno.test("splitting takes time linear in the output", () => {
  const begin = performance.now();
  const text = "\n".repeat(200_000) + "</think".repeat(50_000);
  const { reasoning } = split(["<think>x", ...text, "</think>"]);
  assertEquals(reasoning, "x" + text);
  const milliseconds = performance.now() - begin;
  assert(milliseconds < 1000, `${milliseconds} ms`);
});
