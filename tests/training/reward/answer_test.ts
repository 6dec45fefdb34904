import { assert, assertEquals } from "@std/assert";
import { sameExpression } from "../../../src/training/reward/answer/algebra.ts";
import { choicesIn, takenChoice } from "../../../src/training/reward/answer/choice.ts";
import { givenAnswer } from "../../../src/training/reward/answer/extract.ts";
import { isRightAnswer } from "../../../src/training/reward/answer/judge.ts";
import { readValue } from "../../../src/training/reward/answer/value.ts";

/** Asserts each text's verdict and says which one was off. */
function verdicts(
  expected: { answer: string; prompt?: string },
  texts: { right: readonly string[]; wrong: readonly string[] },
): void {
  const given = { prompt: "", ...expected };
  for (const text of texts.right) assert(isRightAnswer(text, given), `refused: ${text}`);
  for (const text of texts.wrong) assert(!isRightAnswer(text, given), `taken: ${text}`);
}

Deno.test("numbers are read as people and LaTeX write them", () => {
  const cases: [string, string][] = [
    ["85", "85/1"],
    ["-3.50", "-7/2"],
    ["1,250", "1250/1"],
    ["1 250 000", "1250000/1"],
    ["1{,}250", "1250/1"],
    ["12\\,345", "12345/1"],
    [".5", "1/2"],
    ["3/4", "3/4"],
    ["\\frac{3}{4}", "3/4"],
    ["-\\dfrac{3}{4}", "-3/4"],
    ["\\frac34", "3/4"],
    ["1 1/2", "3/2"],
    ["1\\frac{1}{2}", "3/2"],
    ["$72", "72/1"],
    ["\\$72.50", "145/2"],
    ["$85$", "85/1"],
    ["\\(85\\)", "85/1"],
    ["40 %", "40/1"],
    ["40\\%", "40/1"],
    ["12 cm", "12/1"],
    ["12 \\text{ cm}", "12/1"],
    ["12 cm^2", "12/1"],
    ["90^\\circ", "90/1"],
    ["3 \\times 10^{4}", "30000/1"],
    ["2.5 x 10^-3", "1/400"],
    ["−5", "-5/1"],
  ];
  for (const [text, expected] of cases) {
    const number = readValue(text)?.number;
    assertEquals(number && `${number.over}/${number.under}`, expected, text);
  }
  for (
    const text of [
      "",
      "eighty-five",
      "1,25",
      "47 + 38",
      "85 86",
      "1/0",
      "８５",
      "٨٥",
      "85 or 86",
      "1.2.3",
      "9".repeat(200),
    ]
  ) assertEquals(readValue(text), null, text);
});

Deno.test("a number is right in any form, with its unit or none, and alone", () => {
  verdicts({ answer: "1250", prompt: "How many clips are 1,000 and 250?" }, {
    right: [
      "1250",
      "1,250",
      "1250.00",
      "The answer is 1,250 clips.",
      "#### 1250",
      "\\boxed{1250}",
      "<answer>1250</answer>",
      "**Answer:** 1250",
      "1,000 + 250 = 1,250",
      "She has 1250 clips. The answer is 1250.\n#### 1,250",
    ],
    wrong: [
      "",
      "1251",
      "125",
      "12500",
      "-1250",
      "1,000 + 250",
      "1250 or 1251",
      "1249, 1250, 1251",
      "\\boxed{1250} \\boxed{1251}",
      "\\boxed{1251} 1250",
      "#### 1250\n#### 1251",
      "The answer is 1251. The answer is 1250.",
      "<answer>1250</answer>\n#### 1251",
      "twelve hundred and fifty",
      "１２５０",
      "1250%  of 1251",
    ],
  });
});

Deno.test("fractions, decimals and percentages of one value are one answer", () => {
  verdicts({ answer: "3/4" }, {
    right: ["0.75", "3/4", "6/8", "75%", "\\frac{3}{4}", "It is 3/4.", "$\\boxed{\\tfrac{3}{4}}$"],
    wrong: ["3", "4", "3 4", "4/3", "0.7", "0.8", "75", "-3/4"],
  });
  verdicts({ answer: "1/3" }, { right: ["0.33", "0.3333"], wrong: ["0.3", "0.34", "0.33 %"] });
  verdicts({ answer: "0.125" }, { right: ["1/8", "12.5%"], wrong: ["0.13", "0.12"] });
  verdicts({ answer: "50%" }, { right: ["50", "0.5", "50 percent"], wrong: ["5", "0.05"] });
});

Deno.test("a unit beside a number has to be the expected one", () => {
  verdicts({ answer: "345 cm" }, {
    right: ["345", "345 cm", "345 centimeters", "\\boxed{345 \\text{ cm}}"],
    wrong: ["345 m", "3.45 m", "345 mm", "345 kg"],
  });
  verdicts({ answer: "72" }, { right: ["72 clips", "$72", "72 dollars"], wrong: ["73 clips"] });
});

Deno.test("what the prompt says already is no answer, though it be worth the same", () => {
  verdicts({ answer: "3/4", prompt: "Simplify 6/8." }, { right: ["3/4"], wrong: ["6/8"] });
  verdicts({ answer: "85", prompt: "What is 47 + 38?" }, { right: ["85"], wrong: ["47 + 38"] });
  verdicts({ answer: "x^2 + 2x + 1", prompt: "Expand (x+1)^2." }, {
    right: ["x^2+2x+1", "1 + 2x + x^2"],
    wrong: ["(x+1)^2", "(x + 1)^2"],
  });
});

Deno.test("expressions are the same whatever their form, and words are no products of letters", () => {
  const same: [string, string][] = [
    ["2x + 2", "2(x+1)"],
    ["x = 5", "5"],
    ["\\frac{x+1}{2}", "x/2 + 1/2"],
    ["2\\sqrt{3}", "\\sqrt{12}"],
    ["\\sqrt{16}", "4"],
    ["2\\pi r", "2*pi*r"],
    ["x^{-1}", "1/x"],
    ["(a+b)^2", "a^2 + 2ab + b^2"],
    ["-x", "0 - x"],
    ["\\left(x\\right)\\cdot 2", "2x"],
  ];
  for (const [a, b] of same) assert(sameExpression(a, b), `${a} | ${b}`);
  const different: [string, string][] = [
    ["x + 1", "x - 1"],
    ["x^2", "2x"],
    ["\\sqrt{3}", "\\sqrt{2}"],
    ["x", "y"],
    ["1/x", "x"],
    ["", ""],
    ["x/0", "x/0"],
    ["x +", "x +"],
    ["x^1000", "x^1000"],
    ["(".repeat(150), "(".repeat(150)],
  ];
  for (const [a, b] of different) assert(!sameExpression(a, b), `${a} | ${b}`);
  verdicts({ answer: "cat" }, { right: ["Cat.", "The cat"], wrong: ["act", "cat dog", "c a t"] });
  verdicts({ answer: "(1, \\frac{1}{2})" }, {
    right: ["(1, 0.5)", "$\\left(1, 1/2\\right)$"],
    wrong: ["(0.5, 1)", "1", "(1, 0.5, 2)"],
  });
});

const CHOICES = "Which is a metal?\nA. wood\nB. iron\nC. water\nD. B";

Deno.test("a choice is taken by its label, its text, or both, and one only", () => {
  verdicts({ answer: "B", prompt: CHOICES }, {
    right: ["B", "B.", "(B)", "b", "B. iron", "B) Iron.", "iron", "The answer is B.", "\\boxed{B}"],
    wrong: [
      "A",
      "A B",
      "A or B",
      "A. iron",
      "B. wood",
      "A, B, C, D",
      "A. wood\nB. iron",
      "Bismuth",
      "It may be iron or water",
      "A metal is iron",
      "\\boxed{A} \\boxed{B}",
    ],
  });
  verdicts({ answer: "2", prompt: "Pick:\n1. one\n2. two\n3. three" }, {
    right: ["2", "two", "2. two"],
    wrong: ["1", "3. two", "1 2"],
  });
});

Deno.test("choices are those of the prompt's lines, if their labels differ", () => {
  assertEquals(choicesIn(CHOICES).map(({ label }) => label).join(""), "ABCD");
  assertEquals(choicesIn("A. only one"), []);
  assertEquals(choicesIn("A. one\nA. two"), []);
  assertEquals(takenChoice("D", choicesIn(CHOICES)), "D");
});

Deno.test("yes and no are one answer, in one word or another", () => {
  verdicts({ answer: "yes" }, {
    right: ["Yes", "yes, it is", "That is true."],
    wrong: ["no", "yes and no", "Not yes", "it is not true", "maybe yes", "", "sure"],
  });
  verdicts({ answer: "False" }, { right: ["no", "false"], wrong: ["true", "true false"] });
});

Deno.test("a text's last line counts where it is long and nothing is marked", () => {
  const long = "Some words about how it went. ".repeat(20);
  assertEquals(givenAnswer(`${long}\n85`), "85");
  assertEquals(givenAnswer(`${long} 85`), null);
  assertEquals(givenAnswer(`${long}\nThe answer is 85.\n${long}`), "85");
  assertEquals(givenAnswer(`\\boxed{\\frac{1}{2}} and so on`), "\\frac{1}{2}");
  assertEquals(givenAnswer("\\boxed{1"), "\\boxed{1");
  assertEquals(givenAnswer("x".repeat(9000)), null);
});
