/** Checks addition, subtraction, multiplication, division and expressions. */

import { boxedAnswer, numbersIn, plainAnswer, statedNumber, statesNumber } from "./answer_text.ts";
import { evaluateText } from "./expression.ts";
import { equal, multiply, type Rational, rational, subtract } from "./rational.ts";
import type { Checker } from "./types.ts";

/** The two numbers of a prompt in the order of the operation: `Subtract 3 from 4` is 4 and 3. */
function operandsOf(prompt: string): [Rational, Rational] | null {
  const numbers = [...prompt.matchAll(/\d+/g)].map((match) => rational(BigInt(match[0])));
  if (numbers.length !== 2) return null;
  const isTurned = /\b(?:subtract|take)\b.*\b(?:away )?from\b|\bfit into\b/i.test(prompt);
  return isTurned ? [numbers[1], numbers[0]] : [numbers[0], numbers[1]];
}

function withOperands(value: (a: Rational, b: Rational) => Rational): Checker {
  return {
    isRight(prompt, text) {
      const operands = operandsOf(prompt);
      return operands !== null && statesNumber(text, { prompt, value: value(...operands) });
    },
  };
}

export const addition = withOperands((a, b) => subtract(a, subtract(rational(0n), b)));
export const subtraction = withOperands(subtract);
export const multiplication = withOperands(multiply);

export const division: Checker = {
  isRight(prompt, text) {
    const operands = operandsOf(prompt);
    if (operands === null) return false;
    const [a, b] = operands.map(({ over }) => over);
    if (b === 0n) return false;
    const [quotient, remainder] = [a / b, a % b];
    if (!/remainder/i.test(prompt)) {
      return statesNumber(text, { prompt, value: rational(a, b) });
    }
    const plain = plainAnswer(text);
    if (plain === null) return false;
    const boxed = boxedAnswer(plain);
    const stated = [
      ...(boxed ?? plain).matchAll(
        /(\d+),? (?:and )?(?:a |with )?(?:the )?(?:remainder|r)(?: is| of)? (\d+)/gi,
      ),
    ];
    const [match] = stated;
    if (boxed === null || stated.length !== 1) return false;
    // Beside the two, only the prompt's numbers may stand there.
    const others = numbersIn(plain).filter((value) =>
      !operands.some((operand) => equal(operand, value)) && value.over !== quotient &&
      value.over !== remainder
    );
    return others.length === 0 && BigInt(match[1]) === quotient && BigInt(match[2]) === remainder;
  },
};

export const expression: Checker = {
  isRight(prompt, text) {
    const match = /[\d(][\d\s()+*/-]*[\d)]/.exec(prompt);
    const value = match === null ? null : evaluateText(match[0]);
    if (value === null) return false;
    const stated = statedNumber(text, prompt);
    return stated !== null && equal(stated, value);
  },
};
