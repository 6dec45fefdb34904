import { assertEquals } from "@std/assert";
import { type FormFault, partsOf } from "../../../src/training/reward/completion.ts";

function parts(completion: string, opened = false): [string, string, FormFault | null] {
  const { reasoning, answer, fault } = partsOf(completion, { opened });
  return [reasoning, answer, fault];
}

Deno.test("reasoning and answer are parted, whoever has written the opening tag", () => {
  assertEquals(parts("<think>\na\n</think>\n\nb"), ["a", "b", null]);
  assertEquals(parts("\n <think>a</think> b "), ["a", "b", null]);
  assertEquals(parts("a\n</think>\n\nb", true), ["a", "b", null]);
});

Deno.test("what is wrong with a form is said, and an answer is taken only where it is clear", () => {
  assertEquals(parts("b"), ["", "b", "no reasoning block"]);
  assertEquals(parts(""), ["", "", "no reasoning block"]);
  assertEquals(parts("a</think>b"), ["a", "b", "not opened"]);
  assertEquals(parts("<think>a b"), ["a b", "", "not closed"]);
  assertEquals(parts("a b", true), ["a b", "", "not closed"]);
  assertEquals(parts("x<think>a</think>b"), ["a", "b", "text in front"]);
  assertEquals(parts("<think> \n</think>b"), ["", "b", "empty reasoning"]);
  assertEquals(parts("<think>a</think> \n"), ["a", "", "no answer"]);
  for (
    const text of [
      "<think>a<think>b</think>c",
      "<think>a</think>b</think>c",
      "<think>a</think>b<think>c</think>d",
      "</think>a<think>b",
    ]
  ) assertEquals(parts(text), ["", "", "several blocks"], text);
  assertEquals(parts("<think>a</think>b", true), ["", "", "several blocks"]);
});

Deno.test("marks of a turn's end are no part of an answer, but within it they are", () => {
  assertEquals(parts("<think>a</think>b<｜end▁of▁sentence｜>")[1], "b");
  assertEquals(parts("<think>a</think>b<|im_end|>\n<|endoftext|><|endoftext|>")[1], "b");
  assertEquals(parts("<think>a</think>b</s>c")[1], "b</s>c");
  assertEquals(parts("<think>a</think></s>"), ["a", "", "no answer"]);
});
