import { assert, assertEquals } from "@std/assert";
import { consistencyReward } from "../../../src/training/reward/consistency.ts";
import type { Reference } from "../../../src/training/reward/types.ts";
import { readingOf, sample, sumSample } from "./_samples.ts";

function ofSum(reasoning: string, answer = "85"): number | null {
  return consistencyReward(readingOf(sumSample(reasoning, answer)));
}

function of(
  prompt: string,
  parts: { reasoning: string; answer: string; reference: Reference },
): number | null {
  return consistencyReward(readingOf(sample(prompt, parts)));
}

function near(actual: number | null, expected: number): void {
  assert(actual !== null && Math.abs(actual - expected) < 1e-9, `${actual}, must be ${expected}`);
}

Deno.test("steps that hold, come from the prompt and lead to the answer are worth 1", () => {
  for (
    const reasoning of [
      "47 + 38 = 85",
      "~74 + ~83 = ~58",
      "40 + 30 = 70; 7 + 8 = 15; 70 + 15 = 85",
      "47 + 30 = 77\n77 + 8 = 85",
      "47 + 38 = 47 + 30 + 8 = 77 + 8 = 85",
      "First I add: 47 + 38 = 85, as asked.",
      "1. 47 + 38 = 85",
      "85 = 47 + 38",
    ]
  ) assertEquals(ofSum(reasoning), 1, reasoning);
});

Deno.test("a wrong step costs two shares of the steps that are needed, however many others there are", () => {
  // The known solution has three steps.
  near(ofSum("7 + 8 = 15; 4 + 3 + 1 = 9; 47 + 38 = 85"), 1 / 3);
  near(ofSum("7 + 8 = 16; 4 + 3 + 1 = 9; 47 + 38 = 85"), 0);
  const padding = Array.from({ length: 30 }, (_, i) => `47 + ${i} = ${47 + i}`).join("\n");
  near(ofSum(`4 + 3 + 1 = 9\n47 + 38 = 85\n47 + 8 = 55; 38 + 7 = 45`), 1 / 3);
  near(ofSum(`47 + 38 = 86\n${padding}\n47 + 38 = 85`), 1 / 3);
});

Deno.test("steps that lead elsewhere, or to a wrong answer, are worth a half at most", () => {
  near(ofSum("7 + 8 = 15; 4 + 3 + 1 = 8; 47 + 38 = 85", "86"), 0.5);
  near(ofSum("7 + 8 = 15; 40 + 30 = 70", "85"), 0.5 * 2 / 3);
  near(ofSum("47 - 38 = 9", "9"), 0.5 / 3);
});

Deno.test("numbers that come from nowhere establish nothing", () => {
  for (
    const reasoning of [
      "84 + 1 = 85",
      "85 + 0 = 85",
      "85 - 0 = 85",
      "85 = 85",
      "60 + 24 = 84; 84 + 1 = 85",
      "99 - 14 = 85",
      "47 = 85 - 38",
      "47 = 85 * 0 + 47",
    ]
  ) assertEquals(ofSum(reasoning), 0, reasoning);
  // Two calculations of one worth work nothing out.
  near(ofSum("47 + 38 = 38 + 47"), 0.5 / 3);
});

Deno.test("words without claims, and none, are worth nothing", () => {
  for (const reasoning of ["", "85", "I add them.", "1 = 1", "1 = 1\n2 = 2", "1 + 1 = 2"]) {
    assertEquals(ofSum(reasoning), 0, reasoning);
  }
});

Deno.test("all numbers that the solution takes have to go into the answer", () => {
  const prompt = "Ana has 20 pens, gets 5 bags with 4 pens in each and loses 12. How many has she?";
  const reference = { answer: "28", solution: "5 * 4 = 20\n20 + 20 = 40\n40 - 12 = 28" };
  const answer = "She has 28 pens.";
  assertEquals(of(prompt, { reasoning: reference.solution, answer, reference }), 1);
  // 8 is a digit of 28 only; 20 + 8 uses one of the four numbers.
  near(of(prompt, { reasoning: "12 - 4 = 8\n20 + 8 = 28", answer, reference }), 0.5 + 0.5 * 3 / 4);
});

Deno.test("a division works out quotient and remainder, and no other numbers", () => {
  const prompt = "Divide 17 by 5 and give the remainder.";
  const reference = { family: "division", answer: "3 remainder 2" };
  const answer = "3 remainder 2";
  assertEquals(of(prompt, { reasoning: "17 = 5 * 3 + 2", answer, reference }), 1);
  // It holds, but 7 is no remainder; without a known solution two steps are needed.
  near(of(prompt, { reasoning: "17 = 5 * 2 + 7", answer, reference }), 0.25);
  near(of(prompt, { reasoning: "5 * 3 = 15", answer, reference }), 0.25);
});

Deno.test("answers in words stand in the last line, and yes or no speak of what was asked", () => {
  const ranking = "Ana is taller than Tom. Eli is shorter than Tom.";
  const who = { family: "ordering", answer: "Eli" };
  const prompt = `${ranking} Who is the shortest?`;
  const answer = "Eli is the shortest.";
  assertEquals(
    of(prompt, { reasoning: "Ana > Tom; Tom > Eli\nAna > Tom > Eli", answer, reference: who }),
    1,
  );
  near(of(prompt, { reasoning: "Ana > Tom", answer, reference: who }), 0.25);
  near(of(prompt, { reasoning: "Eli > Ana", answer, reference: who }), 0);
  const whether = { family: "ordering", answer: "yes" };
  const question = `${ranking} Is Ana taller than Eli?`;
  assertEquals(
    of(question, { reasoning: "Ana > Tom > Eli", answer: "Yes.", reference: whether }),
    1,
  );
  near(of(question, { reasoning: "Ana > Tom", answer: "Yes.", reference: whether }), 0.25);
});

Deno.test("what has nothing to work out has no consistency, whatever the completion says", () => {
  const outside = { family: "outside", answer: "declined" };
  for (const reasoning of ["this is none of my problems", "1 + 1 = 3", ""]) {
    const answer = "I don't know that: I can only do sums.";
    assertEquals(
      of("What is the capital of Peru?", { reasoning, answer, reference: outside }),
      null,
    );
    const choice = { answer: "B" };
    assertEquals(of("Pick:\nA. a\nB. b", { reasoning, answer: "B", reference: choice }), null);
  }
});
