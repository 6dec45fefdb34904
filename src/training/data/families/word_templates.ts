/** Stories of the word problems, by level: one step, one step of another kind, two steps, more. */

import type { Draws } from "../draws.ts";
import type { Working } from "../working.ts";
import { CONTAINERS, NAMES, THINGS } from "./names.ts";

/** Who and what a story is about. */
interface Cast {
  readonly name: string;
  readonly other: string;
  readonly things: string;
  readonly containers: string;
}

export interface Story {
  /** Phrasings; all of them ask for the same. */
  readonly prompts: readonly string[];
  readonly reply: string;
  readonly answer: number;
  /** The numbers in the order of the story, for the key. */
  readonly numbers: readonly number[];
}

export interface Template {
  readonly name: string;
  readonly make: (draws: Draws, working: Working) => Story;
}

function castOf(draws: Draws): Cast {
  const [name, other] = draws.sample(NAMES, 2);
  return { name, other, things: draws.pick(THINGS), containers: draws.pick(CONTAINERS) };
}

/** Mostly two digits, now and then three. */
function amount(draws: Draws): number {
  return draws.chance(0.15) ? draws.integer(100, 400) : draws.integer(2, 99);
}

/** Two amounts, the larger one first and really larger. */
function unequal(draws: Draws): [number, number] {
  const [a, b] = [amount(draws), amount(draws)];
  return a === b ? [a + 1, b] : [Math.max(a, b), Math.min(a, b)];
}

const gain: Template = {
  name: "gain",
  make(draws, working) {
    const { name, things } = castOf(draws);
    const [a, b] = [amount(draws), amount(draws)];
    working.line("more come, so add");
    const answer = working.add(a, b);
    return {
      prompts: [
        `${name} has ${a} ${things} and buys ${b} more. How many ${things} does ${name} have now?`,
        `${name} had ${a} ${things} and then found ${b} more. How many ${things} does ${name} have now?`,
        `There were ${a} ${things} on a table. ${name} put ${b} more there. How many ${things} are there now?`,
      ],
      reply: `There are ${answer} ${things} now.`,
      answer,
      numbers: [a, b],
    };
  },
};

const loss: Template = {
  name: "loss",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const [a, b] = unequal(draws);
    working.line("some go, so subtract");
    const answer = working.subtract(a, b);
    return {
      prompts: [
        `${name} has ${a} ${things} and gives ${b} to ${other}. How many ${things} are left?`,
        `${name} had ${a} ${things} and lost ${b} of them. How many ${things} does ${name} have left?`,
        `A shop had ${a} ${things} and sold ${b} of them. How many ${things} remain?`,
      ],
      reply: `${answer} ${things} are left.`,
      answer,
      numbers: [a, b],
    };
  },
};

const together: Template = {
  name: "together",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const [a, b] = [amount(draws), amount(draws)];
    working.line("both together, so add");
    const answer = working.add(a, b);
    return {
      prompts: [
        `${name} has ${a} ${things} and ${other} has ${b}. How many ${things} do they have together?`,
        `${name} collected ${a} ${things}, ${other} collected ${b}. How many ${things} is that in total?`,
      ],
      reply: `Together they have ${answer} ${things}.`,
      answer,
      numbers: [a, b],
    };
  },
};

const difference: Template = {
  name: "difference",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const [a, b] = unequal(draws);
    working.line("how many more, so subtract");
    const answer = working.subtract(a, b);
    return {
      prompts: [
        `${name} has ${a} ${things} and ${other} has ${b}. How many more ${things} does ${name} have than ${other}?`,
        `${other} has ${b} ${things}, ${name} has ${a}. How many fewer ${things} does ${other} have?`,
      ],
      reply: `The difference is ${answer} ${things}.`,
      answer,
      numbers: [a, b],
    };
  },
};

const pages: Template = {
  name: "pages",
  make(draws, working) {
    const { name } = castOf(draws);
    const [a, b] = unequal(draws);
    working.line("what is left, so subtract");
    const answer = working.subtract(a, b);
    return {
      prompts: [
        `A book has ${a} pages. ${name} has read ${b} of them. How many pages are left to read?`,
        `${name} has read ${b} pages of a book with ${a} pages. How many pages are still to be read?`,
      ],
      reply: `${answer} pages are left.`,
      answer,
      numbers: [a, b],
    };
  },
};

const groups: Template = {
  name: "groups",
  make(draws, working) {
    const { name, things, containers } = castOf(draws);
    const [a, b] = [draws.integer(2, 30), draws.integer(2, 12)];
    working.line("the same in each, so multiply");
    const answer = working.multiply(a, b);
    return {
      prompts: [
        `There are ${a} ${containers} with ${b} ${things} in each. How many ${things} are there in all?`,
        `${name} fills ${a} ${containers} and puts ${b} ${things} in each. How many ${things} does ${name} need?`,
        `${name} makes ${a} ${things} a day for ${b} days. How many ${things} is that?`,
      ],
      reply: `That is ${answer} ${things}.`,
      answer,
      numbers: [a, b],
    };
  },
};

const sharing: Template = {
  name: "sharing",
  make(draws, working) {
    const { name, things, containers } = castOf(draws);
    const b = draws.integer(2, 12);
    const a = b * draws.integer(2, 30);
    working.line("equal shares, so divide");
    const answer = working.divide(a, b).quotient;
    return {
      prompts: [
        `${name} shares ${a} ${things} equally among ${b} friends. How many ${things} does each friend get?`,
        `${a} ${things} are packed into ${b} ${containers}, the same number in each. How many ${things} are in each?`,
      ],
      reply: `That is ${answer} ${things} each.`,
      answer,
      numbers: [a, b],
    };
  },
};

const price: Template = {
  name: "price",
  make(draws, working) {
    const { name, things } = castOf(draws);
    const [a, b] = [draws.integer(2, 25), draws.integer(2, 12)];
    working.line("the same price each, so multiply");
    const answer = working.multiply(a, b);
    return {
      prompts: [
        `${capital(things)} cost ${a} dollars each. How much do ${b} ${things} cost?`,
        `${name} buys ${b} ${things} for ${a} dollars each. How much does ${name} pay?`,
      ],
      reply: `The price is ${answer} dollars.`,
      answer,
      numbers: [a, b],
    };
  },
};

const age: Template = {
  name: "age",
  make(draws, working) {
    const { name, other } = castOf(draws);
    const b = draws.integer(2, 20);
    const a = draws.integer(b + 2, 70);
    const isOlder = draws.chance(0.5);
    working.line(isOlder ? "older, so add" : "younger, so subtract");
    const answer = isOlder ? working.add(a, b) : working.subtract(a, b);
    const word = isOlder ? "older" : "younger";
    return {
      prompts: [
        `${name} is ${a} years old. ${other} is ${b} years ${word} than ${name}. How old is ${other}?`,
        `${other} is ${b} years ${word} than ${name}, who is ${a}. How old is ${other}?`,
      ],
      reply: `${other} is ${answer} years old.`,
      answer,
      numbers: [a, isOlder ? b : -b],
    };
  },
};

const MULTIPLES = [[2, "twice"], [3, "three times"], [4, "four times"], [5, "five times"]] as const;

const multiple: Template = {
  name: "multiple",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const a = draws.integer(3, 60);
    const [factor, word] = draws.pick(MULTIPLES);
    working.line(`${word}, so multiply by ${factor}`);
    const answer = working.multiply(a, factor);
    return {
      prompts: [
        `${name} has ${a} ${things}. ${other} has ${word} as many. How many ${things} does ${other} have?`,
        `${other} has ${word} as many ${things} as ${name}, who has ${a}. How many ${things} does ${other} have?`,
      ],
      reply: `${other} has ${answer} ${things}.`,
      answer,
      numbers: [a, factor],
    };
  },
};

const half: Template = {
  name: "half",
  make(draws, working) {
    const { name, things } = castOf(draws);
    const a = 2 * draws.integer(2, 60);
    working.line("half, so divide by 2");
    const answer = working.divide(a, 2).quotient;
    return {
      prompts: [
        `${name} has ${a} ${things} and gives half of them away. How many ${things} are left?`,
        `Half of the ${a} ${things} in a shop are sold. How many ${things} remain?`,
      ],
      reply: `${answer} ${things} are left.`,
      answer,
      numbers: [a],
    };
  },
};

const gainLoss: Template = {
  name: "gain and loss",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const [a, b] = [amount(draws), amount(draws)];
    const c = draws.integer(1, Math.min(a + b - 1, 99));
    working.line("first more come, then some go");
    const answer = working.subtract(working.add(a, b), c);
    return {
      prompts: [
        `${name} has ${a} ${things}, buys ${b} more and gives ${c} to ${other}. How many ${things} does ${name} have now?`,
        `A shop had ${a} ${things}. It got ${b} more and sold ${c}. How many ${things} are there now?`,
      ],
      reply: `There are ${answer} ${things} now.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

const groupsAndMore: Template = {
  name: "groups and more",
  make(draws, working) {
    const { name, things, containers } = castOf(draws);
    const [a, b, c] = [draws.integer(2, 20), draws.integer(2, 12), draws.integer(2, 60)];
    working.line("the same in each, so multiply, then add the others");
    const answer = working.add(working.multiply(a, b), c);
    return {
      prompts: [
        `${name} has ${a} ${containers} with ${b} ${things} in each and ${c} more ${things}. How many ${things} does ${name} have in all?`,
        `There are ${a} ${containers} with ${b} ${things} in each. ${c} more ${things} lie beside them. How many ${things} are there altogether?`,
      ],
      reply: `There are ${answer} ${things} in all.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

const change: Template = {
  name: "change",
  make(draws, working) {
    const { name, things } = castOf(draws);
    const [a, b] = [draws.integer(2, 15), draws.integer(2, 9)];
    const c = [20, 50, 100, 200].find((note) => note > a * b)!;
    working.line("the price first, then what is left of the money");
    const answer = working.subtract(c, working.multiply(a, b));
    return {
      prompts: [
        `${name} buys ${b} ${things} for ${a} dollars each and pays with ${c} dollars. How much change does ${name} get?`,
        `${name} had ${c} dollars and bought ${b} ${things} at ${a} dollars each. How many dollars does ${name} have left?`,
      ],
      reply: `${name} has ${answer} dollars left.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

const multipleTogether: Template = {
  name: "multiple together",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const a = draws.integer(3, 60);
    const [factor, word] = draws.pick(MULTIPLES);
    working.line(`${word} as many for ${other}, then both together`);
    const answer = working.add(a, working.multiply(a, factor));
    return {
      prompts: [
        `${name} has ${a} ${things}. ${other} has ${word} as many. How many ${things} do they have together?`,
        `${other} has ${word} as many ${things} as ${name}, who has ${a}. How many ${things} do both have together?`,
      ],
      reply: `Together they have ${answer} ${things}.`,
      answer,
      numbers: [a, factor],
    };
  },
};

const moreTogether: Template = {
  name: "more together",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const b = draws.integer(2, 60);
    const a = draws.integer(b + 1, 99);
    const isMore = draws.chance(0.5);
    working.line(`first what ${other} has, then both together`);
    const answer = working.add(a, isMore ? working.add(a, b) : working.subtract(a, b));
    const word = isMore ? "more" : "fewer";
    return {
      prompts: [
        `${name} has ${a} ${things}. ${other} has ${b} ${word} than ${name}. How many ${things} do they have together?`,
        `${other} has ${b} ${word} ${things} than ${name}, who has ${a}. How many ${things} do both have together?`,
      ],
      reply: `Together they have ${answer} ${things}.`,
      answer,
      numbers: [a, isMore ? b : -b],
    };
  },
};

const trip: Template = {
  name: "trip",
  make(draws, working) {
    const { name } = castOf(draws);
    const [a, b, c] = [draws.integer(4, 90), draws.integer(2, 9), draws.integer(2, 60)];
    working.line("the hours first, then the rest of the way");
    const answer = working.add(working.multiply(a, b), c);
    return {
      prompts: [
        `${name} drives ${a} km an hour for ${b} hours and then ${c} km more. How many km does ${name} drive in all?`,
        `A train goes ${a} km an hour for ${b} hours, and ${c} km after that. How many km is the whole way?`,
      ],
      reply: `That is ${answer} km.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

const savings: Template = {
  name: "savings",
  make(draws, working) {
    const { name } = castOf(draws);
    const [a, b] = [draws.integer(3, 60), draws.integer(2, 12)];
    const c = draws.integer(2, a * b - 1);
    working.line("what is saved first, then what is left of it");
    const answer = working.subtract(working.multiply(a, b), c);
    return {
      prompts: [
        `${name} saves ${a} dollars a week for ${b} weeks and then spends ${c} dollars. How many dollars are left?`,
        `${name} earns ${a} dollars a day for ${b} days and spends ${c} dollars of it. How many dollars does ${name} have left?`,
      ],
      reply: `${answer} dollars are left.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

const sharedRest: Template = {
  name: "shared rest",
  make(draws, working) {
    const { name, other, things } = castOf(draws);
    const c = draws.integer(2, 9);
    const b = draws.integer(2, 40);
    const a = b + c * draws.integer(2, 20);
    working.line("what is left first, then equal shares");
    const answer = working.divide(working.subtract(a, b), c).quotient;
    return {
      prompts: [
        `${name} has ${a} ${things}, gives ${b} to ${other} and shares the rest equally among ${c} friends. How many ${things} does each friend get?`,
        `Of ${a} ${things}, ${b} are broken. The others are packed into ${c} bags, the same number in each. How many ${things} are in each bag?`,
      ],
      reply: `That is ${answer} ${things} each.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

const rows: Template = {
  name: "rows",
  make(draws, working) {
    const [a, b] = [draws.integer(3, 30), draws.integer(4, 20)];
    const c = draws.integer(2, a * b - 1);
    working.line("all seats first, then those that are free");
    const answer = working.subtract(working.multiply(a, b), c);
    return {
      prompts: [
        `A hall has ${a} rows of ${b} seats. ${c} seats are taken. How many seats are free?`,
        `There are ${a} rows with ${b} chairs each, and ${c} people sit down. How many chairs stay empty?`,
      ],
      reply: `${answer} are free.`,
      answer,
      numbers: [a, b, c],
    };
  },
};

function capital(text: string): string {
  return text[0].toUpperCase() + text.slice(1);
}

/** The templates of each level. */
export const WORD_TEMPLATES: readonly (readonly Template[])[] = [
  [gain, loss, together, difference, pages],
  [groups, sharing, price, age, multiple, half],
  [gainLoss, groupsAndMore, change, multipleTogether, moreTogether],
  [trip, savings, sharedRest, rows],
];
