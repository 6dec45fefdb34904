/**
 * What follows from two or three statements about made-up classes, none of them empty. The answers are
 * yes, no, and that it can't be known.
 */

import type { Draws } from "../draws.ts";
import type { Family } from "../problem.ts";
import { CREATURES } from "./names.ts";

type Quantity = "all" | "no";

interface Statement {
  readonly quantity: Quantity;
  readonly subject: string;
  readonly predicate: string;
}

function statement(quantity: Quantity, subject: string, predicate: string): Statement {
  return { quantity, subject, predicate };
}

function textOf({ quantity, subject, predicate }: Statement): string {
  return `${quantity} ${subject} are ${predicate}`;
}

type Outcome = "yes" | "no" | "unknown";

interface Form {
  readonly premises: readonly Statement[];
  readonly asked: readonly [subject: string, predicate: string];
  readonly outcome: Outcome;
}

const all = (a: string, b: string) => statement("all", a, b);
const none = (a: string, b: string) => statement("no", a, b);

/** Forms over three classes; `Are all a c?` is asked. */
function threeClasses(draws: Draws, [a, b, c]: readonly string[]): Form {
  return draws.pick<Form>([
    {
      premises: [all(a, b), all(b, c)],
      asked: [a, c],
      outcome: "yes",
    },
    {
      premises: [all(a, b), none(b, c)],
      asked: [a, c],
      outcome: "no",
    },
    {
      premises: [all(a, b), none(c, b)],
      asked: [a, c],
      outcome: "no",
    },
    {
      premises: [all(a, b), all(c, b)],
      asked: [a, c],
      outcome: "unknown",
    },
    {
      premises: [all(b, a), all(b, c)],
      asked: [a, c],
      outcome: "unknown",
    },
  ]);
}

/** The same with one more link. */
function fourClasses(draws: Draws, [a, b, c, d]: readonly string[]): Form {
  return draws.pick<Form>([
    {
      premises: [all(a, b), all(b, c), all(c, d)],
      asked: [a, d],
      outcome: "yes",
    },
    {
      premises: [all(a, b), all(b, c), none(c, d)],
      asked: [a, d],
      outcome: "no",
    },
    {
      premises: [all(a, b), all(b, c), all(d, c)],
      asked: [a, d],
      outcome: "unknown",
    },
  ]);
}

function replyOf({ asked: [subject, predicate], outcome }: Form): string {
  if (outcome === "yes") return `Yes, all ${subject} are ${predicate}.`;
  if (outcome === "no") return `No, no ${subject} are ${predicate}.`;
  return "That can't be known.";
}

/** The premises in the order in which they lead somewhere, and where they lead. */
function reasonOf({ premises, asked: [subject, predicate], outcome }: Form): string {
  const end = {
    yes: `so all ${subject} are ${predicate}`,
    no: `so no ${subject} are ${predicate}`,
    unknown: `nothing leads from ${subject} to ${predicate}`,
  };
  return [...premises.map(textOf), end[outcome]].join(", ");
}

function capitalised(text: string): string {
  return text[0].toUpperCase() + text.slice(1);
}

export const syllogism: Family = {
  name: "syllogism",
  levels: 2,
  about: "what follows about made-up classes from two (level 1) or three statements",
  make(draws, { difficulty }) {
    const classes = draws.sample(CREATURES, difficulty + 2);
    const form = difficulty === 1 ? threeClasses(draws, classes) : fourClasses(draws, classes);
    const texts = form.premises.map(textOf);
    const premises = draws.shuffle(texts).map((text) => `${capitalised(text)}.`).join(" ");
    const [subject, predicate] = form.asked;
    return {
      key: `syllogism ${[...texts].sort().join(" ")} ${subject} ${predicate}`,
      prompt: draws.phrase([
        `${premises} Are all ${subject} ${predicate}?`,
        `${premises} Does it follow that all ${subject} are ${predicate}, or that none are?`,
        `Suppose this: ${premises} Can it be said whether all ${subject} are ${predicate}?`,
      ]),
      steps: [reasonOf(form)],
      reply: replyOf(form),
      answer: form.outcome,
    };
  },
};
