/** Checks tasks on letters and lists. */

import { boxedAnswer, plainAnswer, statesNumber } from "./answer_text.ts";
import type { Checker } from "./types.ts";

function quoted(text: string): string[] {
  return [...text.matchAll(/"([^"]*)"/g)].map((match) => match[1]);
}

/** The word that a text gives as its answer: the last in quotation marks, or all of it. */
function statedWord(text: string, given: string): string | null {
  const boxed = boxedAnswer(text);
  if (boxed === null) return null;
  if (boxed !== undefined) return boxed;
  const words = quoted(text);
  if (words.length === 0) return /^\w+\.?$/.test(text) ? text.replace(".", "") : null;
  const others = words.slice(0, -1);
  return others.every((word) => word === given) ? words.at(-1)! : null;
}

/** The items of the only list in a text. */
function statedList(text: string): string[] | null {
  const body = text.replace(/^[^:]*: /, "").replace(/\.$/, "");
  return body.includes(":") ? null : body.split(/, | and /);
}

function sortedLetters(word: string): string {
  return [...word].sort().join("");
}

/** Neighbours in order, and the same items. */
function isSortedCopy(list: readonly string[], given: readonly string[]): boolean {
  const isNumeric = given.every((item) => /^\d+$/.test(item));
  const inOrder = list.every((item, i) =>
    i === 0 || (isNumeric ? Number(list[i - 1]) <= Number(item) : list[i - 1] <= item)
  );
  const count = (items: readonly string[]) =>
    [...Map.groupBy(items, (item) => item)].map(([item, { length }]) => `${item} ${length}`).sort();
  return inOrder && count(list).join() === count(given).join();
}

export const strings: Checker = {
  isRight(prompt, text) {
    const plain = plainAnswer(text);
    if (plain === null) return false;
    const given = quoted(prompt);
    if (given.length === 2) {
      const [letter, word] = given;
      const count = word.split(letter).length - 1;
      return statesNumber(plain.replace(/"[^"]*"/g, ""), { prompt: "", value: count });
    }
    if (given.length === 1) {
      const [word] = given;
      const turned = /\b(?:backwards|reverse|reversed)\b/i.test(prompt);
      const wanted = turned ? word.split("").reverse().join("") : sortedLetters(word);
      return statedWord(plain, word) === wanted;
    }
    const list = statedList(plain);
    const items = /: (.+)\.$/.exec(prompt)?.[1].split(", ");
    return list !== null && items !== undefined && isSortedCopy(list, items);
  },
};
