import { assertEquals } from "@std/assert";
import { PairIndex } from "../../src/engine/lookup.ts";
import { Acceptance, MAX_DRAFT, StepCosts } from "../../src/engine/speculation.ts";

const VOCAB = { vocabSize: 100 };

Deno.test("what followed the last two tokens before is guessed to follow again", () => {
  const index = new PairIndex([1, 2, 3, 4, 5, 9, 1, 2], VOCAB);
  assertEquals(index.guess(3), [3, 4, 5]);
  assertEquals(index.guess(1), [3]);
  assertEquals(index.guess(8), [3, 4, 5, 9, 1, 2, 3, 4]);
});

Deno.test("of several earlier places the latest is guessed from", () => {
  const index = new PairIndex([1, 2, 3, 1, 2, 4, 1, 2], VOCAB);
  assertEquals(index.guess(2), [4, 1]);
});

Deno.test("a pair that was never followed gives no guess", () => {
  assertEquals(new PairIndex([1, 2, 3], VOCAB).guess(4), []);
  assertEquals(new PairIndex([1], VOCAB).guess(4), []);
  assertEquals(new PairIndex([], VOCAB).guess(4), []);
});

Deno.test("a repeated token is guessed to go on repeating", () => {
  const index = new PairIndex([7, 7, 7], VOCAB);
  assertEquals(index.guess(3), [7, 7, 7]);
});

Deno.test("tokens that come later take part", () => {
  const index = new PairIndex([1, 2], VOCAB);
  for (const token of [3, 8, 1, 2]) index.push(token);
  assertEquals(index.guess(2), [3, 8]);
});

Deno.test("the rate of right guesses follows what happens", () => {
  const right = new Acceptance();
  const wrong = new Acceptance();
  for (let i = 0; i < 50; i++) {
    right.add({ drafted: 3, accepted: 3 });
    wrong.add({ drafted: 3, accepted: 0 });
  }
  assertEquals(right.rate > 0.99, true);
  assertEquals(wrong.rate < 0.01, true);
});

/** Costs that have been measured up to MAX_DRAFT guesses beside one row. */
function measured(milliseconds: (rows: number) => number): StepCosts {
  const costs = new StepCosts();
  for (let rows = 1; rows <= 1 + MAX_DRAFT; rows++) {
    costs.add({ rows, milliseconds: milliseconds(rows) });
  }
  return costs;
}

Deno.test("where further rows cost nothing, as much as possible is guessed", () => {
  assertEquals(measured(() => 10).bestDraft({ rate: 0.9, rows: 1 }), MAX_DRAFT);
});

Deno.test("where a row costs a step, nothing is guessed", () => {
  assertEquals(measured((rows) => 10 * rows).bestDraft({ rate: 0.9, rows: 1 }), 0);
});

Deno.test("where guesses are mostly wrong, nothing is guessed", () => {
  assertEquals(measured((rows) => 10 + rows).bestDraft({ rate: 0.02, rows: 1 }), 0);
});

Deno.test("costs that are not known yet are tried out, the shortest first", () => {
  const costs = new StepCosts();
  assertEquals(costs.bestDraft({ rate: 0.7, rows: 1 }), 0);
  costs.add({ rows: 1, milliseconds: 10 });
  assertEquals(costs.bestDraft({ rate: 0.7, rows: 1 }), 1);
  costs.add({ rows: 2, milliseconds: 11 });
  assertEquals(costs.bestDraft({ rate: 0.7, rows: 1 }), 2);
});

Deno.test("a cost between two measured ones is taken to lie between them", () => {
  const costs = new StepCosts();
  costs.add({ rows: 1, milliseconds: 10 });
  costs.add({ rows: 1 + MAX_DRAFT, milliseconds: 10 });
  assertEquals(costs.bestDraft({ rate: 0.9, rows: 1 }), MAX_DRAFT);
});

Deno.test("where guessing does not pay it is tried again now and then", () => {
  const costs = measured((rows) => 10 * rows);
  const drafts = Array.from({ length: 1000 }, () => costs.bestDraft({ rate: 0.5, rows: 1 }));
  const tried = drafts.filter((draft) => draft > 0).length;
  assertEquals(tried > 5 && tried < 50, true);
});
