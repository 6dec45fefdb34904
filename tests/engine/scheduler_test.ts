import { assert, assertEquals, assertThrows } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { PagePool } from "../../src/engine/pages.ts";
import type { Step } from "../../src/engine/schedule.ts";
import type { Scheduler } from "../../src/engine/scheduler.ts";
import { createScheduler, Machine, rowsOf, sequence } from "./_scheduling.ts";

/** The next step, run and settled, in short. */
function turn(scheduler: Scheduler): string[] {
  const step = scheduler.next();
  scheduler.settle();
  return rowsOf(step);
}

/** The next step, settled, every row with logits answered by the negative of what it follows. */
function answered(scheduler: Scheduler): Step | null {
  const step = scheduler.next();
  scheduler.settle();
  for (const { sequence, position, wantsLogits } of step?.rows ?? []) {
    if (wantsLogits) scheduler.append(sequence, -position - 1);
  }
  return step;
}

Deno.test("scheduler splits a prompt longer than the token budget", () => {
  const scheduler = createScheduler({ stepTokens: 3 });
  scheduler.add(sequence(1, 7));
  assertEquals(turn(scheduler), ["1@0-2"]);
  assertEquals(turn(scheduler), ["1@3-5"]);
  assertEquals(turn(scheduler), ["1@6!"]);
  assertEquals(scheduler.next(), null);
});

Deno.test("rows of a step that was not settled are asked for again", () => {
  const scheduler = createScheduler({ stepTokens: 3 });
  scheduler.add(sequence(1, 7));
  assertEquals(rowsOf(scheduler.next()), ["1@0-2"]);
  assertEquals(rowsOf(scheduler.next()), ["1@0-2"]);
});

Deno.test("scheduler continues a sequence with the token that was chosen", () => {
  const scheduler = createScheduler();
  scheduler.add(sequence(1, 2));
  turn(scheduler);
  assertEquals(scheduler.append(1, 77), false);
  const step = scheduler.next();
  assertEquals(rowsOf(step), ["1@2!"]);
  assertEquals(step?.rows[0].token, 77);
  scheduler.settle();
  assertEquals(scheduler.next(), null);
});

Deno.test("scheduler puts answers and prompt tokens into the same step, fewer of these than alone", () => {
  const scheduler = createScheduler({ stepTokens: 5, mixedTokens: 3 });
  scheduler.add(sequence(1, 2));
  turn(scheduler);
  scheduler.append(1, 5);
  scheduler.add(sequence(2, 9));
  const step = scheduler.next();
  assertEquals(rowsOf(step), ["1@2!", "2@0-2"]);
  assertEquals(step?.rows.map(({ slot }) => slot), [0, 1, 1, 1]);
  scheduler.settle();
  assertEquals(turn(scheduler), ["2@3-7"]);
  scheduler.append(1, 6);
  assertEquals(turn(scheduler), ["1@3!", "2@8!"]);
});

Deno.test("a step never has more rows than it may, and answers go first", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 8, maxRows: 4 });
  scheduler.add(sequence(1, 2));
  scheduler.add(sequence(2, 2));
  turn(scheduler);
  scheduler.append(1, 5);
  scheduler.append(2, 5);
  scheduler.draft(1, [6, 7, 8]);
  scheduler.add(sequence(3, 3));
  assertEquals(turn(scheduler), ["1@2!", "2@2!", "3@0-1"]);
});

Deno.test("scheduler fills a step with several prompts, the oldest first", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 8 });
  scheduler.add(sequence(1, 3));
  scheduler.add(sequence(2, 3));
  scheduler.add(sequence(3, 6));
  assertEquals(turn(scheduler), ["1@0-1", "1@2!", "2@0-1", "2@2!", "3@0-1"]);
});

Deno.test("scheduler holds sequences back until a slot is free, in the order they came", () => {
  const scheduler = createScheduler({ slots: 1 });
  for (const id of [1, 2, 3]) scheduler.add(sequence(id, 1));
  assertEquals(turn(scheduler), ["1@0!"]);
  assertEquals([scheduler.running, scheduler.waiting], [1, 2]);
  assertEquals(scheduler.next(), null);
  scheduler.remove(1);
  assertEquals(turn(scheduler), ["2@0!"]);
  scheduler.remove(3);
  scheduler.remove(2);
  assertEquals(scheduler.next(), null);
  assertEquals([scheduler.running, scheduler.waiting], [0, 0]);
});

Deno.test("scheduler starts a sequence with its prompt's pages and adds one when it is needed", () => {
  const scheduler = createScheduler({ slots: 1, stepTokens: 200, pages: 4 });
  scheduler.add(sequence(1, 2 * PAGE_TOKENS - 1, { maxTokens: 4 * PAGE_TOKENS }));
  const first = answered(scheduler);
  assertEquals(first?.slotPages.map(({ slot, pages }) => [slot, pages.length]), [[0, 2]]);
  assertEquals(answered(scheduler)?.slotPages, []);
  const third = answered(scheduler);
  assertEquals(third?.rows[0].position, 2 * PAGE_TOKENS);
  assertEquals(third?.slotPages.map(({ pages }) => pages.length), [3]);
  assertEquals([...third!.slotPages[0].pages.slice(0, 2)], [...first!.slotPages[0].pages]);
  assertEquals(scheduler.pageCounts(), { total: 4, used: 3, kept: 0 });
  scheduler.remove(1);
  assertEquals(scheduler.pageCounts(), { total: 4, used: 0, kept: 3 });
});

Deno.test("scheduler keeps spare pages for those that run", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 200, pages: 6 });
  // Four spare pages for the first, one for the second: with its own page more than there are.
  scheduler.add(sequence(1, 10, { maxTokens: 6 * PAGE_TOKENS }));
  scheduler.add(sequence(2, 10, { maxTokens: 2 * PAGE_TOKENS }));
  assertEquals(scheduler.next()?.slotPages.map(({ sequence }) => sequence), [1]);
  assertEquals([scheduler.running, scheduler.waiting], [1, 1]);
  scheduler.remove(1);
  assertEquals(scheduler.next()?.slotPages.map(({ sequence }) => sequence), [2]);
});

Deno.test("smaller sequences pass one that needs too many pages, but not for ever", () => {
  const scheduler = createScheduler({ slots: 2, stepTokens: 400, pages: 6 });
  scheduler.add(sequence(1, 2 * PAGE_TOKENS, { maxTokens: 2 * PAGE_TOKENS }));
  scheduler.add(sequence(2, 5 * PAGE_TOKENS, { maxTokens: 5 * PAGE_TOKENS }));
  for (let id = 3; id < 60; id++) scheduler.add(sequence(id, 10, { maxTokens: 12 }));
  let passed = 0;
  while (scheduler.next() !== null) {
    scheduler.settle();
    // The first one runs on, the small ones end at once.
    if (scheduler.running === 1) break;
    scheduler.remove(3 + passed++);
  }
  // One as the shortest, before anybody has looked for pages for the second.
  assertEquals(passed, 1 + 16);
  scheduler.remove(1);
  const next = scheduler.next();
  assert(next!.rows.some(({ sequence }) => sequence === 2));
});

Deno.test("the youngest sequence gives way where no page is free, and comes to the same tokens", () => {
  const machine = new Machine({ slots: 2, stepTokens: 16, pages: 10 });
  const { scheduler, live } = machine;
  machine.add(sequence(1, PAGE_TOKENS, { maxTokens: 7 * PAGE_TOKENS }));
  // Both start with the fewest pages, and there are not enough for two such answers.
  machine.add(sequence(2, 1, { maxTokens: 5 * PAGE_TOKENS, promptLogits: true, reuse: false }));
  const [first, second] = [live.get(1)!, live.get(2)!];
  let rows = 0;
  while (live.size > 0) {
    const step = scheduler.next()!;
    rows += step.rows.length;
    machine.run(step);
    machine.answer(step, {
      choose: (tokens) => -tokens.length,
      ends: ({ spec, tokens }) => tokens.length === spec.maxTokens,
    });
  }
  assert(scheduler.preemptions > 0, "nothing gave way");
  const positions = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => from + i);
  assertEquals(first.asked, positions(PAGE_TOKENS - 1, 7 * PAGE_TOKENS - 1));
  assertEquals(second.asked, positions(0, 5 * PAGE_TOKENS - 1));
  // Most of what it had computed was still there.
  assert(rows < (7 + 5 + 2) * PAGE_TOKENS, `too much was computed again: ${rows} rows`);
});

Deno.test("scheduler refuses a sequence that could never end", () => {
  const scheduler = createScheduler({ pages: 2 });
  assertThrows(
    () => scheduler.add(sequence(1, 10, { maxTokens: 2 * PAGE_TOKENS + 1 })),
    RangeError,
    "its pages are 3, must be at most 2",
  );
});

Deno.test("scheduler refuses options under which it could not keep its promises", () => {
  const message = "must be at least";
  assertThrows(() => createScheduler({ slots: 3, logitRows: 2 }), RangeError, message);
  assertThrows(() => createScheduler({ slots: 3, maxRows: 2 }), RangeError, message);
  assertThrows(() => createScheduler({ mixedTokens: 0 }), RangeError, message);
  assertThrows(() => createScheduler({ stepTokens: 4, mixedTokens: 5 }), RangeError, message);
});

Deno.test("scheduler wants no logits of a prompt that nothing follows", () => {
  const scheduler = createScheduler();
  scheduler.add(sequence(1, 2, { answers: false }));
  assertEquals(turn(scheduler), ["1@0-1"]);
});

Deno.test("scheduler spreads a prompt that wants all logits over the rows that may", () => {
  const scheduler = createScheduler({ slots: 2, logitRows: 4, stepTokens: 16 });
  scheduler.add(sequence(1, 2));
  turn(scheduler);
  scheduler.append(1, 9);
  scheduler.add(sequence(2, 5, { promptLogits: true, reuse: false }));
  assertEquals(turn(scheduler), ["1@2!", "2@0!", "2@1!", "2@2!"]);
  scheduler.append(1, 9);
  assertEquals(turn(scheduler), ["1@3!", "2@3!", "2@4!"]);
});

Deno.test("guesses are computed with the newest token and taken until one is wrong", () => {
  const scheduler = createScheduler({ logitRows: 6 });
  scheduler.add(sequence(1, 2, { maxTokens: 60 }));
  turn(scheduler);
  scheduler.append(1, 5);
  scheduler.draft(1, [6, 7, 8]);
  const step = scheduler.next();
  assertEquals(rowsOf(step), ["1@2!", "1@3!", "1@4!", "1@5!"]);
  assertEquals(step?.rows.map(({ token }) => token), [5, 6, 7, 8]);
  scheduler.settle();
  assertEquals([6, 7, 9].map((token) => scheduler.append(1, token)), [true, true, false]);
  const next = scheduler.next();
  assertEquals(next?.rows.map(({ position, token }) => [position, token]), [[5, 9]]);
});

Deno.test("when all guesses were right the token behind them goes on", () => {
  const scheduler = createScheduler({ logitRows: 6 });
  scheduler.add(sequence(1, 2, { maxTokens: 60 }));
  turn(scheduler);
  scheduler.append(1, 5);
  scheduler.draft(1, [6]);
  turn(scheduler);
  assertEquals([6, 7].map((token) => scheduler.append(1, token)), [true, false]);
  assertEquals(turn(scheduler), ["1@4!"]);
});

Deno.test("there are no more guesses than rows with logits, tokens of the answer or free pages", () => {
  const few = createScheduler({ logitRows: 3 });
  few.add(sequence(1, 2, { maxTokens: 60 }));
  turn(few);
  few.append(1, 5);
  few.draft(1, [6, 7, 8, 9]);
  assertEquals(turn(few), ["1@2!", "1@3!", "1@4!"]);

  const short = createScheduler({ logitRows: 9 });
  short.add(sequence(1, 2, { maxTokens: 5 }));
  turn(short);
  short.append(1, 5);
  short.draft(1, [6, 7, 8, 9]);
  assertEquals(turn(short), ["1@2!", "1@3!", "1@4!"]);

  const full = createScheduler({ stepTokens: 100, logitRows: 9, pages: 2 });
  full.add(sequence(1, 10));
  turn(full);
  // Its page is kept, and no guess is worth it.
  full.remove(1);
  full.add(sequence(2, PAGE_TOKENS - 2, { maxTokens: 100 }));
  turn(full);
  full.append(2, 5);
  full.draft(2, [6, 7, 8, 9]);
  assertEquals(turn(full), [`2@${PAGE_TOKENS - 2}!`, `2@${PAGE_TOKENS - 1}!`]);
  assertEquals(full.pageCounts().kept, 1);
});

Deno.test("a page pool hands out each page once and notices a page freed twice", () => {
  const pool = new PagePool(5);
  const first = pool.take(3)!;
  const second = pool.take(2)!;
  assertEquals(new Set([...first, ...second]).size, 5);
  assertEquals(pool.take(1), null);
  pool.giveBack(second);
  assertEquals(pool.free, 2);
  assertThrows(() => pool.giveBack(second), RangeError, "is free, must be taken");
});
