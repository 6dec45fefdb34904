/** Expressions of several terms, by level: short sums, two-digit sums, products, parentheses, both. */

import type { Draws } from "../draws.ts";
import type { Family } from "../problem.ts";
import { Working } from "../working.ts";

type Operator = "+" | "-" | "*" | "/";

/** An expression and what it is worth; every value in it is a whole number of at least 0. */
type Tree =
  | { readonly value: number; readonly operator: null }
  | {
    readonly value: number;
    readonly operator: Operator;
    readonly left: Tree;
    readonly right: Tree;
  };

function leaf(value: number): Tree {
  return { value, operator: null };
}

/** Null where the value would not be a whole number of at least 0, or a large one. */
function join(operator: Operator, sides: readonly [Tree, Tree]): Tree | null {
  const [left, right] = sides;
  const value = { "+": add, "-": subtract, "*": multiply, "/": divide }[operator](
    left.value,
    right.value,
  );
  return Number.isInteger(value) && value >= 0 && value < 10_000
    ? { value, operator, left, right }
    : null;
}

const add = (a: number, b: number) => a + b;
const subtract = (a: number, b: number) => a - b;
const multiply = (a: number, b: number) => a * b;
const divide = (a: number, b: number) => b === 0 ? NaN : a / b;

const RANK = { "+": 1, "-": 1, "*": 2, "/": 2 };

/** With the parentheses that it needs and no others. */
function textOf(tree: Tree): string {
  if (tree.operator === null) return String(tree.value);
  const rank = RANK[tree.operator];
  const side = (child: Tree, isRight: boolean) => {
    const inner = child.operator === null ? 3 : RANK[child.operator];
    const needs = inner < rank || (isRight && inner === rank);
    return needs ? `(${textOf(child)})` : textOf(child);
  };
  return `${side(tree.left, false)} ${tree.operator} ${side(tree.right, true)}`;
}

/** A chain from left to right without parentheses. */
function chain(draws: Draws, options: { terms: number; most: number }): Tree {
  const { terms, most } = options;
  let tree = leaf(draws.integer(1, most));
  for (let i = 1; i < terms; i++) {
    const term = leaf(draws.integer(1, most));
    const operator = draws.chance(0.5) && term.value <= tree.value ? "-" : "+";
    tree = join(operator, [tree, term])!;
  }
  return tree;
}

/** Draws until the numbers fit. */
function until(make: () => Tree | null): Tree {
  while (true) {
    const tree = make();
    if (tree !== null) return tree;
  }
}

/** One product or quotient beside a sum, in either order. */
function mixed(draws: Draws): Tree {
  return until(() => {
    const inner = draws.chance(0.7)
      ? join("*", [leaf(draws.integer(2, 20)), leaf(draws.integer(2, 9))])
      : exactQuotient(draws);
    const outer = leaf(draws.integer(1, 99));
    const operator = draws.pick(["+", "-"] as const);
    return inner && join(operator, draws.chance(0.5) ? [inner, outer] : [outer, inner]);
  });
}

function exactQuotient(draws: Draws): Tree | null {
  const divisor = draws.integer(2, 9);
  return join("/", [leaf(divisor * draws.integer(2, 15)), leaf(divisor)]);
}

/** A sum in parentheses, multiplied, divided or taken away. */
function parenthesised(draws: Draws, most: number): Tree {
  return until(() => {
    const inner = join(draws.pick(["+", "-"] as const), [
      leaf(draws.integer(2, most)),
      leaf(draws.integer(2, most)),
    ]);
    const other = leaf(draws.integer(2, 9));
    const large = leaf(draws.integer(most, 3 * most));
    switch (draws.integer(0, 3)) {
      case 0:
        return inner && join("*", [inner, other]);
      case 1:
        return inner && join("*", [other, inner]);
      case 2:
        return inner && inner.value > 0 ? join("/", [inner, other]) : null;
      default:
        return inner && join("-", [large, inner]);
    }
  });
}

function nested(draws: Draws): Tree {
  return until(() => {
    const sides: [Tree, Tree] = [parenthesised(draws, 30), mixed(draws)];
    return join(draws.pick(["+", "-"] as const), draws.chance(0.5) ? sides : [sides[1], sides[0]]);
  });
}

function treeOf(draws: Draws, difficulty: number): Tree {
  switch (difficulty) {
    case 1:
      return chain(draws, { terms: 3, most: 9 });
    case 2:
      return chain(draws, { terms: 3, most: 99 });
    case 3:
      return mixed(draws);
    case 4:
      return parenthesised(draws, 40);
    default:
      return nested(draws);
  }
}

/** The first operation that can be done: the leftmost one inside. */
function workOut(tree: Tree, working: Working): Tree {
  if (tree.operator === null) return tree;
  if (tree.left.operator !== null) return { ...tree, left: workOut(tree.left, working) };
  if (tree.right.operator !== null) return { ...tree, right: workOut(tree.right, working) };
  const [a, b] = [tree.left.value, tree.right.value];
  if (tree.operator === "+") working.add(a, b);
  else if (tree.operator === "-") working.subtract(a, b);
  else if (tree.operator === "*") working.multiply(a, b);
  else working.divide(a, b);
  return leaf(tree.value);
}

export const expression: Family = {
  name: "expression",
  levels: 5,
  about: "expressions of three to six numbers, from level 4 on with parentheses",
  make(draws, { difficulty, notation }) {
    const tree = treeOf(draws, difficulty);
    const text = textOf(tree);
    const working = new Working(notation);
    let rest = tree;
    while (rest.operator !== null) {
      const before = textOf(rest);
      rest = workOut(rest, working);
      // Chains are read from left to right; elsewhere it has to be said what is left to do.
      if (difficulty > 2 && rest.operator !== null) working.line(`${before} = ${textOf(rest)}`);
    }
    return {
      key: `expression ${text}`,
      prompt: draws.phrase([
        `What is ${text}?`,
        `${text} = ?`,
        `Calculate ${text}.`,
        `Work out ${text}.`,
        `Find the value of ${text}.`,
      ]),
      steps: working.lines,
      reply: `${text} = ${tree.value}.`,
      answer: String(tree.value),
    };
  },
};
