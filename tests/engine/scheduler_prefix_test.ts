import { assert, assertEquals } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { chainKey } from "../../src/cache/chain.ts";
import type { SequenceSpec, Step } from "../../src/engine/schedule.ts";
import { Machine, ROOTS, rowsOf, sequence, tokensFrom } from "./_scheduling.ts";

const WIDE = { slots: 4, stepTokens: 400, pages: 20 };

/** A sequence that only evaluates these tokens. */
function prompt(id: number, tokens: number[], more: Partial<SequenceSpec> = {}): SequenceSpec {
  return sequence(id, 0, { prompt: tokens, answers: false, ...more });
}

function turn(machine: Machine): Step {
  const step = machine.scheduler.next()!;
  machine.run(step);
  return step;
}

/** Computes sequences to their end. */
function finish(machine: Machine, ...specs: SequenceSpec[]): Step[] {
  for (const spec of specs) machine.add(spec);
  const steps: Step[] = [];
  while (machine.live.size > 0) {
    const step = turn(machine);
    steps.push(step);
    machine.answer(step, {
      choose: (tokens) => tokens.length % 7,
      ends: ({ spec, tokens }) => tokens.length === spec.maxTokens,
    });
  }
  return steps;
}

Deno.test("a later prompt computes only what an earlier one has not", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 150);
  finish(machine, prompt(1, tokens));
  const [step] = finish(machine, prompt(2, [...tokens, 7, 8]));
  assertEquals(step.started, [{ sequence: 2, memory: 150, store: 0 }]);
  assertEquals(rowsOf(step), ["2@150-151"]);
  // Nobody had the last page, so it was taken over as it was.
  assertEquals(step.copies, []);
  assertEquals(machine.scheduler.pageCounts(), { total: 20, used: 0, kept: 3 });
});

Deno.test("the last row of a prompt is computed even if all of it is there", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 2 * PAGE_TOKENS);
  finish(machine, prompt(1, tokens));
  const [step] = finish(machine, prompt(2, tokens));
  assertEquals(rowsOf(step), [`2@${2 * PAGE_TOKENS - 1}`]);
  assertEquals(step.copies.map(({ tokens }) => tokens), [PAGE_TOKENS - 1]);
  // Its own copy of the second page is given up again.
  assertEquals(machine.scheduler.pageCounts(), { total: 20, used: 0, kept: 2 });
});

Deno.test("a page shared in part is copied before it is written to", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 100);
  finish(machine, prompt(1, tokens));
  const [step] = finish(machine, prompt(2, [...tokens.slice(0, 90), 7, 8]));
  assertEquals(step.started, [{ sequence: 2, memory: 90, store: 0 }]);
  assertEquals(step.copies.map(({ tokens }) => tokens), [90 - PAGE_TOKENS]);
  assertEquals(machine.scheduler.pageCounts().kept, 3);
});

Deno.test("the answer of a conversation's turn is there in the next one", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 70);
  const { tokens: all } = machine.add(sequence(1, 0, { prompt: tokens, maxTokens: 100 }));
  finish(machine);
  const [step] = finish(machine, prompt(2, [...all, 1, 2, 3]));
  // The last token of an answer is never fed in.
  assertEquals(step.started, [{ sequence: 2, memory: 99, store: 0 }]);
});

Deno.test("what a sequence that still runs has computed is used", () => {
  const machine = new Machine({ ...WIDE, stepTokens: 100 });
  const tokens = tokensFrom(0, 90);
  machine.add(sequence(1, 0, { prompt: tokens, maxTokens: 200 }));
  turn(machine);
  machine.add(prompt(2, [...tokens, 5, 6]));
  assertEquals(rowsOf(turn(machine)), ["2@90-91"]);
});

Deno.test("nothing is shared between roots, nor with a sequence that wants all rows", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 100);
  finish(machine, prompt(1, tokens));
  const [other] = finish(machine, prompt(2, tokens, { root: ROOTS[1] }));
  assertEquals(other.started[0].memory, 0);
  const [whole] = finish(machine, prompt(3, tokens, { reuse: false }));
  assertEquals(whole.started[0].memory, 0);
});

Deno.test("pages below a root that does not last are free with its last sequence", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 100);
  const more = { root: ROOTS[1], lasting: false };
  machine.add(sequence(1, 0, { prompt: tokens, ...more }));
  machine.add(sequence(2, 0, { prompt: tokens, ...more }));
  turn(machine);
  machine.remove(1);
  assertEquals(machine.scheduler.pageCounts().kept, 2);
  assertEquals(rowsOf(turn(machine)), ["2@99!"]);
  machine.remove(2);
  assertEquals(machine.scheduler.pageCounts(), { total: 20, used: 0, kept: 0 });
});

Deno.test("pages that were used least recently are given up first, ends before begins", () => {
  const machine = new Machine({ slots: 1, stepTokens: 400, pages: 6 });
  const [a, b] = [tokensFrom(0, 128), tokensFrom(1000, 128)];
  finish(machine, prompt(1, a));
  finish(machine, prompt(2, b));
  finish(machine, prompt(3, [...a, 1]));
  assertEquals(machine.scheduler.pageCounts().kept, 5);
  finish(machine, prompt(4, tokensFrom(2000, 128)));
  // Two pages were needed, one was free: the end of the second one has gone.
  const [step] = finish(machine, prompt(5, [...b, 1]));
  assertEquals(step.started[0].memory, 64);
});

Deno.test("equal prompts that come together are computed once", () => {
  const machine = new Machine({ ...WIDE, stepTokens: 100 });
  const tokens = tokensFrom(0, 150);
  for (const id of [1, 2, 3]) machine.add(prompt(id, tokens));
  machine.add(prompt(4, tokensFrom(1000, 20)));
  const first = turn(machine);
  // The two others wait, and nobody for them.
  assertEquals(first.started.map(({ sequence }) => sequence), [1, 4]);
  machine.remove(4);
  assertEquals(rowsOf(turn(machine)), ["1@80-149"]);
  const third = turn(machine);
  assertEquals(rowsOf(third), ["2@149", "3@149"]);
  assertEquals(third.copies.map(({ tokens }) => tokens), [21, 21]);
  // Whole pages are one and the same, the last ones are not.
  const [second, other] = third.slotPages.map(({ pages }) => [...pages]);
  assertEquals(second.slice(0, 2), other.slice(0, 2));
  assert(second[2] !== other[2]);
});

Deno.test("a prompt that waits for another one goes on when that has ended or failed", () => {
  const machine = new Machine({ ...WIDE, stepTokens: 100 });
  const tokens = tokensFrom(0, 150);
  for (const id of [1, 2, 3]) machine.add(prompt(id, tokens));
  turn(machine);
  machine.remove(1);
  const step = machine.scheduler.next()!;
  assertEquals(rowsOf(step), ["2@100-149"]);
  machine.fail(step);
  assertEquals(rowsOf(turn(machine)), ["3@100-149"]);
});

Deno.test("a prompt does not wait for one of a worse priority, or for a few tokens", () => {
  const machine = new Machine({ ...WIDE, stepTokens: 50 });
  const tokens = tokensFrom(0, 150);
  machine.add(prompt(1, tokens, { priority: 1 }));
  turn(machine);
  machine.add(prompt(2, tokens));
  machine.add(prompt(3, [...tokens.slice(0, 60), 7, 8], { priority: 1 }));
  const step = turn(machine);
  assertEquals(step.started.map(({ sequence }) => sequence), [2]);
  assertEquals(machine.scheduler.running, 3);
});

Deno.test("a prompt does not wait for an equal one below another root", () => {
  const machine = new Machine(WIDE);
  machine.add(prompt(1, tokensFrom(0, 150)));
  machine.add(prompt(2, tokensFrom(0, 150), { root: ROOTS[1] }));
  assertEquals(rowsOf(turn(machine)), ["1@0-149", "2@0-149"]);
});

Deno.test("two sequences that compute the same page come to hold one", () => {
  const machine = new Machine({ ...WIDE, stepTokens: 8 });
  const tokens = tokensFrom(0, 60);
  // Too little in common to wait, so that they go side by side.
  machine.add(prompt(1, [...tokens, 1, 2, 3, 4, 5, 6]));
  turn(machine);
  machine.add(prompt(2, [...tokens, 1, 2, 3, 4, 7, 8]));
  while (machine.live.size > 0) {
    machine.answer(turn(machine), {
      choose: () => 0,
      ends: () => true,
    });
  }
  // The first page and each one's own end.
  assertEquals(machine.scheduler.pageCounts().kept, 3);
});

Deno.test("settle tells pages that became whole and the end of a prompt, remove the end of an answer", () => {
  const machine = new Machine({ ...WIDE, stepTokens: 100 });
  const tokens = tokensFrom(0, 70);
  machine.add(sequence(1, 0, { prompt: tokens, maxTokens: 90, restorable: true }));
  const asked = machine.scheduler.next()!;
  machine.run(asked);
  assertEquals(asked.rows, []);
  machine.restore(1, 0);
  const step = machine.scheduler.next()!;
  const units = machine.run(step);
  const whole = chainKey(ROOTS[0], tokens.slice(0, PAGE_TOKENS));
  const end = chainKey(whole, tokens.slice(PAGE_TOKENS));
  assertEquals(units.map(({ key, parent, tokens }) => [key, parent, tokens]), [
    [whole, ROOTS[0], PAGE_TOKENS],
    [end, whole, 70 - PAGE_TOKENS],
  ]);
  assertEquals(units.map(({ page }) => page), [...step.slotPages[0].pages]);
  machine.scheduler.append(1, 5);
  machine.live.get(1)!.tokens.push(5);
  assertEquals(machine.run(machine.scheduler.next()!), []);
  const tail = machine.remove(1);
  assertEquals(tail?.key, chainKey(whole, [...tokens.slice(PAGE_TOKENS), 5]));
  assertEquals(tail?.tokens, 7);
});

Deno.test("a prompt's end is not told again when nothing follows it", () => {
  const machine = new Machine(WIDE);
  machine.add(prompt(1, tokensFrom(0, 20), { restorable: true }));
  assertEquals(machine.run(machine.scheduler.next()!).length, 1);
  assertEquals(machine.remove(1), null);
});

Deno.test("a page that guesses filled is told when the sequence ends with it", () => {
  const machine = new Machine({ ...WIDE, logitRows: 9 });
  const { scheduler } = machine;
  machine.add(sequence(1, 62, { restorable: true, maxTokens: 100 }));
  machine.run(scheduler.next()!);
  machine.restore(1, 0);
  machine.run(scheduler.next()!);
  const { tokens } = machine.live.get(1)!;
  tokens.push(5);
  scheduler.append(1, 5);
  scheduler.draft(1, [6, 7]);
  machine.run(scheduler.next()!);
  assertEquals(scheduler.append(1, 6), true);
  assertEquals(scheduler.append(1, 7), true);
  const unit = machine.remove(1);
  assertEquals(unit?.key, chainKey(ROOTS[0], [...tokens, 6]));
});

Deno.test("a sequence waits for its restore, others don't, and then computes the rest", () => {
  const machine = new Machine(WIDE);
  const { scheduler } = machine;
  const tokens = tokensFrom(0, 200);
  finish(machine, prompt(1, tokens.slice(0, 70)));
  machine.add(sequence(2, 0, { prompt: tokens, restorable: true }));
  machine.add(sequence(3, 10));
  const step = turn(machine);
  assertEquals(rowsOf(step), ["3@0-8", "3@9!"]);
  const [restore] = step.restores;
  assertEquals(restore.sequence, 2);
  assertEquals(restore.parent, chainKey(ROOTS[0], tokens.slice(0, PAGE_TOKENS)));
  // The unit at the end of an equal prompt holds its last token too.
  assertEquals(restore.tokens, tokens.slice(PAGE_TOKENS));
  assertEquals(restore.pages.length, 3);
  assertEquals(scheduler.next(), null);
  machine.restore(2, 80);
  const next = turn(machine);
  assertEquals(next.started, [{ sequence: 2, memory: 64, store: 80 }]);
  assertEquals(rowsOf(next), ["2@144-198", "2@199!"]);
  // What came from the store is not told to it; what was computed is.
  const key = (end: number): string =>
    end === 0 ? ROOTS[0] : chainKey(key(end - PAGE_TOKENS), tokens.slice(end - PAGE_TOKENS, end));
  assertEquals(key(64), restore.parent);
});

Deno.test("where a restore brings less than memory has, memory is used", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 200);
  finish(machine, prompt(1, tokens.slice(0, 100)));
  machine.add(prompt(2, tokens, { restorable: true }));
  turn(machine);
  machine.restore(2, 10);
  const step = turn(machine);
  assertEquals(step.started, [{ sequence: 2, memory: 64 + 26, store: 10 }]);
  assertEquals(rowsOf(step), ["2@100-199"]);
});

Deno.test("a restore is not asked for where memory has nearly all", () => {
  const machine = new Machine(WIDE);
  const tokens = tokensFrom(0, 60);
  finish(machine, prompt(1, tokens));
  machine.add(prompt(2, [...tokens, ...tokensFrom(500, 32)], { restorable: true }));
  assertEquals(turn(machine).restores, []);
  machine.add(prompt(3, tokensFrom(900, 32), { restorable: true }));
  assertEquals(turn(machine).restores, []);
  machine.add(prompt(4, tokensFrom(990, 33), { restorable: true }));
  assertEquals(turn(machine).restores.length, 1);
});

Deno.test("pages of a sequence that ends while it is restored are not used before that has ended", () => {
  const machine = new Machine({ slots: 1, stepTokens: 400, pages: 4 });
  const { scheduler } = machine;
  machine.add(prompt(1, tokensFrom(0, 200), { restorable: true, maxTokens: 200 }));
  turn(machine);
  assertEquals(machine.remove(1), null);
  assertEquals([scheduler.running, scheduler.pageCounts().used], [0, 4]);
  machine.add(prompt(2, [1], { maxTokens: 1 }));
  assertEquals(scheduler.next(), null);
  machine.restore(1, 200);
  assertEquals(scheduler.pageCounts(), { total: 4, used: 0, kept: 0 });
  assertEquals(rowsOf(turn(machine)), ["2@0"]);
});

Deno.test("an answer stands still, without giving way, while a restore holds the pages it needs", () => {
  const machine = new Machine({ slots: 2, stepTokens: 400, pages: 3 });
  const { scheduler } = machine;
  machine.add(prompt(1, tokensFrom(500, 100), { restorable: true, maxTokens: 100 }));
  turn(machine);
  machine.remove(1);
  const { tokens } = machine.add(sequence(2, 63, { maxTokens: 66 }));
  for (const token of [5, 6]) {
    turn(machine);
    tokens.push(token);
    scheduler.append(2, token);
  }
  assertEquals(scheduler.next(), null);
  machine.restore(1, 0);
  assertEquals(rowsOf(turn(machine)), ["2@64!"]);
  assertEquals(scheduler.preemptions, 0);
});
