/**
 * Countdown: numbers, a target, and an expression to find that uses each number once. With three numbers
 * the working is a method, not luck: for each pair, what it can make, against what the third number
 * would need; it ends at the first match. With four it first picks two numbers to put together.
 */

import type { Draws } from "../draws.ts";
import type { Family, Made } from "../problem.ts";

/** A value and the expression that makes it; `isSum` where it has to be put in parentheses. */
interface Term {
  readonly value: number;
  readonly text: string;
  readonly rank: number;
}

interface Operation {
  readonly operator: "+" | "-" | "*" | "/";
  readonly rank: number;
  /** Null where the result is no whole number above 0, or changes nothing. */
  readonly apply: (a: number, b: number) => number | null;
}

const OPERATIONS: readonly Operation[] = [
  { operator: "+", rank: 1, apply: (a, b) => a + b },
  { operator: "-", rank: 1, apply: (a, b) => a > b ? a - b : null },
  { operator: "*", rank: 2, apply: (a, b) => a > 1 && b > 1 ? a * b : null },
  { operator: "/", rank: 2, apply: (a, b) => b > 1 && a % b === 0 ? a / b : null },
];

const LARGEST = 999;

function combine(operation: Operation, sides: readonly [Term, Term]): Term | null {
  const [a, b] = sides;
  const value = operation.apply(a.value, b.value);
  if (value === null || value > LARGEST) return null;
  const { operator, rank } = operation;
  const left = a.rank < rank ? `(${a.text})` : a.text;
  const isExposed = b.rank < rank || (b.rank === rank && (operator === "-" || operator === "/"));
  return { value, rank, text: `${left} ${operator} ${isExposed ? `(${b.text})` : b.text}` };
}

/** What two terms make, the larger one first. */
function resultsOf(a: Term, b: Term): Term[] {
  const sides: [Term, Term] = a.value >= b.value ? [a, b] : [b, a];
  return OPERATIONS.flatMap((operation) => combine(operation, sides) ?? []);
}

interface Goal {
  /** `88 - 4 = 84`: what the pair would have to make. */
  readonly claim: string;
  readonly value: number;
  readonly finish: (pair: Term) => Term | null;
}

/** What the others would have to make so that `last` leads from there to the target. */
function goalsOf(last: Term, target: number): Goal[] {
  const [plus, minus, times, over] = OPERATIONS;
  const n = last.value;
  const forms = [
    { value: target - n, claim: `${target} - ${n}`, finish: (p: Term) => combine(plus, [p, last]) },
    {
      value: target + n,
      claim: `${target} + ${n}`,
      finish: (p: Term) => combine(minus, [p, last]),
    },
    {
      value: target / n,
      claim: `${target} / ${n}`,
      finish: (p: Term) => combine(times, [p, last]),
    },
    { value: target * n, claim: `${target} * ${n}`, finish: (p: Term) => combine(over, [p, last]) },
    {
      value: n - target,
      claim: `${n} - ${target}`,
      finish: (p: Term) => combine(minus, [last, p]),
    },
    { value: n / target, claim: `${n} / ${target}`, finish: (p: Term) => combine(over, [last, p]) },
  ];
  return forms.filter(({ value }) => Number.isInteger(value) && value > 0 && value <= LARGEST)
    .map((form) => ({ ...form, claim: `${form.claim} = ${form.value}` }));
}

function termOf(value: number): Term {
  return { value, text: String(value), rank: 3 };
}

/** Looks for the target with three terms and writes down how; null where there is no way. */
function search(terms: readonly Term[], search: { target: number; lines: string[] }): Term | null {
  const { target, lines } = search;
  for (const [i, j, k] of [[0, 1, 2], [0, 2, 1], [1, 2, 0]]) {
    const [a, b, last] = [terms[i], terms[j], terms[k]];
    const results = resultsOf(a, b);
    const goals = goalsOf(last, target);
    const claims = results.map(({ text, value }) => `${text} = ${value}`);
    lines.push(`from ${a.value}, ${b.value}: ${claims.join("; ")}`);
    lines.push(`to ${target} with ${last.value}: ${goals.map(({ claim }) => claim).join("; ")}`);
    for (const goal of goals) {
      const result = results.find(({ value }) => value === goal.value);
      const found = result && goal.finish(result);
      if (found && found.value === target) {
        lines.push(`${goal.value} fits: ${found.text} = ${target}`);
        return found;
      }
    }
    lines.push("no match");
  }
  return null;
}

/** A target that the numbers can make, by putting random pairs together until one is left. */
function makeTarget(
  draws: Draws,
  numbers: readonly number[],
): { first: Term; target: number } | null {
  let terms = numbers.map(termOf);
  let first: Term | null = null;
  while (terms.length > 1) {
    const [a, b, ...rest] = draws.shuffle(terms);
    const results = resultsOf(a, b);
    const made = results[draws.integer(0, results.length - 1)];
    first ??= made;
    terms = [made, ...rest];
  }
  const target = terms[0].value;
  return target > 9 && target <= LARGEST && !numbers.includes(target)
    ? { first: first!, target }
    : null;
}

function numbersOf(draws: Draws, difficulty: number): number[] {
  if (difficulty === 1) return Array.from({ length: 3 }, () => draws.integer(1, 10));
  if (difficulty === 2) return Array.from({ length: 3 }, () => draws.integer(1, 50));
  return [...Array.from({ length: 3 }, () => draws.integer(1, 12)), draws.pick([10, 20, 25, 50])];
}

function solve(numbers: readonly number[], made: { first: Term; target: number }): Made | null {
  const { first, target } = made;
  const lines: string[] = [];
  let terms = numbers.map(termOf);
  if (numbers.length === 4) {
    const used = first.text.split(/ . /).map(Number);
    terms = [first, ...removeEach(terms, used)];
    lines.push(`first: ${first.text} = ${first.value}`);
  }
  const found = search(terms, { target, lines });
  if (found === null) return null;
  const list = [...numbers].sort((a, b) => a - b);
  return {
    key: `countdown ${list.join(" ")} to ${target}`,
    prompt: "",
    steps: lines,
    reply: `${found.text} = ${target}`,
    answer: found.text,
  };
}

function removeEach(terms: readonly Term[], values: readonly number[]): Term[] {
  const rest = [...terms];
  for (const value of values) rest.splice(rest.findIndex((term) => term.value === value), 1);
  return rest;
}

function promptOf(draws: Draws, options: { numbers: readonly number[]; target: number }): string {
  const { numbers, target } = options;
  const list = `${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}`;
  return draws.phrase([
    `Use ${list}, each exactly once, with + - * / to make ${target}.`,
    `Make ${target} from the numbers ${list}. Use each number once and only + - * /.`,
    `Find an expression with ${list} that equals ${target}. Use every number exactly once.`,
  ]);
}

export const countdown: Family = {
  name: "countdown",
  levels: 3,
  about: "three numbers (levels 1 and 2) or four (level 3) to be put together to a target",
  make(draws, { difficulty }) {
    while (true) {
      const numbers = numbersOf(draws, difficulty);
      const goal = makeTarget(draws, numbers);
      const made = goal && solve(numbers, goal);
      if (made) return { ...made, prompt: promptOf(draws, { numbers, target: goal.target }) };
    }
  },
};
