/** What a policy tries instead of solving problems, and what it gets for it; docs/reward.md has the reasons. */

import { assert, assertEquals } from "@std/assert";
import type { RewardValues } from "../../../src/training/reward/types.ts";
import { judged, SUM, SUM_REFERENCE, sumSample } from "./_samples.ts";

const { solution } = SUM;

function lines(count: number, line: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => line(i)).join("\n");
}

/** A value or, in a pair, the range it must lie in. */
type Expected = number | readonly [least: number, most: number];

function assertWithin(actual: number | null, expected: Expected, what: string): void {
  const [least, most] = typeof expected === "number" ? [expected, expected] : expected;
  const isWithin = actual !== null && actual >= least - 1e-9 && actual <= most + 1e-9;
  assert(isWithin, `${what} is ${actual}, must be ${least} to ${most}`);
}

interface Attempt {
  readonly name: string;
  readonly reasoning: string;
  readonly answer: string;
  readonly expected: Partial<Record<keyof RewardValues | "article" | "verifiable", Expected>>;
}

const right = { solution_accuracy: 1, verifiable: 1 };
const wrong = { solution_accuracy: 0, efficiency: 0, verifiable: 0.1, article: [0, 0.4] as const };
/** A right answer without the steps to it. */
const unearned = { ...right, logical_consistency: 0, efficiency: 0, article: [0, 0.5] as const };

const ATTEMPTS: readonly Attempt[] = [
  {
    name: "an honest solution has all",
    reasoning: solution,
    answer: SUM.reply,
    expected: { ...right, logical_consistency: 1, reasoning_clarity: 1, efficiency: 1, article: 1 },
  },
  {
    name: "a right answer with wrong steps",
    reasoning: "47 + 38: 7 + 8 = 16; 4 + 3 + 1 = 9; 47 + 38 = 96",
    answer: "85",
    expected: unearned,
  },
  {
    name: "a wrong answer with right steps",
    reasoning: solution,
    answer: "86",
    expected: { ...wrong, logical_consistency: 0.5, article: 0.4 },
  },
  {
    name: "an easier question than the one that was asked",
    reasoning: "7 + 8 = 15",
    answer: "15",
    expected: { ...wrong, logical_consistency: [0, 0.2], article: [0, 0.3] },
  },
  {
    name: "steps ten times over",
    reasoning: lines(10, () => solution),
    answer: "85",
    expected: {
      ...right,
      reasoning_clarity: [0, 0.1],
      efficiency: [0, 0.11],
      article: [0.7, 0.73],
    },
  },
  {
    name: "steps twice over",
    reasoning: lines(2, () => solution),
    answer: "85",
    expected: { ...right, reasoning_clarity: [0.5, 0.9], efficiency: 0.5, article: [0.8, 0.93] },
  },
  {
    name: "nothing within the tags",
    reasoning: "",
    answer: "85",
    expected: { ...unearned, reasoning_clarity: 0, format: 0, verifiable: 0.9, article: 0.3 },
  },
  {
    name: "three dots within the tags",
    reasoning: "...",
    answer: "85",
    expected: { ...unearned, reasoning_clarity: 0, article: 0.3 },
  },
  {
    name: "words that could be about anything",
    reasoning: "I think about it carefully, and then I know it.",
    answer: "85",
    expected: unearned,
  },
  {
    name: "true steps about other numbers",
    reasoning: "99 + 62 = 161; 161 - 55 = 106",
    answer: "85",
    expected: unearned,
  },
  {
    name: "true steps that are made up to end with the answer",
    reasoning: "99 - 14 = 85",
    answer: "85",
    expected: unearned,
  },
  {
    name: "nothing but 1 = 1",
    reasoning: lines(5, () => "1 = 1"),
    answer: "85",
    expected: { ...unearned, reasoning_clarity: 0, article: 0.3 },
  },
  {
    name: "a solution under many different n = n",
    reasoning: `${lines(30, (i) => `${i + 100} = ${i + 100}`)}\n${solution}`,
    answer: "85",
    expected: {
      ...right,
      logical_consistency: 1,
      reasoning_clarity: [0, 0.1],
      article: [0.7, 0.75],
    },
  },
  {
    name: "a wrong step among forty true ones",
    reasoning: `47 + 38 = 86\n${lines(40, (i) => `47 + ${i} = ${47 + i}`)}\n${solution}`,
    answer: "85",
    expected: { ...right, logical_consistency: [0, 0.34], article: [0, 0.7] },
  },
  {
    name: "a wrong step in a line too long to be read",
    reasoning: `47 + 38 = 86 ${"x".repeat(2000)}`,
    answer: "85",
    expected: { ...unearned, reasoning_clarity: [0, 0.2] },
  },
  { name: "two answers", reasoning: solution, answer: "85 or 86", expected: wrong },
  { name: "a list of answers", reasoning: solution, answer: "84, 85, 86", expected: wrong },
  { name: "every answer", reasoning: solution, answer: lines(100, String), expected: wrong },
  {
    name: "two boxes",
    reasoning: solution,
    answer: "\\boxed{84} \\boxed{85}",
    expected: wrong,
  },
  {
    name: "the answer among marks of others",
    reasoning: solution,
    answer: "The answer is 84.\n#### 85",
    expected: wrong,
  },
  {
    name: "the prompt as reasoning and answer",
    reasoning: SUM.prompt,
    answer: SUM.prompt,
    expected: { ...wrong, logical_consistency: 0, reasoning_clarity: 0, article: 0 },
  },
  {
    name: "the prompt as reasoning",
    reasoning: SUM.prompt,
    answer: "85",
    expected: { ...unearned, reasoning_clarity: 0 },
  },
  {
    name: "the calculation as its own answer",
    reasoning: solution,
    answer: "47 + 38",
    expected: wrong,
  },
  {
    name: "digits of another script",
    reasoning: "４７ + ３８ = ８５",
    answer: "８５",
    expected: { ...wrong, logical_consistency: 0, reasoning_clarity: 0, article: 0 },
  },
  {
    name: "an answer in digits of another script",
    reasoning: solution,
    answer: "٨٥",
    expected: { ...wrong, reasoning_clarity: [0, 0.7] },
  },
  {
    name: "invisible characters between the others",
    reasoning: [...solution].join("\u200b"),
    answer: "85",
    expected: { ...right, logical_consistency: 0, reasoning_clarity: 0 },
  },
  {
    name: "a language that the prompt isn't in",
    reasoning: `我们来计算一下这个问题\n${solution}`,
    answer: "85",
    expected: { ...right, logical_consistency: 1, reasoning_clarity: 0 },
  },
  {
    name: "an enormous text",
    reasoning: lines(100_000, (i) => `47 + ${i} = ${47 + i}`),
    answer: "85",
    expected: { ...unearned, reasoning_clarity: 0, article: 0.3 },
  },
  {
    name: "an enormous answer",
    reasoning: solution,
    answer: `85${" and so on".repeat(100_000)}`,
    expected: { ...wrong, reasoning_clarity: 0, article: [0, 0.2] },
  },
];

for (const { name, reasoning, answer, expected } of ATTEMPTS) {
  Deno.test(`${name}`, () => {
    const { values, ...rewards } = judged(sumSample(reasoning, answer));
    for (const [what, range] of Object.entries(expected)) {
      assertWithin({ ...values, ...rewards }[what]!, range, what);
    }
  });
}

Deno.test("docs/reward.md has the figures of all attempts", () => {
  const file = new URL("../../../docs/reward.md", import.meta.url);
  const rows = new Set(
    Deno.readTextFileSync(file).split("\n").map((row) => row.replace(/ +/g, " ")),
  );
  const shown = (value: number | null) => String(Number(value!.toFixed(2)));
  for (const { name, reasoning, answer } of ATTEMPTS) {
    const { values, article, verifiable } = judged(sumSample(reasoning, answer));
    const figures = [
      ...[values.logical_consistency, values.solution_accuracy, values.reasoning_clarity],
      ...[values.efficiency, article, verifiable],
    ];
    const row = `| ${[name, ...figures.map(shown)].join(" | ")} |`;
    assert(rows.has(row), `it lacks ${row}`);
  }
});

Deno.test("a broken form has no clarity and no format, and answers nothing where it is ambiguous", () => {
  const attempts: [completion: string, accuracy: number, article: Expected][] = [
    [`<think>${solution}\nThe answer is 85.`, 0, 0.2],
    [`<think>${solution}</think>`, 0, 0.2],
    [`<think>${solution}\nThe answer is 85.</think>`, 0, 0.2],
    [`<think><think>${solution}</think></think>85`, 0, 0],
    [`<think>${solution}</think>84<think>${solution}</think>85`, 0, 0],
    [`</think>85<think>${solution}`, 0, 0],
    [`85`, 1, 0.3],
    [`Sure! <think>${solution}</think>85`, 1, 0.8],
    [``, 0, 0],
    ["<think>".repeat(1000), 0, 0],
  ];
  for (const [completion, accuracy, article] of attempts) {
    const rewards = judged({ prompt: SUM.prompt, completion, reference: SUM_REFERENCE });
    assertEquals(rewards.values.solution_accuracy, accuracy, completion.slice(0, 80));
    assertEquals(rewards.values.reasoning_clarity, 0);
    assertEquals(rewards.values.format, 0);
    assertWithin(rewards.article, article, completion.slice(0, 80));
  }
});

Deno.test("nothing that gives a wrong answer earns as much as anything that gives the right one with its steps", () => {
  const rewards = ATTEMPTS.map(({ reasoning, answer }) => judged(sumSample(reasoning, answer)));
  const best = Math.max(
    ...rewards.filter(({ values }) => values.solution_accuracy === 0).map(({ article }) => article),
  );
  const honest = rewards.filter(({ values }) =>
    values.solution_accuracy === 1 && values.logical_consistency === 1
  );
  assert(honest.length > 3);
  for (const { article } of honest) assert(article > best, `${article} against ${best}`);
});
