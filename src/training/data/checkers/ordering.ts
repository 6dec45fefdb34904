/** Checks ordering puzzles: the premises as a graph, what follows as its paths. */

import { plainAnswer, statedChoice } from "./answer_text.ts";
import type { LineVerdict } from "./claims.ts";
import type { Checker } from "./types.ts";

/** Words for more, with the words for less. */
const OPPOSITES: ReadonlyMap<string, string> = new Map([
  ["tall", "short"],
  ["old", "young"],
  ["fast", "slow"],
  ["heavi", "light"],
  ["rich", "poor"],
]);

interface Direction {
  readonly stem: string;
  readonly isMore: boolean;
}

/** `shortest` is the stem "short" and less. */
function directionOf(word: string): Direction | null {
  const stem = word.toLowerCase().replace(/(?:er|est)$/, "");
  for (const [more, less] of OPPOSITES) {
    if (stem === more) return { stem: more, isMore: true };
    if (stem === less) return { stem: more, isMore: false };
  }
  return null;
}

class Ranking {
  /** Each name with those that are directly below it. */
  readonly #below = new Map<string, Set<string>>();

  constructor(prompt: string) {
    for (const match of prompt.matchAll(/([A-Z]\w*) is (\w+) than ([A-Z]\w*)\./g)) {
      const [, left, word, right] = match;
      const direction = directionOf(word);
      if (direction === null) continue;
      const [high, low] = direction.isMore ? [left, right] : [right, left];
      this.#belowOf(high).add(low);
      this.#belowOf(low);
    }
  }

  get names(): string[] {
    return [...this.#below.keys()];
  }

  #belowOf(name: string): Set<string> {
    let below = this.#below.get(name);
    if (below === undefined) this.#below.set(name, below = new Set());
    return below;
  }

  /** Whether a path leads down from `high` to `low`. */
  isAbove(high: string, low: string): boolean {
    const open = [high];
    const seen = new Set<string>();
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      for (const next of this.#below.get(name) ?? []) {
        if (next === low) return true;
        if (!seen.has(next)) open.push(next);
        seen.add(next);
      }
    }
    return false;
  }

  /** The one above, or below, all others. */
  extreme(isMost: boolean): string | undefined {
    return this.names.find((name) =>
      this.names.every((other) =>
        other === name || (isMost ? this.isAbove(name, other) : this.isAbove(other, name))
      )
    );
  }
}

function comparisonIsRight(text: string, options: { ranking: Ranking; isTrue: boolean }): boolean {
  const { ranking, isTrue } = options;
  const says = { yes: /\byes\b/i.test(text), no: /\bno\b/i.test(text) };
  if (says.yes === says.no || says.yes !== isTrue) return false;
  const claim = /([A-Z]\w*) is (not )?(\w+) than ([A-Z]\w*)/.exec(text.replace(/^\w+, /, ""));
  if (claim === null) return true;
  const direction = directionOf(claim[3]);
  if (direction === null) return false;
  const [high, low] = direction.isMore ? [claim[1], claim[4]] : [claim[4], claim[1]];
  return ranking.isAbove(high, low) === (claim[2] === undefined);
}

export const ordering: Checker = {
  isRight(prompt, text) {
    const ranking = new Ranking(prompt);
    const plain = plainAnswer(text);
    if (plain === null) return false;
    const asked = /Is ([A-Z]\w*) (\w+) than ([A-Z]\w*)\?/.exec(prompt);
    if (asked !== null) {
      const direction = directionOf(asked[2]);
      if (direction === null) return false;
      const [high, low] = direction.isMore ? [asked[1], asked[3]] : [asked[3], asked[1]];
      return comparisonIsRight(plain, { ranking, isTrue: ranking.isAbove(high, low) });
    }
    const direction = directionOf(/the (\w+)\?/.exec(prompt)?.[1] ?? "");
    if (direction === null || /\b(?:not|yes|no)\b/i.test(plain)) return false;
    // What the sentence says of the name must be what was asked.
    const said = plain.split(/\W+/).flatMap((word) => directionOf(word) ?? []);
    const fits = ({ stem, isMore }: Direction) =>
      stem === direction.stem && isMore === direction.isMore;
    if (!said.every(fits)) return false;
    const answer = ranking.extreme(direction.isMore);
    return answer !== undefined && statedChoice(plain, ranking.names) === answer;
  },

  checkLine(prompt, line): LineVerdict | null {
    const ranking = new Ranking(prompt);
    let right = 0;
    const wrong: string[] = [];
    for (const chain of line.split("; ")) {
      const names = chain.split(" > ");
      if (names.length < 2 || !names.every((name) => ranking.names.includes(name))) continue;
      if (names.every((name, i) => i === 0 || ranking.isAbove(names[i - 1], name))) right++;
      else wrong.push(chain);
    }
    return right + wrong.length === 0 ? null : { right, wrong };
  },
};
