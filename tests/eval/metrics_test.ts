/** How answers are judged, and what figures are made of that. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { heldoutItem } from "../../src/eval/heldout.ts";
import { finalAnswer, mathItem } from "../../src/eval/math.ts";
import { readRows } from "../../src/eval/rows.ts";
import { readSet } from "../../src/eval/sets.ts";
import { wilsonInterval } from "../../src/eval/statistics.ts";
import { costOf, groupsOf, metricsOf } from "../../src/eval/summary.ts";
import type { ChoiceItem, GenerationItem } from "../../src/eval/types.ts";
import { exactMatches } from "../../src/eval/word_problems.ts";
import { FAMILIES, problemAt } from "../../src/training/data/families/mod.ts";
import { problemDraft } from "../../src/training/data/rows.ts";

/** What lm-eval's filters of gsm8k make of an answer whose number is known. */
const EXACT: readonly (readonly [string, string, number, number])[] = [
  [" 16 - 3 - 4 = 9, times 2 is 18.\n#### 18", "18", 1, 1],
  ["#### 1,234", "1234", 1, 1],
  ["#### -7.", "-7", 1, 1],
  // The first #### counts, and the last number.
  ["#### 3\n#### 4", "3", 1, 0],
  ["#### 3\n#### 4", "4", 0, 1],
  ["The answer is $72.", "72", 0, 1],
  ["It costs $1,250.00", "1250", 0, 0],
  ["72 apples", "72", 0, 1],
  ["no number", "72", 0, 0],
  ["", "0", 0, 0],
];

Deno.test("exact matches of GSM8K are those of lm-eval's filters", () => {
  for (const [text, answer, strict, flexible] of EXACT) {
    assertEquals(exactMatches(text, answer), { strict, flexible }, text);
  }
});

Deno.test("MATH takes the last box, braces within it, or Minerva's sentence", () => {
  assertEquals(finalAnswer("so \\boxed{1} or \\boxed{\\frac{3}{4}}."), "\\frac{3}{4}");
  assertEquals(
    finalAnswer("Final Answer: The final answer is $[0,9)$. I hope it is correct."),
    "[0,9)",
  );
  assertEquals(finalAnswer("\\boxed{unclosed"), null);
  assertEquals(finalAnswer("12"), null);
});

Deno.test("MATH tells the same LaTeX from the same value", () => {
  const judge = (answer: string, given: string) => {
    const [row] = readRows(JSON.stringify({ problem: "What is it?", answer }), "math.jsonl");
    const { exact_match: exact, equivalent } = mathItem(row).judge(`so \\boxed{${given}}`);
    return [exact, equivalent];
  };
  assertEquals(judge("\\frac{17}{5}", "\\dfrac{17}{5}"), [1, 1]);
  assertEquals(judge("\\left(7, \\frac{\\pi}{9}\\right)", "(7,\\frac{\\pi}{9})"), [1, 1]);
  assertEquals(judge("0.5", "\\frac{1}{2}"), [0, 1]);
  assertEquals(judge("2\\sqrt{3}", "\\sqrt{12}"), [0, 1]);
  assertEquals(judge("10{,}000", "10000"), [0, 1]);
  assertEquals(judge("9", "8"), [0, 0]);
  assertEquals(judge("x+1", "x-1"), [0, 0]);
});

Deno.test("held-out problems are solved by what follows the thinking, as their checkers see it", () => {
  const family = FAMILIES.find(({ name }) => name === "addition")!;
  const problem = problemAt(family, { seed: 1, index: 0, levels: [1, 2], notation: "columns" });
  const item = heldoutItem({ ...problemDraft(problem), id: "a", source: "sums" })!;
  assertEquals([item.group, item.question], ["addition", problem.prompt]);
  assertEquals(item.judge(problem.reply), { solved: 1 });
  assertEquals(item.judge(`${Number(problem.answer) + 1}`), { solved: 0 });
  assertEquals(item.judge(`<think>x</think>${problem.reply}`), { solved: 0 });
  assertEquals(item.judge(""), { solved: 0 });
  assertEquals(heldoutItem({ kind: "text", text: "x", id: "b", source: "text" }), null);
});

/** Successes, trials, and the interval as tables have it. */
const WILSON = [
  [0, 10, 0, 0.2775],
  [5, 10, 0.2366, 0.7634],
  [10, 10, 0.7225, 1],
] as const;

Deno.test("confidence intervals are Wilson's", () => {
  for (const [right, all, low, high] of WILSON) {
    const interval = wilsonInterval(right, all);
    assertAlmostEquals(interval.low, low, 5e-5);
    assertAlmostEquals(interval.high, high, 5e-5);
  }
  // At a bound, what was seen is 1.96 of its own standard deviations away.
  const { low, high } = wilsonInterval(27, 1055);
  for (const bound of [low, high]) {
    const deviation = Math.sqrt(bound * (1 - bound) / 1055);
    assertAlmostEquals(Math.abs(27 / 1055 - bound) / deviation, 1.959964, 1e-5);
  }
  assertEquals(wilsonInterval(0, 0), { low: 0, high: 1 });
});

Deno.test("figures are means over problems, by group too, and costs are stated for a thousand", () => {
  const rest = { tokens: [], cut: false, tooLong: false, unfinished: 0 };
  const results = [
    { id: "a", group: "x", scores: { acc: 1 }, ...rest },
    { id: "b", group: "x", scores: { acc: 0 }, ...rest },
    { id: "c", group: "y", scores: { acc: 0.25 }, ...rest },
  ];
  assertAlmostEquals(metricsOf(results)[0].value, 1.25 / 3, 1e-12);
  assertEquals(
    groupsOf(results).map(({ group, problems, metrics }) => [group, problems, metrics[0].value]),
    [["x", 2, 0.5], ["y", 1, 0.25]],
  );
  const counts = { promptTokens: 500, cachedTokens: 100, answerTokens: 100, seconds: 36 };
  const cost = costOf(counts, { problems: 10, activeParameters: 1e6, watts: 100 });
  assertEquals([cost.flops, cost.wattHours], [1e9, 1]);
  assertEquals(cost.perThousand, { tokens: 50_000, flops: 1e11, seconds: 3600, wattHours: 100 });
  assertEquals(costOf(counts, { problems: 10, activeParameters: 1, watts: null }).wattHours, null);
});

const lines = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join("\n");

Deno.test("choices are read in ARC's form, as plain lists, and by label, text or place", () => {
  const arc = {
    ...{ id: "m1", question: "Which?", answerKey: "C" },
    choices: { text: ["a", "b", "c"], label: ["A", "B", "C"] },
  };
  const rows = [
    arc,
    { context: "A dog runs.\nEntailed: an animal moves?", choices: ["no", "yes"], label: "yes" },
    { question: "Sentiment of: fine", choices: ["bad", "good"], gold: 1, group: "reviews" },
  ];
  const set = readSet("choices", { data: { name: "c.jsonl", text: lines(...rows) } });
  const items = set.items as ChoiceItem[];
  assertEquals(items.map(({ gold }) => gold), [2, 1, 1]);
  assertEquals(items.map(({ id, group }) => [id, group]), [
    ["m1", undefined],
    ["line 2", undefined],
    ["line 3", "reviews"],
  ]);
  assertEquals(items[0].context, "Question: Which?\nAnswer:");
  assertEquals(items[1].context, "A dog runs.\nEntailed: an animal moves?");
  assertAlmostEquals(set.chance, (1 / 3 + 1 / 2 + 1 / 2) / 3, 1e-12);
  for (
    const [fields, what] of [
      [{ choices: ["a"] }, '"choices"'],
      [{ choices: { text: ["a", "b"], label: ["A"] } }, '"choices"'],
      [{ answerKey: "D" }, '"answerKey"'],
      [{ answerKey: 3 }, '"answerKey"'],
      [{ answerKey: undefined }, '"answerKey" is missing'],
      [{ question: " " }, '"question"'],
    ] as const
  ) {
    const text = lines(arc, { ...arc, ...fields });
    assertThrows(
      () => readSet("choices", { data: { name: "c.jsonl", text } }),
      FormatError,
      what,
    );
  }
});

Deno.test("shots are the first rows of a file, or the samples of one object", () => {
  const problem = { question: "1 + 1?", answer: "It is 2.\n#### 2" };
  const data = { name: "test.jsonl", text: lines(problem, problem) };
  const shots = { name: "train.jsonl", text: lines({ ...problem, question: "first" }, problem) };
  const set = readSet("gsm8k", { data, shots: { ...shots, count: 1 }, limit: 1 });
  assertEquals(set.shots, [{ question: "first", answer: problem.answer }]);
  assertEquals(set.items.length, 1);
  assertEquals((set.items[0] as GenerationItem).judge("#### 2").checked, 1);
  const object = JSON.stringify({ samples: [{ problem: "p", solution: "s" }] });
  const math = readSet("math-500", {
    data: { name: "m.jsonl", text: lines({ problem: "x", answer: "1" }) },
    shots: { name: "few.json", text: object, count: 1 },
  });
  assertEquals(math.shots, [{ question: "p", answer: "s" }]);
  assertThrows(
    () => readSet("gsm8k", { data, shots: { ...shots, count: 3 } }),
    FormatError,
    "the number of its rows is 2",
  );
  assertThrows(() => readSet("gsm8k", { data: { name: "x", text: "[1]" } }), FormatError, "line 1");
  assertThrows(() => readSet("gsm8k", { data: { name: "x", text: "{" } }), FormatError, "not JSON");
  assert(readSet("svamp", { data: { name: "s", text: lines({ question: "q", answer: 5.0 }) } }));
});
