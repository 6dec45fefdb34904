/**
 * Checks syllogisms over all models: a thing belongs to some of the classes, and the premises say which
 * combinations there can be. A statement follows where no allowed combination speaks against it. No
 * class is empty.
 */

import { plainAnswer } from "./answer_text.ts";
import type { LineVerdict } from "./claims.ts";
import type { Checker } from "./types.ts";

type Verdict = "yes" | "no" | "unknown";

/** There are two to the power of this many combinations of classes; problems have four classes. */
const MAX_CLASSES = 8;

class Models {
  readonly #classes: string[] = [];
  /** Allowed combinations, a bit for each class. */
  #allowed: number[] = [];

  constructor(prompt: string) {
    const premises = [...prompt.matchAll(/\b(All|No) (\w+) are (\w+)\./g)];
    for (const [, , a, b] of premises) {
      for (const name of [a, b]) if (!this.#classes.includes(name)) this.#classes.push(name);
    }
    if (this.#classes.length > MAX_CLASSES) this.#classes.length = 0;
    this.#allowed = Array.from({ length: 2 ** this.#classes.length }, (_, types) => types)
      .filter((types) =>
        premises.every(([, quantity, a, b]) =>
          !this.#has(types, a) || this.#has(types, b) === (quantity === "All")
        )
      );
  }

  knows(name: string): boolean {
    return this.#classes.includes(name);
  }

  #has(types: number, name: string): boolean {
    return (types >> this.#classes.indexOf(name) & 1) === 1;
  }

  /** Whether all `a` are `b`: in every model, in none, or in some. */
  all(a: string, b: string): Verdict {
    const isCounter = (types: number) => this.#has(types, a) && !this.#has(types, b);
    if (!this.#allowed.some(isCounter)) return "yes";
    const isPossible = this.#classes.every((name) =>
      this.#allowed.some((types) => this.#has(types, name) && !isCounter(types))
    );
    return isPossible ? "unknown" : "no";
  }

  /** Whether it follows that no `a` is a `b`. */
  none(a: string, b: string): boolean {
    return !this.#allowed.some((types) => this.#has(types, a) && this.#has(types, b));
  }
}

const UNKNOWN = /\b(?:can(?:'t|not)|not) be (?:known|said)\b|\bunknown\b|\bnot enough\b/i;

function statedVerdict(text: string): Verdict | null {
  const says: Verdict[] = [];
  if (/\byes\b/i.test(text)) says.push("yes");
  if (/\bno\b(?! way)/i.test(text)) says.push("no");
  if (UNKNOWN.test(text)) says.push("unknown");
  return says.length === 1 ? says[0] : null;
}

function statements(text: string, models: Models): LineVerdict {
  let right = 0;
  const wrong: string[] = [];
  const judge = (statement: string, isRight: boolean) => {
    if (isRight) right++;
    else wrong.push(statement);
  };
  for (const [statement, quantity, a, b] of text.matchAll(/\b(all|no) (\w+) are (\w+)/gi)) {
    if (!models.knows(a) || !models.knows(b)) continue;
    judge(
      statement,
      quantity.toLowerCase() === "all" ? models.all(a, b) === "yes" : models.none(a, b),
    );
  }
  for (const [statement, a, b] of text.matchAll(/\bnothing leads from (\w+) to (\w+)/gi)) {
    if (models.knows(a) && models.knows(b)) judge(statement, models.all(a, b) === "unknown");
  }
  return { right, wrong };
}

export const syllogism: Checker = {
  isRight(prompt, text) {
    const plain = plainAnswer(text);
    const asked = /\ball (\w+) (?:are )?(\w+)[?,]/.exec(prompt);
    if (plain === null || asked === null) return false;
    const models = new Models(prompt);
    if (!models.knows(asked[1]) || !models.knows(asked[2])) return false;
    return statedVerdict(plain) === models.all(asked[1], asked[2]) &&
      statements(plain, models).wrong.length === 0;
  },

  checkLine(prompt, line) {
    const verdict = statements(line, new Models(prompt));
    return verdict.right + verdict.wrong.length === 0 ? null : verdict;
  },
};
