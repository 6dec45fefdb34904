import { assert, assertEquals } from "@std/assert";
import { FAMILIES } from "../../../src/training/data/families/mod.ts";
import { rewardValues } from "../../../src/training/reward/mod.ts";

function repeated(text: string, length: number): string {
  return text.repeat(Math.ceil(length / text.length)).slice(0, length);
}

/** What patterns and parsers stumble over, again and again. */
const PIECES = [
  "1 + 1 = 2\n",
  "123456789012 * 987654321 = 3; ",
  "(",
  "((1+",
  "1=",
  "-",
  "9",
  "~9",
  "1,111",
  ".5",
  "Ana > Tom > ",
  "all wugs are blips, ",
  "All wugs are blips. ",
  "\\boxed{",
  "\\boxed{1}",
  "\\frac{",
  "#### 1\n",
  "the answer is ",
  "<think>",
  "</think>",
  "<answer>1</answer>",
  " ",
  "\n ",
  "\u200b",
  "A. x\n",
  "sort a: b, ",
  "tally a: a 1, ",
  "3 / 7 = 0.43; ",
  "x\n",
  "</s>",
  "$ 1 1/2 ",
];

Deno.test("no text takes long, however it is made and however long it is", () => {
  const families = [undefined, ...FAMILIES.map(({ name }) => name)];
  for (const piece of PIECES) {
    for (const [i, family] of families.entries()) {
      // All families in turn at the longest texts that are read, one each beyond them.
      const [length, answer] = i % 4 === 0 ? [3_000_000, 1_000_000] : [99_000, i % 2 ? 290 : 7900];
      const started = performance.now();
      rewardValues({
        prompt: repeated(piece, family === undefined ? 1_000_000 : 1990),
        completion: `${repeated(piece, length)}\n</think>\n${repeated(piece, answer)}`,
        opened: true,
        reference: { family, answer: "(1, 2)", solution: repeated(piece, 99_000) },
      });
      // Quadratic time would be minutes.
      assert(performance.now() - started < 10_000, `${JSON.stringify(piece)} ${family}`);
    }
  }
});

Deno.test("what is too long to be read has no consistency, clarity or efficiency", () => {
  const solution = "47 + 38 = 85";
  const reference = { family: "addition", solution };
  const judge = (reasoning: string) =>
    rewardValues({
      prompt: "What is 47 + 38?",
      completion: `<think>${reasoning}</think>85`,
      reference,
    });
  const long = Array.from({ length: 2100 }, (_, i) => `47 + ${i} = ${47 + i}`).join("\n");
  assertEquals(judge(`${solution}\n${long}`), {
    logical_consistency: 0,
    solution_accuracy: 1,
    reasoning_clarity: 0,
    efficiency: 0,
    format: 1,
  });
  assertEquals(judge(solution).logical_consistency, 1);
});
