/**
 * Checks word problems by reading the story as a person in a hurry would: by the words that say what
 * happens to the numbers. It knows nothing of the generator's templates.
 */

import { statesNumber } from "./answer_text.ts";
import type { Checker } from "./types.ts";

/** What is asked, and the story's numbers in order. */
interface Story {
  readonly text: string;
  readonly numbers: readonly number[];
}

interface Rule {
  readonly when: RegExp;
  /** How many numbers the story must have. */
  readonly count: number;
  readonly solve: (story: Story) => number;
}

const TIMES: Readonly<Record<string, number>> = { twice: 2, three: 3, four: 4, five: 5 };

function factorOf({ text }: Story): number {
  return TIMES[/\b(twice|three|four|five)(?: times)? as many\b/i.exec(text)![1].toLowerCase()];
}

/** The number that `pattern` captures, and the other one. */
function named({ text, numbers }: Story, pattern: RegExp): [named: number, other: number] {
  const value = Number(pattern.exec(text)![1]);
  const at = numbers.indexOf(value);
  return [value, numbers[1 - at]];
}

function signed(story: Story): [step: number, base: number] {
  const [step, base] = named(story, /\b(\d+) (?:years )?(?:more|fewer|older|younger)\b/i);
  return [/\b(?:fewer|younger)\b/i.test(story.text) ? -step : step, base];
}

/** The first rule that fits decides; the more particular ones come first. */
const RULES: readonly Rule[] = [
  { when: /\bhalf of\b/i, count: 1, solve: ({ numbers: [a] }) => a / 2 },
  {
    when: /\bas many\b.*\b(?:together)\b/i,
    count: 1,
    solve: (story) => story.numbers[0] * (1 + factorOf(story)),
  },
  { when: /\bas many\b/i, count: 1, solve: (story) => story.numbers[0] * factorOf(story) },
  {
    when: /\byears (?:older|younger)\b/i,
    count: 2,
    solve(story) {
      const [step, base] = signed(story);
      return base + step;
    },
  },
  {
    when: /\b(?:more|fewer)\b.* than\b.*\btogether\b/i,
    count: 2,
    solve(story) {
      const [step, base] = signed(story);
      return 2 * base + step;
    },
  },
  {
    when: /\bhow many (?:more|fewer)\b/i,
    count: 2,
    solve: ({ numbers: [a, b] }) => Math.abs(a - b),
  },
  {
    when: /\b(?:the rest|the others)\b/i,
    count: 3,
    solve: ({ numbers: [a, b, c] }) => (a - b) / c,
  },
  { when: /\bkm an hour\b/i, count: 3, solve: ({ numbers: [a, b, c] }) => a * b + c },
  { when: /\bspends\b/i, count: 3, solve: ({ numbers: [a, b, c] }) => a * b - c },
  { when: /\brows\b/i, count: 3, solve: ({ numbers: [a, b, c] }) => a * b - c },
  {
    when: /\bdollars each\b/i,
    count: 3,
    solve(story) {
      const money = Number(/\b(?:pays with|had) (\d+) dollars\b/i.exec(story.text)?.[1]);
      const product = story.numbers.reduce((all, number) => all * number, 1);
      return money - product / money;
    },
  },
  { when: /\bin each\b/i, count: 3, solve: ({ numbers: [a, b, c] }) => a * b + c },
  {
    when: /\bequally\b|\bthe same number in each\b/i,
    count: 2,
    solve: ({ numbers: [a, b] }) => a / b,
  },
  {
    when: /\bin each\b|\bdollars each\b|\ba day for\b/i,
    count: 2,
    solve: ({ numbers: [a, b] }) => a * b,
  },
  { when: /\bmore and\b/i, count: 3, solve: ({ numbers: [a, b, c] }) => a + b - c },
  {
    when: /\b(?:gives|lost|sold|read)\b/i,
    count: 2,
    solve: ({ numbers: [a, b] }) => Math.abs(a - b),
  },
  { when: /\b(?:more|together|in total)\b/i, count: 2, solve: ({ numbers: [a, b] }) => a + b },
];

/** The answer to a story, or null where no rule fits. */
export function solveStory(prompt: string): number | null {
  const text = prompt.replaceAll("\n", " ");
  const numbers = [...text.matchAll(/\d+/g)].map((match) => Number(match[0]));
  const rule = RULES.find(({ when, count }) => count === numbers.length && when.test(text));
  const answer = rule?.solve({ text, numbers });
  return answer !== undefined && Number.isInteger(answer) ? answer : null;
}

export const wordProblem: Checker = {
  isRight(prompt, text) {
    const value = solveStory(prompt);
    return value !== null && statesNumber(text, { prompt, value });
  },
};
