import { assert, assertEquals } from "@std/assert";
import { Draws } from "../../../src/training/data/draws.ts";
import { FAMILIES, problemAt } from "../../../src/training/data/families/mod.ts";
import type { Family, Problem } from "../../../src/training/data/problem.ts";
import { problemDraft } from "../../../src/training/data/rows.ts";
import { NOTATIONS } from "../../../src/training/data/working.ts";
import { problemOf, rewardValues } from "../../../src/training/reward/mod.ts";
import type { Reference, RewardValues } from "../../../src/training/reward/types.ts";

const PROBLEMS_PER_LEVEL = 200;

function* problemsOf(family: Family, count = PROBLEMS_PER_LEVEL): Generator<Problem> {
  for (let level = 1; level <= family.levels; level++) {
    for (let index = 0; index < count; index++) {
      const notation = NOTATIONS[index % NOTATIONS.length];
      yield problemAt(family, { seed: 23, index, levels: [level, level], notation });
    }
  }
}

function valuesOf(
  { prompt, steps, reply }: Pick<Problem, "prompt" | "steps" | "reply">,
  reference: Reference,
): RewardValues {
  const completion = `${steps.join("\n")}\n</think>\n\n${reply}<｜end▁of▁sentence｜>`;
  return rewardValues({ prompt, completion, reference, opened: true });
}

for (const family of FAMILIES) {
  Deno.test(`${family.name}: a worked solution has the highest value of every function that applies`, () => {
    for (const problem of problemsOf(family)) {
      const { reference, prompt } = problemOf(problemDraft(problem));
      assertEquals(prompt, problem.prompt);
      assertEquals(reference.solution, problem.steps.join("\n"));
      for (
        const known of [
          reference,
          { family: family.name, answer: problem.answer },
          { family: family.name },
        ]
      ) {
        const hasSolution = "solution" in known;
        const hasSteps = family.name !== "outside";
        assertEquals(valuesOf(problem, known), {
          logical_consistency: hasSteps ? 1 : null,
          solution_accuracy: 1,
          reasoning_clarity: 1,
          efficiency: hasSolution ? 1 : null,
          format: 1,
        }, `${JSON.stringify(known)} ${JSON.stringify(problem)}`);
      }
    }
  });

  Deno.test(`${family.name}: the solution of another problem is neither right nor consistent`, () => {
    let last: Problem | undefined;
    for (const problem of problemsOf(family, 50)) {
      if (last !== undefined && last.answer !== problem.answer && family.name !== "outside") {
        const { reference } = problemOf(problemDraft(problem));
        const values = valuesOf({ ...last, prompt: problem.prompt }, reference);
        assertEquals(values.solution_accuracy, 0);
        assert(values.logical_consistency! <= 0.5, JSON.stringify([problem.prompt, last]));
        assertEquals(values.efficiency, 0);
      }
      last = problem;
    }
  });
}

Deno.test("a digit changed in any step costs consistency", () => {
  const draws = new Draws("changed digits of rewards");
  const names = ["addition", "subtraction", "multiplication", "expression", "word_problem"];
  for (const family of FAMILIES.filter(({ name }) => names.includes(name))) {
    for (const problem of problemsOf(family, 60)) {
      const { reference } = problemOf(problemDraft(problem));
      const steps = problem.steps.join("\n");
      // What stands in front of a colon names the task, and digits in words are no claims.
      const digits = [...steps.matchAll(/(?<=[=~] ?~?\d*)\d/g)];
      const { index } = draws.pick(digits);
      const digit = String((Number(steps[index]) + draws.integer(1, 9)) % 10);
      const changed = steps.slice(0, index) + digit + steps.slice(index + 1);
      const values = valuesOf({ ...problem, steps: changed.split("\n") }, reference);
      assert(values.logical_consistency! < 1, `${problem.prompt}\n${changed}`);
      assertEquals(values.solution_accuracy, 1);
    }
  }
});

Deno.test("a prompt with the label of another family is judged without a fault", () => {
  for (const family of FAMILIES) {
    for (const problem of problemsOf(family, 4)) {
      for (const { name } of FAMILIES) {
        const values = valuesOf(problem, { family: name, solution: problem.steps.join("\n") });
        for (const value of Object.values(values)) {
          assert(value === null || (value >= 0 && value <= 1), `${name} ${problem.prompt}`);
        }
      }
    }
  }
});
