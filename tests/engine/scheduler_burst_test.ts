/** Bursts as the scheduler gives them: behind each other, before the ones before have been read. */

import { assert, assertEquals } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { CHOSEN_THERE, type FilledUnit, type Step } from "../../src/engine/schedule.ts";
import type { Scheduler } from "../../src/engine/scheduler.ts";
import { choices, createScheduler, type Known, Machine, rowsOf, sequence } from "./_scheduling.ts";

/** Computes prompts, with a first token each. */
function begin(scheduler: Scheduler, ...ids: number[]): void {
  scheduler.next();
  scheduler.settle();
  for (const id of ids) scheduler.append(id, 5);
}

/** Tokens of a burst that has been read. */
function land(scheduler: Scheduler, step: Step | null): void {
  scheduler.settle();
  for (const { sequence } of step?.rows ?? []) scheduler.append(sequence, 6);
}

Deno.test("a burst has rows for each answer, as many as are asked for or as it may still have", () => {
  const scheduler = createScheduler();
  scheduler.add(sequence(1, 2, { maxTokens: 20 }));
  scheduler.add(sequence(2, 2, { maxTokens: 5 }));
  begin(scheduler, 1, 2);
  const step = scheduler.next({ burstRows: 3 });
  assertEquals(rowsOf(step), ["1@2!", "1@3!", "1@4!", "2@2!", "2@3!"]);
  assertEquals(step?.rows.map(({ token }) => token), [
    ...[5, CHOSEN_THERE, CHOSEN_THERE],
    ...[5, CHOSEN_THERE],
  ]);
  assert(step?.burst);
});

Deno.test("the next burst goes on where the last one ends, with those that go on", () => {
  const scheduler = createScheduler();
  scheduler.add(sequence(1, 2, { maxTokens: 20 }));
  scheduler.add(sequence(2, 2, { maxTokens: 5 }));
  begin(scheduler, 1, 2);
  const first = scheduler.next({ burstRows: 3 });
  const second = scheduler.follow(2);
  assertEquals(rowsOf(second), ["1@5!", "1@6!"]);
  assertEquals(second?.rows.map(({ token }) => token), [CHOSEN_THERE, CHOSEN_THERE]);
  land(scheduler, first);
  scheduler.remove(2);
  const third = scheduler.follow(4);
  assertEquals(rowsOf(third), ["1@7!", "1@8!", "1@9!", "1@10!"]);
  land(scheduler, second);
  land(scheduler, third);
  // Tokens are as many as rows were read, and the newest one is known.
  const next = scheduler.next({ burstRows: 1 });
  assertEquals([rowsOf(next), next?.rows[0].token], [["1@11!"], 6]);
});

Deno.test("nothing follows a burst where somebody may start, came meanwhile, or is not in it", () => {
  const start = () => {
    const scheduler = createScheduler({ slots: 2 });
    scheduler.add(sequence(1, 2, { maxTokens: 40 }));
    begin(scheduler, 1);
    return scheduler;
  };
  const came = start();
  assert(came.next({ burstRows: 2 })?.burst);
  came.add(sequence(2, 3));
  assertEquals(came.follow(2), null);

  const waits = start();
  waits.add(sequence(2, 2, { maxTokens: 40 }));
  begin(waits, 1, 2);
  waits.add(sequence(3, 2));
  const first = waits.next({ burstRows: 2 });
  assert(first?.burst);
  // No slot is free for the third one.
  assertEquals(waits.follow(2)?.rows.length, 4);
  land(waits, first);
  waits.remove(1);
  assertEquals(waits.follow(2), null);

  const restoring = new Machine({ slots: 2, stepTokens: 100, pages: 9 });
  restoring.add(sequence(1, 2, { maxTokens: 40 }));
  begin(restoring.scheduler, 1);
  restoring.add(sequence(2, 90, { restorable: true, maxTokens: 99 }));
  const step = restoring.scheduler.next({ burstRows: 2 });
  assertEquals(step?.restores.length, 1);
  assertEquals(restoring.scheduler.follow(2), null);
});

Deno.test("steps with prompts, and answers of whom more than tokens is wanted, are no bursts", () => {
  const scheduler = createScheduler();
  scheduler.add(sequence(1, 2, { maxTokens: 20 }));
  begin(scheduler, 1);
  scheduler.add(sequence(2, 2, { tokensOnly: false, maxTokens: 20 }));
  const mixed = scheduler.next({ burstRows: 4 });
  assertEquals([mixed?.burst, rowsOf(mixed)], [false, ["1@2!", "2@0", "2@1!"]]);
  scheduler.settle();
  for (const id of [1, 2]) scheduler.append(id, 5);
  const scored = scheduler.next({ burstRows: 4 });
  assertEquals([scored?.burst, rowsOf(scored)], [false, ["1@3!", "2@2!"]]);
  scheduler.remove(2);
  assertEquals(scheduler.next({ burstRows: 4 })?.burst, true);
  assertEquals(scheduler.next()?.burst, false);
});

Deno.test("a burst takes pages ahead, and one that follows ends where the answer must", () => {
  const scheduler = createScheduler({ slots: 1, pages: 2, stepTokens: 200 });
  scheduler.add(sequence(1, PAGE_TOKENS - 2, { maxTokens: 2 * PAGE_TOKENS }));
  begin(scheduler, 1);
  const first = scheduler.next({ burstRows: PAGE_TOKENS });
  assertEquals(first?.slotPages.map(({ pages }) => pages.length), [2]);
  assertEquals(first?.rows.length, PAGE_TOKENS);
  assertEquals(scheduler.follow(9)?.rows.length, 1);
});

const ROUNDS = 1200;

function choose(tokens: readonly number[]): number {
  let hash = tokens.length;
  for (const token of tokens) hash = Math.imul(hash ^ token, 0x9e3779b1) >>> 3;
  return hash % 5;
}

for (let seed = 0; seed < 30; seed++) {
  Deno.test(`scheduler keeps its promises with bursts behind each other (seed ${seed})`, () => {
    const pick = choices(seed);
    const slots = 1 + pick(5);
    const pages = 5 + pick(16);
    const stepTokens = 20 + pick(100);
    const machine = new Machine({ slots, stepTokens, maxRows: slots + stepTokens, pages });
    const { scheduler, live, restoring } = machine;
    const streams = Array.from({ length: 2 }, () => Array.from({ length: 300 }, () => pick(5)));
    // Some answers stop before they are as long as they may be.
    const ends = ({ tokens, spec }: Known) =>
      tokens.length === spec.maxTokens || choose([...tokens, 3]) + tokens.length % 9 === 0;
    const add = (id: number) => {
      const longest = Math.min(300, pages * PAGE_TOKENS);
      const prompt = [...streams[pick(2)].slice(0, pick(200)), pick(5)].slice(-(longest - 40));
      // Equal ones answer alike, and some of them end earlier.
      for (let copy = 0; copy < (pick(3) === 0 ? 3 : 1); copy++) {
        machine.add(sequence(10 * id + copy, 0, {
          prompt,
          maxTokens: Math.min(longest, prompt.length + 1 + pick(200)),
          tokensOnly: pick(12) !== 0,
          restorable: pick(2) === 0,
          lasting: pick(10) !== 0,
          priority: pick(8) === 0 ? pick(3) : 1,
        }));
      }
    };
    const flights: Step[] = [];
    /** Nobody may write there before they have been copied, which is when the next step is asked for. */
    const units: FilledUnit[] = [];
    let followed = 0;
    const gone = (known: Known) => {
      const alone = [...known.spec.prompt];
      while (alone.length < known.tokens.length) alone.push(choose(alone));
      assertEquals(known.tokens, alone);
    };

    for (let round = 0; round < ROUNDS || live.size > 0 || restoring.size > 0; round++) {
      assert(round < 40 * ROUNDS, "a sequence starves");
      const isOpen = round < ROUNDS;
      if (isOpen && pick(25) === 0) add(round + 1);
      if (isOpen && pick(60) === 0 && live.size > 0) {
        const unit = machine.remove([...live.keys()][pick(live.size)]);
        if (unit !== null) units.push(unit);
      }
      for (const [id, { tokens }] of [...restoring]) {
        if (pick(5) === 0) machine.restore(id, pick(3) === 0 ? 0 : pick(tokens.length + 1));
      }
      const before = [...live.values()];
      if (flights.length > 0) {
        if (flights.length === 1 && pick(8) > 0) {
          machine.checkUnits(units.splice(0));
          const step = scheduler.follow(1 + pick(32));
          if (step !== null) {
            followed++;
            machine.launch(step, choose);
            flights.push(step);
          }
        }
        if (isOpen && pick(60) === 0) {
          // What is under way has failed, and what is behind it has no other sequences.
          for (const { sequence } of flights[0].rows) machine.remove(sequence);
          flights.length = 0;
          continue;
        }
        units.push(...machine.land(flights.shift()!, ends));
        for (const known of before) if (!live.has(known.spec.id)) gone(known);
        continue;
      }
      machine.checkUnits(units.splice(0));
      const step = scheduler.next({ burstRows: pick(4) === 0 ? 0 : 1 + pick(32) });
      if (step === null) continue;
      if (step.burst) {
        machine.launch(step, choose);
        flights.push(step);
        continue;
      }
      units.push(...machine.run(step));
      machine.answer(step, { choose, ends });
      for (const known of before) if (!live.has(known.spec.id)) gone(known);
    }
    while (flights.length > 0) machine.land(flights.shift()!, ends);
    const { total, used } = scheduler.pageCounts();
    assertEquals([total, used], [pages, 0]);
    assert(followed > 10, `${followed} bursts followed another`);
  });
}
