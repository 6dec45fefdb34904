import { assert, assertEquals } from "@std/assert";
import { checkerOf } from "../../../src/training/data/checkers/mod.ts";
import { FAMILIES, problemAt } from "../../../src/training/data/families/mod.ts";

const outside = FAMILIES.find(({ name }) => name === "outside")!;
const checker = checkerOf("outside")!;
const at = (level: number, index: number) =>
  problemAt(outside, { seed: 5, index, levels: [level, level], notation: "columns" });

Deno.test("outside: questions and other mathematics hardly repeat", () => {
  for (const level of [2, 3]) {
    const keys = new Set(Array.from({ length: 1000 }, (_, index) => at(level, index).key));
    assert(keys.size > 700, `level ${level}: ${keys.size} of 1000 differ`);
  }
});

Deno.test("outside: greetings are greeted, all else is declined", () => {
  for (const [level, answer] of [[1, "greeting"], [2, "declined"], [3, "declined"]] as const) {
    for (let index = 0; index < 300; index++) {
      const problem = at(level, index);
      assertEquals(problem.answer, answer);
      const other = at(answer === "greeting" ? 2 : 1, index);
      assert(!checker.isRight(problem.prompt, other.reply), `${problem.prompt} <- ${other.reply}`);
    }
  }
});

Deno.test("outside: a guess is no refusal", () => {
  const prompt = "What is the square root of 16?";
  assert(checker.isRight(prompt, "I don't know that: I can only do sums."));
  for (const guess of ["4", "The square root of 16 is 4.", "I don't know that, but it is 4."]) {
    assert(!checker.isRight(prompt, guess), guess);
  }
});
