import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { checkerOf, checkSolution } from "../../../src/training/data/checkers/mod.ts";
import { FAMILIES, problemAt } from "../../../src/training/data/families/mod.ts";
import type { Family, Problem } from "../../../src/training/data/problem.ts";
import { NOTATIONS } from "../../../src/training/data/working.ts";

const PROBLEMS_PER_LEVEL = 800;

function* problemsOf(family: Family, options: { seed?: number; count?: number } = {}) {
  const { seed = 11, count = PROBLEMS_PER_LEVEL } = options;
  for (let level = 1; level <= family.levels; level++) {
    for (let index = 0; index < count; index++) {
      const notation = NOTATIONS[index % NOTATIONS.length];
      yield problemAt(family, { seed, index, levels: [level, level], notation });
    }
  }
}

for (const family of FAMILIES) {
  const checker = checkerOf(family.name)!;

  Deno.test(`${family.name}: the checker reads every prompt and agrees with the generator`, () => {
    for (const problem of problemsOf(family)) {
      assert(checker.isRight(problem.prompt, problem.reply), JSON.stringify(problem));
    }
  });

  Deno.test(`${family.name}: every step holds when worked out again`, () => {
    let claims = 0;
    for (const { prompt, steps, key } of problemsOf(family)) {
      const { right, wrong } = checkSolution(family.name, { prompt, lines: steps });
      assertEquals(wrong, [], key);
      claims += right;
    }
    assert(claims > 0 || family.name === "outside", "no step makes a claim");
  });

  Deno.test(`${family.name}: the answer to another problem is refused`, () => {
    let last: Problem | undefined;
    for (const problem of problemsOf(family)) {
      if (last !== undefined && last.reply !== problem.reply && family.name !== "outside") {
        const isSame = last.answer === problem.answer;
        const verdict = checker.isRight(problem.prompt, last.reply);
        // Replies may name the other problem's things, so that even a same answer may be refused.
        if (!isSame) assertEquals(verdict, false, `${problem.prompt} <- ${last.reply}`);
      }
      last = problem;
    }
  });

  Deno.test(`${family.name}: short wording asks for the same, and its answer is bare`, () => {
    for (let index = 0; index < 200; index++) {
      const options = { seed: 11, index, levels: [1, family.levels], notation: "columns" } as const;
      const short = problemAt(family, { ...options, wording: "short" });
      if (!family.answersAreKinds) assertEquals(short.reply, short.answer);
      assert(checker.isRight(short.prompt, short.reply), JSON.stringify(short));
      const { wrong } = checkSolution(family.name, { prompt: short.prompt, lines: short.steps });
      assertEquals(wrong, [], short.key);
    }
  });

  Deno.test(`${family.name}: as people type it, it is the same problem with the same answer`, () => {
    let changed = 0, refused = 0;
    for (let index = 0; index < 400; index++) {
      const options = { seed: 11, index, levels: [1, family.levels], notation: "columns" } as const;
      const full = problemAt(family, options);
      const typed = problemAt(family, { ...options, wording: "typed" });
      assertEquals({ ...typed, prompt: full.prompt }, full);
      if (typed.prompt !== full.prompt) changed++;
      if (!checker.isRight(typed.prompt, typed.reply)) refused++;
    }
    assert(changed > 15 && changed < 240, `${changed} of 400 are typed otherwise`);
    // What the checker does not read is left out of a corpus.
    assert(refused <= 12, `${refused} of 400 are not read`);
  });

  Deno.test(`${family.name}: nothing but seed, family and index decides on a problem`, () => {
    const options = { levels: [1, family.levels], notation: "columns" } as const;
    const at = (seed: number, index: number) => problemAt(family, { seed, index, ...options });
    const forwards = Array.from({ length: 50 }, (_, i) => at(3, i));
    const backwards = Array.from({ length: 50 }, (_, i) => at(3, 49 - i)).reverse();
    assertEquals(forwards, backwards);
    assertNotEquals(forwards, Array.from({ length: 50 }, (_, i) => at(4, i)));
  });
}
