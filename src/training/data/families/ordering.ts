/** Who is tallest, oldest, fastest: three to five people, compared in pairs, in any order. */

import type { Draws } from "../draws.ts";
import type { Family } from "../problem.ts";
import { NAMES } from "./names.ts";

interface Quality {
  /** "taller", the word for more, and "shorter". */
  readonly more: string;
  readonly less: string;
  readonly most: string;
  readonly least: string;
}

const QUALITIES: readonly Quality[] = [
  { more: "taller", less: "shorter", most: "tallest", least: "shortest" },
  { more: "older", less: "younger", most: "oldest", least: "youngest" },
  { more: "faster", less: "slower", most: "fastest", least: "slowest" },
  { more: "heavier", less: "lighter", most: "heaviest", least: "lightest" },
  { more: "richer", less: "poorer", most: "richest", least: "poorest" },
];

/** People by level. */
const PEOPLE = [3, 4, 5] as const;

interface Puzzle {
  readonly quality: Quality;
  /** From the most to the least. */
  readonly ranking: readonly string[];
  readonly premises: string;
}

function puzzleOf(draws: Draws, difficulty: number): Puzzle {
  const quality = draws.pick(QUALITIES);
  const ranking = draws.sample(NAMES, PEOPLE[difficulty - 1]);
  const premises = draws.shuffle(
    ranking.slice(1).map((low, i) => {
      const high = ranking[i];
      return draws.chance(0.5)
        ? `${high} is ${quality.more} than ${low}.`
        : `${low} is ${quality.less} than ${high}.`;
    }),
  );
  return { quality, ranking, premises: premises.join(" ") };
}

/** The premises as relations, in the prompt's order, then joined. */
function stepsOf({ quality, ranking, premises }: Puzzle): string[] {
  const pairs = premises.split(". ").map((premise) => {
    const [left, , word, , right] = premise.replace(".", "").split(" ");
    return word === quality.more ? `${left} > ${right}` : `${right} > ${left}`;
  });
  return [pairs.join("; "), ranking.join(" > ")];
}

interface Question {
  readonly text: string;
  readonly reply: string;
  readonly answer: string;
}

function questionOf(draws: Draws, { quality, ranking }: Puzzle): Question {
  const kind = draws.integer(0, 2);
  if (kind === 2) {
    const [i, j] = draws.sample(ranking.map((_, place) => place), 2);
    const isMore = i < j;
    const answer = isMore ? "yes" : "no";
    const text = `Is ${ranking[i]} ${quality.more} than ${ranking[j]}?`;
    const word = isMore ? quality.more : quality.less;
    const reply = `${isMore ? "Yes" : "No"}, ${ranking[i]} is ${word} than ${ranking[j]}.`;
    return { text, reply, answer };
  }
  const word = kind === 0 ? quality.most : quality.least;
  const answer = kind === 0 ? ranking[0] : ranking.at(-1)!;
  const text = draws.pick([`Who is the ${word}?`, `Which of them is the ${word}?`]);
  return { text, reply: `${answer} is the ${word}.`, answer };
}

export const ordering: Family = {
  name: "ordering",
  levels: PEOPLE.length,
  about: "three to five people compared in pairs: who is first or last, or how two compare",
  make(draws, { difficulty }) {
    const puzzle = puzzleOf(draws, difficulty);
    const question = questionOf(draws, puzzle);
    return {
      // Whatever is asked and in whatever words: one ranking is one problem.
      key: `ordering ${puzzle.quality.most} ${puzzle.ranking.join(" ")}`,
      prompt: `${puzzle.premises} ${question.text}`,
      steps: stepsOf(puzzle),
      reply: question.reply,
      answer: question.answer,
    };
  },
};
