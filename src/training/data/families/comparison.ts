/**
 * Which number is larger or smaller. Levels: two of the same length, two of any length, decimals, and
 * three or four numbers.
 */

import type { Draws } from "../draws.ts";
import type { Family, Made } from "../problem.ts";

/** A decimal number as digits: `9.11` is whole 9, decimals "11". */
interface Decimal {
  readonly text: string;
  readonly whole: number;
  readonly decimals: string;
}

function decimal(draws: Draws, whole: number): Decimal {
  const places = draws.integer(1, 3);
  const decimals = Array.from({ length: places }, () => draws.integer(0, 9)).join("");
  return { text: `${whole}.${decimals}`, whole, decimals };
}

function whole(value: number): Decimal {
  return { text: String(value), whole: value, decimals: "" };
}

/** Below 0, 0 or above 0. */
function order(a: Decimal, b: Decimal): number {
  const places = Math.max(a.decimals.length, b.decimals.length);
  const scaled = ({ whole, decimals }: Decimal) =>
    whole * 10 ** places + Number(decimals.padEnd(places, "0") || "0");
  return scaled(a) - scaled(b);
}

function sign(a: Decimal, b: Decimal): string {
  const difference = order(a, b);
  return difference > 0 ? ">" : difference < 0 ? "<" : "=";
}

/** How two numbers are compared: by length, by the first digit that differs, by padded decimals. */
function compareSteps(a: Decimal, b: Decimal): string {
  const whole = `${a.text} ${sign(a, b)} ${b.text}`;
  const [x, y] = [String(a.whole), String(b.whole)];
  const claims: string[] = [];
  const hasDecimals = a.decimals + b.decimals !== "";
  if (hasDecimals && a.whole !== b.whole) {
    claims.push(`${x} ${a.whole > b.whole ? ">" : "<"} ${y}`);
  } else if (x.length !== y.length) {
    claims.push(`${a.text} has ${x.length} and ${b.text} has ${y.length} digits`);
    claims.push(`${x.length} ${x.length > y.length ? ">" : "<"} ${y.length}`);
  } else {
    const first = [...x].findIndex((digit, i) => digit !== y[i]);
    if (first >= 0) {
      for (let i = 0; i < first; i++) claims.push(`${x[i]} = ${y[i]}`);
      claims.push(`${x[first]} ${x[first] > y[first] ? ">" : "<"} ${y[first]}`);
    } else if (a.decimals !== b.decimals) {
      const places = Math.max(a.decimals.length, b.decimals.length);
      const [p, q] = [a, b].map(({ decimals }) => decimals.padEnd(places, "0"));
      claims.push(`${x} = ${y}`);
      claims.push(`${a.text} = ${x}.${p}`, `${b.text} = ${y}.${q}`);
      claims.push(`${p} ${p > q ? ">" : p < q ? "<" : "="} ${q}`);
    }
  }
  return [...claims, whole].join("; ");
}

function pair(draws: Draws, difficulty: number): Decimal[] {
  if (difficulty === 1) {
    const digits = draws.integer(1, 3);
    return [whole(draws.withDigits(digits)), whole(draws.withDigits(digits))];
  }
  if (difficulty === 2) {
    return [
      whole(draws.withDigits(draws.integer(1, 5))),
      whole(draws.withDigits(draws.integer(1, 5))),
    ];
  }
  const first = draws.integer(0, 20);
  const second = draws.chance(0.7) ? first : draws.integer(0, 20);
  return [decimal(draws, first), decimal(draws, second)];
}

function compareTwo(draws: Draws, numbers: readonly Decimal[]): Made {
  const [a, b] = numbers;
  const wantsLarger = draws.chance(0.5);
  const word = wantsLarger ? "larger" : "smaller";
  const other = wantsLarger ? draws.pick(["greater", "bigger"]) : "less";
  const difference = wantsLarger ? order(a, b) : order(b, a);
  const chosen = difference >= 0 ? a : b;
  const isEqual = difference === 0;
  return {
    key: `comparison ${[a.text, b.text].sort().join(" ")}`,
    prompt: draws.phrase([
      `Which is ${word}, ${a.text} or ${b.text}?`,
      `Which number is ${other}: ${a.text} or ${b.text}?`,
      `Is ${a.text} or ${b.text} the ${word} number?`,
    ]),
    steps: [compareSteps(a, b)],
    reply: isEqual ? `${a.text} and ${b.text} are equal.` : `${chosen.text} is ${word}.`,
    answer: isEqual ? "equal" : chosen.text,
  };
}

function compareSeveral(draws: Draws): Made {
  const count = draws.integer(3, 4);
  const texts = new Set<number>();
  while (texts.size < count) texts.add(draws.withDigits(draws.integer(1, 4)));
  const numbers = [...texts].map(whole);
  const wantsLargest = draws.chance(0.5);
  const word = wantsLargest ? "largest" : "smallest";
  const steps: string[] = [];
  const chosen = numbers.reduce((best, number) => {
    steps.push(compareSteps(best, number));
    return (order(number, best) > 0) === wantsLargest ? number : best;
  });
  const list = numbers.map(({ text }) => text).join(", ");
  return {
    key: `comparison ${word} ${numbers.map(({ text }) => text).sort().join(" ")}`,
    prompt: draws.phrase([
      `Which of these numbers is the ${word}: ${list}?`,
      `What is the ${word} of ${list}?`,
      `Find the ${word} number: ${list}.`,
    ]),
    steps,
    reply: `The ${word} number is ${chosen.text}.`,
    answer: chosen.text,
  };
}

export const comparison: Family = {
  name: "comparison",
  levels: 4,
  about: "the larger or smaller of two numbers or decimals, the largest of several",
  make(draws, { difficulty }) {
    return difficulty === 4 ? compareSeveral(draws) : compareTwo(draws, pair(draws, difficulty));
  },
};
