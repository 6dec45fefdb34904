/**
 * What the claims of reasoning come to: which of them hold, which are made of what is known, and which
 * numbers they work out.
 */

import type { Claim, Side } from "../data/checkers/claims.ts";
import { numberOf } from "../data/checkers/expression.ts";
import { equal, type Rational, rational } from "../data/checkers/rational.ts";
import { keyOf, KnownNumbers, type Origins } from "./known_numbers.ts";
import type { StepLine } from "./steps.ts";

type Relation = NonNullable<Claim["relation"]>;

/** The different claims of some reasoning by what they are worth. */
export class Derivation {
  /** Claims that hold and whose numbers come from the prompt or from earlier claims; no `1 = 1`. */
  readonly supported = new Set<string>();
  /** Claims that hold, with numbers that come from nowhere. */
  readonly unsupported = new Set<string>();
  /** Claims that don't hold, each time they are made. */
  wrong = 0;
  /** Numbers of the prompt that went into any supported claim. */
  origins: Origins = 0;
  readonly known: KnownNumbers;
  /** What supported claims worked out, by key. */
  readonly #outcomes = new Map<string, Origins>();
  /** What both sides of an equation of two calculations are worth: known to be equal, not worked out. */
  readonly #pending = new Map<string, Origins>();

  constructor(lines: readonly StepLine[], { prompt }: { prompt: string }) {
    this.known = new KnownNumbers(prompt);
    for (const { claims } of lines) {
      for (const claim of claims) this.#read(claim);
    }
  }

  /** Which of the prompt's numbers went into a number that was worked out; undefined where none was. */
  outcome(value: Rational): Origins | undefined {
    return this.#outcomes.get(keyOf(value));
  }

  #read({ text, isRight, relation }: Claim): void {
    if (!isRight) {
      this.wrong++;
      return;
    }
    if (relation === undefined) {
      const unit = /^1 \w+ = (\d+) \w+$/.exec(text);
      if (unit !== null) this.known.add(rational(BigInt(unit[1])), 0);
      this.supported.add(text);
      return;
    }
    const key = [relation.left, relation.right].map(textOf).join(relation.sign);
    const origins = relation.sign === "=" ? this.#equation(relation) : this.#comparison(relation);
    if (origins === "nothing said") return;
    if (origins === undefined) {
      this.unsupported.add(key);
      return;
    }
    this.origins |= origins;
    // `1 + 1 = 2` is no step towards the answer of a prompt that has numbers.
    if (origins !== 0 || this.known.asked === 0) this.supported.add(key);
  }

  /** Its origins; undefined where it comes from nowhere. */
  #equation({ left, right }: Relation): Origins | undefined | "nothing said" {
    const [a, b] = [left, right].map((side) => this.#originsOf(side));
    const [isNumber, other] = [isLiteral(left), isLiteral(right)];
    if (isNumber && other) {
      // `9.9 = 9.90`, `55 = 55`: something is said of the prompt's numbers and of no others.
      if (!this.known.isAsked(left.value)) return "nothing said";
      return this.#workOut(left.value, this.known.originsOf(left.value)!);
    }
    if (!isNumber && !other) {
      const made = a ?? b;
      if (made === undefined) return this.#pending.get(keyOf(left.value));
      this.#pending.set(keyOf(left.value), (this.#pending.get(keyOf(left.value)) ?? 0) | made);
      return made;
    }
    const divided = this.#division({ left, right });
    if (divided !== undefined) return divided;
    const result = isNumber ? left : right;
    const made = (isNumber ? b : a) ?? this.#pending.get(keyOf(result.value));
    return made === undefined ? this.outcome(result.value) : this.#workOut(result.value, made);
  }

  /** `17 = 5 * 3 + 2` works out 3 and 2, the only whole numbers for which it is a division. */
  #division({ left, right }: Pick<Relation, "left" | "right">): Origins | undefined {
    if (!isLiteral(left)) return undefined;
    const whole = this.known.originsOf(left.value);
    const divisor = right.tokens[0].kind === "number" ? numberOf(right.tokens[0].text) : null;
    if (whole === undefined || divisor === null || divisor.over <= 0n) return undefined;
    const by = this.known.originsOf(divisor);
    if (by === undefined || divisor.under !== 1n || left.value.under !== 1n) return undefined;
    const quotient = rational(left.value.over / divisor.over);
    const remainder = rational(left.value.over % divisor.over);
    const form = ["number", "*", String(quotient.over), "+", String(remainder.over)];
    const isForm = right.tokens.length === form.length &&
      right.tokens.every(({ text, kind }, i) => i === 0 ? kind === "number" : text === form[i]);
    if (!isForm) return undefined;
    this.#workOut(quotient, whole | by);
    return this.#workOut(remainder, whole | by);
  }

  /** Comparisons are about the numbers on both sides, wherever they come from. */
  #comparison({ left, right }: Relation): Origins {
    const sides = [left, right].filter(isLiteral);
    const origins = sides.reduce((all, { value }) => all | (this.known.originsOf(value) ?? 0), 0);
    for (const { value } of sides) {
      if (this.known.isAsked(value)) this.#workOut(value, origins);
    }
    return origins;
  }

  #workOut(value: Rational, origins: Origins): Origins {
    const key = keyOf(value);
    this.#outcomes.set(key, (this.#outcomes.get(key) ?? 0) | origins);
    this.known.add(value, origins);
    return origins;
  }

  /** The origins of a side all of whose numbers come from somewhere. */
  #originsOf({ tokens }: Side): Origins | undefined {
    let origins = 0;
    for (const { kind, text } of tokens) {
      if (kind !== "number") continue;
      const value = numberOf(text);
      const known = value === null ? undefined : this.known.originsOf(value);
      if (known === undefined) return undefined;
      origins |= known;
    }
    return origins;
  }
}

/** A number, with a minus or parentheses at most. */
function isLiteral({ tokens, value }: Side): boolean {
  const numbers = tokens.filter(({ kind }) => kind === "number");
  const number = numbers.length === 1 ? numberOf(numbers[0].text) : null;
  return number !== null && (equal(number, value) || value.over < 0n);
}

function textOf({ tokens }: Side): string {
  return tokens.map(({ text }) => text).join(" ");
}
