import { assert, assertEquals } from "@std/assert";
import type { Scheduler } from "../../src/engine/scheduler.ts";
import { createScheduler, rowsOf, sequence } from "./_scheduling.ts";

/** Rows that each sequence gets in the next step, which is settled. */
function shares(scheduler: Scheduler): Record<number, number> {
  const counts: Record<number, number> = {};
  for (const { sequence } of scheduler.next()?.rows ?? []) {
    counts[sequence] = (counts[sequence] ?? 0) + 1;
  }
  scheduler.settle();
  return counts;
}

Deno.test("clients share the rows of a step alike, however many prompts each has", () => {
  const scheduler = createScheduler({ slots: 4, stepTokens: 64, pages: 40 });
  for (const id of [1, 2, 3]) scheduler.add(sequence(id, 200, { client: "many" }));
  scheduler.add(sequence(4, 200, { client: "one" }));
  const { 4: one, ...many } = shares(scheduler);
  assertEquals(one, 32);
  assertEquals(Object.values(many).reduce((a, b) => a + b), 32);
});

Deno.test("a client that was served a lot lets others catch up, one that comes new has no credit", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 32, pages: 60 });
  scheduler.add(sequence(1, 500, { client: "first" }));
  shares(scheduler);
  scheduler.add(sequence(2, 500, { client: "second" }));
  // It starts level with the first one, not 32 rows behind.
  assertEquals(shares(scheduler), { 1: 16, 2: 16 });
  scheduler.remove(2);
  shares(scheduler);
  shares(scheduler);
  scheduler.add(sequence(3, 500, { client: "second" }));
  assertEquals(shares(scheduler), { 1: 16, 3: 16 });
});

Deno.test("a client that leaves and comes back keeps what it was served", () => {
  const scheduler = createScheduler({ slots: 4, stepTokens: 32, pages: 60 });
  scheduler.add(sequence(1, 64, { client: "greedy" }));
  shares(scheduler);
  shares(scheduler);
  scheduler.add(sequence(2, 16, { client: "patient", priority: 1 }));
  scheduler.add(sequence(3, 64, { client: "greedy" }));
  shares(scheduler);
  // Patient was level at 64; greedy has 32 more when it goes and comes back at once.
  scheduler.remove(1);
  scheduler.remove(3);
  scheduler.add(sequence(4, 64, { client: "greedy", priority: 1 }));
  scheduler.add(sequence(5, 64, { client: "patient", priority: 1 }));
  assertEquals(shares(scheduler), { 2: 16, 5: 16 });
});

Deno.test("a short prompt is not stuck behind a long one, and the long one goes on", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 32, pages: 40 });
  scheduler.add(sequence(1, 1000));
  shares(scheduler);
  scheduler.add(sequence(2, 20));
  assertEquals(shares(scheduler), { 1: 16, 2: 16 });
  scheduler.add(sequence(3, 10));
  assertEquals(shares(scheduler), { 1: 18, 2: 4, 3: 10 });
});

Deno.test("the oldest prompt goes on even where a step has one prompt row", () => {
  const scheduler = createScheduler({ slots: 2, stepTokens: 1, pages: 40 });
  scheduler.add(sequence(1, 50));
  scheduler.add(sequence(2, 5));
  assertEquals(shares(scheduler), { 1: 1 });
});

Deno.test("the better priority has all rows, and the other what is left", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 32, pages: 40 });
  scheduler.add(sequence(1, 100, { priority: 5 }));
  scheduler.add(sequence(2, 40));
  assertEquals(shares(scheduler), { 2: 32 });
  assertEquals(shares(scheduler), { 1: 24, 2: 8 });
});

Deno.test("slots go to clients in turn", () => {
  const scheduler = createScheduler({ slots: 2, stepTokens: 64, pages: 40 });
  for (const id of [1, 2, 3]) scheduler.add(sequence(id, 20, { client: "many" }));
  scheduler.add(sequence(4, 20, { client: "one" }));
  assertEquals(Object.keys(shares(scheduler)), ["1", "4"]);
});

Deno.test("a client's slots go to its oldest and to its shortest sequence in turn", () => {
  const scheduler = createScheduler({ slots: 1, stepTokens: 64, pages: 40 });
  const lengths = [30, 20, 10, 25, 5];
  for (const [i, length] of lengths.entries()) scheduler.add(sequence(i + 1, length));
  const order: number[] = [];
  for (let step = scheduler.next(); step !== null; step = scheduler.next()) {
    scheduler.settle();
    order.push(step.rows[0].sequence);
    scheduler.remove(step.rows[0].sequence);
  }
  assertEquals(order, [1, 5, 2, 3, 4]);
});

Deno.test("a sequence takes the slot of one with a worse priority, which goes on later", () => {
  const scheduler = createScheduler({ slots: 1, stepTokens: 64, pages: 40 });
  scheduler.add(sequence(1, 10, { priority: 1 }));
  assertEquals(rowsOf(scheduler.next()), ["1@0-8", "1@9!"]);
  scheduler.settle();
  scheduler.append(1, 5);
  scheduler.add(sequence(2, 10, { priority: 1 }));
  assertEquals(rowsOf(scheduler.next()), ["1@10!"]);
  scheduler.settle();
  scheduler.append(1, 6);
  scheduler.add(sequence(3, 10, { priority: 0 }));
  const step = scheduler.next();
  assertEquals(rowsOf(step), ["3@0-8", "3@9!"]);
  assertEquals(scheduler.preemptions, 1);
  scheduler.settle();
  scheduler.remove(3);
  // Ahead of the one that has waited, with all that it had, and started only once.
  const resumed = scheduler.next();
  assertEquals(rowsOf(resumed), ["1@11!"]);
  assertEquals(resumed?.started, []);
  assertEquals(resumed?.rows[0].token, 6);
});

Deno.test("nobody gives way where that would not be enough", () => {
  const scheduler = createScheduler({ slots: 3, stepTokens: 400, pages: 4 });
  scheduler.add(sequence(1, 120, { maxTokens: 128 }));
  scheduler.add(sequence(2, 10, { priority: 1, maxTokens: 64 }));
  assertEquals(shares(scheduler), { 1: 120, 2: 10 });
  scheduler.add(sequence(3, 190, { maxTokens: 192 }));
  assertEquals(scheduler.next(), null);
  assertEquals([scheduler.running, scheduler.preemptions], [2, 0]);
  scheduler.add(sequence(4, 120, { maxTokens: 128 }));
  assertEquals(shares(scheduler), { 4: 120 });
  assertEquals([scheduler.running, scheduler.preemptions], [2, 1]);
});

Deno.test("where pages run out the worst priority gives way, not the youngest of all", () => {
  const scheduler = createScheduler({ slots: 2, stepTokens: 200, pages: 9 });
  const answer = () => {
    const ids = new Set(scheduler.next()!.rows.map(({ sequence }) => sequence));
    scheduler.settle();
    for (const id of ids) scheduler.append(id, 1);
    return ids;
  };
  scheduler.add(sequence(1, 10, { priority: 1, maxTokens: 576 }));
  assertEquals(answer(), new Set([1]));
  scheduler.add(sequence(2, 10, { maxTokens: 576 }));
  // Each starts with one page of nine, and may come to nine.
  let worked = answer();
  assertEquals(worked, new Set([1, 2]));
  while (scheduler.preemptions === 0) worked = answer();
  assertEquals(worked, new Set([2]));
});

Deno.test("one step is decided within a tenth of a millisecond while 64 sequences answer", () => {
  const scheduler = createScheduler({
    slots: 64,
    stepTokens: 128,
    maxRows: 192,
    logitRows: 64,
    pages: 1000,
  });
  for (let id = 0; id < 64; id++) {
    scheduler.add(sequence(id, 100, { maxTokens: 900, client: `client ${id % 5}` }));
  }
  const times: number[] = [];
  for (let round = 0; round < 700; round++) {
    const begin = performance.now();
    const { rows } = scheduler.next()!;
    times.push(performance.now() - begin);
    scheduler.settle();
    for (const { sequence, wantsLogits } of rows) if (wantsLogits) scheduler.append(sequence, 1);
  }
  times.sort((a, b) => a - b);
  const median = times[times.length >> 1];
  assert(median < 0.1, `the median step took ${median} ms to decide`);
});
