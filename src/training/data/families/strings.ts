/** Tasks on letters and lists: spelling backwards, counting a letter, sorting letters and lists. */

import type { Draws } from "../draws.ts";
import type { Family, Made } from "../problem.ts";
import { WORDS } from "./names.ts";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** A word, or letters at random, which nobody can know by heart. */
function wordOf(draws: Draws): string {
  if (draws.chance(0.6)) return draws.pick(WORDS);
  return Array.from({ length: draws.integer(3, 8) }, () => draws.pick([...LETTERS])).join("");
}

function spaced(word: string): string {
  return [...word].join(" ");
}

function reverse(draws: Draws): Made {
  const word = wordOf(draws);
  const letters = [...word].reverse();
  const result = letters.join("");
  return {
    key: `strings reverse ${word}`,
    prompt: draws.phrase([
      `Spell "${word}" backwards.`,
      `Write the word "${word}" in reverse.`,
      `What is "${word}" reversed?`,
    ]),
    steps: [
      `spell ${word}: ${spaced(word)}`,
      `reverse ${spaced(word)}: ${letters.join(" ")}`,
      `join ${letters.join(" ")}: ${result}`,
    ],
    reply: `"${word}" backwards is "${result}".`,
    answer: result,
  };
}

function count(draws: Draws): Made {
  const word = wordOf(draws);
  const letter = draws.chance(0.85) ? draws.pick([...word]) : draws.pick([...LETTERS]);
  let seen = 0;
  const tally = [...word].map((each) => {
    if (each === letter) seen++;
    return `${each} ${seen}`;
  });
  return {
    key: `strings count ${letter} ${word}`,
    prompt: draws.phrase([
      `How many times does the letter "${letter}" occur in "${word}"?`,
      `Count the letter "${letter}" in the word "${word}".`,
      `How often is "${letter}" in "${word}"?`,
    ]),
    steps: [`spell ${word}: ${spaced(word)}`, `tally ${letter}: ${tally.join(", ")}`],
    reply: `The letter "${letter}" occurs ${seen} time${seen === 1 ? "" : "s"} in "${word}".`,
    answer: String(seen),
  };
}

/** Takes the smallest of what is left until nothing is. */
function selection<T>(items: readonly T[], compare: (a: T, b: T) => number): {
  sorted: T[];
  steps: string[];
} {
  const rest = [...items];
  const sorted: T[] = [];
  const steps: string[] = [];
  while (rest.length > 1) {
    const smallest = rest.reduce((a, b) => compare(b, a) < 0 ? b : a);
    steps.push(`smallest of ${rest.join(", ")}: ${smallest}`);
    sorted.push(...rest.splice(rest.indexOf(smallest), 1));
  }
  return { sorted: [...sorted, ...rest], steps };
}

const byLetters = (a: string, b: string) => a < b ? -1 : a > b ? 1 : 0;

function sortLetters(draws: Draws): Made {
  const word = wordOf(draws);
  const { sorted, steps } = selection([...word], byLetters);
  const result = sorted.join("");
  return {
    key: `strings letters ${word}`,
    prompt: draws.phrase([
      `Sort the letters of "${word}" alphabetically.`,
      `Put the letters of the word "${word}" in alphabetical order.`,
    ]),
    steps: [`spell ${word}: ${spaced(word)}`, ...steps, `join ${sorted.join(" ")}: ${result}`],
    reply: `The letters of "${word}" in order are "${result}".`,
    answer: result,
  };
}

function sortWords(draws: Draws): Made {
  const words = draws.sample(WORDS, draws.integer(3, 5));
  const { sorted, steps } = selection(words, byLetters);
  const [list, result] = [words.join(", "), sorted.join(", ")];
  return {
    key: `strings words ${result}`,
    prompt: draws.phrase([
      `Sort these words alphabetically: ${list}.`,
      `Put these words in alphabetical order: ${list}.`,
    ]),
    steps: [...steps, `sort ${list}: ${result}`],
    reply: `In order: ${result}.`,
    answer: result,
  };
}

function sortNumbers(draws: Draws): Made {
  const numbers = new Set<number>();
  const size = draws.integer(3, 5);
  while (numbers.size < size) numbers.add(draws.withDigits(draws.integer(1, 3)));
  const { sorted, steps } = selection([...numbers], (a, b) => a - b);
  const [list, result] = [[...numbers].join(", "), sorted.join(", ")];
  return {
    key: `strings numbers ${result}`,
    prompt: draws.phrase([
      `Sort these numbers from the smallest to the largest: ${list}.`,
      `Put these numbers in ascending order: ${list}.`,
    ]),
    steps: [...steps, `sort ${list}: ${result}`],
    reply: `In order: ${result}.`,
    answer: result,
  };
}

const LEVELS: readonly (readonly ((draws: Draws) => Made)[])[] = [
  [reverse, count],
  [sortWords, sortNumbers],
  [sortLetters],
];

export const strings: Family = {
  name: "strings",
  levels: LEVELS.length,
  about: "spelling backwards and counting letters, sorting words, numbers and letters",
  make: (draws, { difficulty }) => draws.pick(LEVELS[difficulty - 1])(draws),
};
