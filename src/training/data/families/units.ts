/** Lengths, masses, volumes and money: conversions, sums in the smaller unit, and splitting up. */

import type { Draws } from "../draws.ts";
import type { Family, Made } from "../problem.ts";
import { type Notation, Working } from "../working.ts";

interface Pair {
  readonly large: string;
  readonly small: string;
  /** How many small ones make a large one. */
  readonly factor: number;
  /** How people say them, in the plural. */
  readonly words: readonly [large: string, small: string];
}

const PAIRS: readonly Pair[] = [
  { large: "km", small: "m", factor: 1000, words: ["kilometers", "meters"] },
  { large: "m", small: "cm", factor: 100, words: ["meters", "centimeters"] },
  { large: "cm", small: "mm", factor: 10, words: ["centimeters", "millimeters"] },
  { large: "kg", small: "g", factor: 1000, words: ["kilograms", "grams"] },
  { large: "l", small: "ml", factor: 1000, words: ["liters", "milliliters"] },
  { large: "dollar", small: "cents", factor: 100, words: ["dollars", "cents"] },
];

interface Case {
  readonly pair: Pair;
  readonly working: Working;
}

/** "3 m" and "5 dollars": money has no abbreviation. */
function large({ large, words }: Pair, count: number): string {
  return large === "dollar" ? `${count} ${count === 1 ? "dollar" : words[0]}` : `${count} ${large}`;
}

function begin(draws: Draws, notation: Notation): Case {
  const pair = draws.pick(PAIRS);
  const working = new Working(notation);
  working.line(`1 ${pair.large} = ${pair.factor} ${pair.small}`);
  return { pair, working };
}

function convert(draws: Draws, { pair, working }: Case): Made {
  const count = draws.integer(2, 99);
  const result = working.multiply(count, pair.factor);
  return {
    key: `units ${pair.large} ${count} to ${pair.small}`,
    prompt: draws.phrase([
      `How many ${pair.words[1]} are ${large(pair, count)}?`,
      `Convert ${large(pair, count)} to ${pair.words[1]}.`,
      `Write ${large(pair, count)} in ${pair.words[1]}.`,
    ]),
    steps: working.lines,
    reply: `${large(pair, count)} are ${result} ${pair.small}.`,
    answer: `${result} ${pair.small}`,
  };
}

function both(draws: Draws, { pair, working }: Case): Made {
  const count = draws.integer(1, 40);
  const rest = draws.integer(1, pair.factor - 1);
  const result = working.add(working.multiply(count, pair.factor), rest);
  const amount = `${large(pair, count)} and ${rest} ${pair.small}`;
  return {
    key: `units ${pair.large} ${count} ${pair.small} ${rest} to ${pair.small}`,
    prompt: draws.phrase([
      `How many ${pair.words[1]} are ${amount}?`,
      `Convert ${amount} to ${pair.words[1]}.`,
      `Write ${amount} in ${pair.words[1]} only.`,
    ]),
    steps: working.lines,
    reply: `${amount} are ${result} ${pair.small}.`,
    answer: `${result} ${pair.small}`,
  };
}

function addUp(draws: Draws, { pair, working }: Case): Made {
  const count = draws.integer(2, 40);
  const rest = draws.integer(1, 3 * pair.factor);
  const isSum = draws.chance(0.6) || rest > count * pair.factor;
  const start = working.multiply(count, pair.factor);
  const result = isSum ? working.add(start, rest) : working.subtract(start, rest);
  const [first, second] = [large(pair, count), `${rest} ${pair.small}`];
  const [verb, order] = isSum
    ? ["Add", `${first} and ${second}`]
    : ["Subtract", `${second} from ${first}`];
  const inWords = isSum ? `${first} + ${second}` : `${first} - ${second}`;
  return {
    key: `units ${pair.large} ${count} ${isSum ? "+" : "-"} ${pair.small} ${rest}`,
    prompt: draws.phrase([
      `What is ${inWords} in ${pair.words[1]}?`,
      `${verb} ${order}. Give the answer in ${pair.words[1]}.`,
    ]),
    steps: working.lines,
    reply: `The result is ${result} ${pair.small}.`,
    answer: `${result} ${pair.small}`,
  };
}

function splitUp(draws: Draws, { pair, working }: Case): Made {
  const total = draws.integer(pair.factor + 1, 30 * pair.factor);
  const { quotient, remainder } = working.divide(total, pair.factor);
  const answer = `${large(pair, quotient)} and ${remainder} ${pair.small}`;
  return {
    key: `units ${pair.small} ${total} to ${pair.large}`,
    prompt: draws.phrase([
      `How many whole ${pair.words[0]} are ${total} ${pair.small}, and how many ${
        pair.words[1]
      } remain?`,
      `Write ${total} ${pair.small} in ${pair.words[0]} and ${pair.words[1]}.`,
      `Split ${total} ${pair.small} into ${pair.words[0]} and ${pair.words[1]}.`,
    ]),
    steps: working.lines,
    reply: `${total} ${pair.small} are ${answer}.`,
    answer,
  };
}

const LEVELS = [convert, both, addUp, splitUp];

export const units: Family = {
  name: "units",
  levels: LEVELS.length,
  about: "lengths, masses, volumes and money in two units",
  make: (draws, { difficulty, notation }) => LEVELS[difficulty - 1](draws, begin(draws, notation)),
};
