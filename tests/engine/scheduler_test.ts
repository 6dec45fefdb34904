import { assert, assertEquals, assertThrows } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { PagePool } from "../../src/engine/pages.ts";
import {
  Scheduler,
  type SequenceSpec,
  type SlotPages,
  type Step,
  type StepRow,
} from "../../src/engine/scheduler.ts";

interface Setup {
  slots?: number;
  chunkTokens?: number;
  logitRows?: number;
  pages?: number;
}

function create(setup: Setup = {}): { scheduler: Scheduler; pool: PagePool } {
  const { slots = 2, chunkTokens = 8, logitRows = slots, pages = 8 } = setup;
  const pool = new PagePool(pages);
  return { scheduler: new Scheduler({ slots, chunkTokens, logitRows, pages: pool }), pool };
}

function sequence(id: number, length: number, more: Partial<SequenceSpec> = {}): SequenceSpec {
  const prompt = Array.from({ length }, (_, i) => id * 100 + i);
  return {
    id,
    prompt,
    maxTokens: length + 4,
    answers: true,
    promptLogits: false,
    ...more,
  };
}

/** Rows in short: `sequence@position`, with `!` where logits are wanted. */
function rowsOf(step: Step | null): string[] {
  return (step?.rows ?? []).map((row) =>
    `${row.sequence}@${row.position}${row.wantsLogits ? "!" : ""}`
  );
}

Deno.test("scheduler splits a prompt longer than the token budget", () => {
  const { scheduler } = create({ chunkTokens: 3 });
  scheduler.add(sequence(1, 7));
  assertEquals(rowsOf(scheduler.next()), ["1@0", "1@1", "1@2"]);
  assertEquals(rowsOf(scheduler.next()), ["1@3", "1@4", "1@5"]);
  assertEquals(rowsOf(scheduler.next()), ["1@6!"]);
  assertEquals(scheduler.next(), null);
});

Deno.test("scheduler continues a sequence with the token that was chosen", () => {
  const { scheduler } = create();
  scheduler.add(sequence(1, 2));
  scheduler.next();
  scheduler.append(1, 77);
  const step = scheduler.next();
  assertEquals(rowsOf(step), ["1@2!"]);
  assertEquals(step?.rows[0].token, 77);
  assertEquals(scheduler.next(), null);
});

Deno.test("scheduler puts answers and a chunk of a prompt into the same step", () => {
  const { scheduler } = create({ chunkTokens: 3 });
  scheduler.add(sequence(1, 2));
  scheduler.next();
  scheduler.append(1, 5);
  scheduler.add(sequence(2, 4));
  const step = scheduler.next();
  assertEquals(rowsOf(step), ["1@2!", "2@0", "2@1", "2@2"]);
  assertEquals(step?.rows.map(({ slot }) => slot), [0, 1, 1, 1]);
  scheduler.append(1, 6);
  assertEquals(rowsOf(scheduler.next()), ["1@3!", "2@3!"]);
});

Deno.test("scheduler fills a chunk with several prompts, the oldest first", () => {
  const { scheduler } = create({ slots: 3, chunkTokens: 8 });
  scheduler.add(sequence(1, 3));
  scheduler.add(sequence(2, 3));
  scheduler.add(sequence(3, 6));
  assertEquals(
    rowsOf(scheduler.next()),
    ["1@0", "1@1", "1@2!", "2@0", "2@1", "2@2!", "3@0", "3@1"],
  );
});

Deno.test("scheduler holds sequences back until a slot is free, in the order they came", () => {
  const { scheduler } = create({ slots: 1 });
  for (const id of [1, 2, 3]) scheduler.add(sequence(id, 1));
  assertEquals(rowsOf(scheduler.next()), ["1@0!"]);
  assertEquals([scheduler.running, scheduler.waiting], [1, 2]);
  assertEquals(scheduler.next(), null);
  scheduler.remove(1);
  assertEquals(rowsOf(scheduler.next()), ["2@0!"]);
  scheduler.remove(3);
  scheduler.remove(2);
  assertEquals(scheduler.next(), null);
  assertEquals([scheduler.running, scheduler.waiting], [0, 0]);
});

/** Answers every row that wants logits, with the negative of the token's position. */
function answer(scheduler: Scheduler, step: Step | null): void {
  for (const { sequence, position, wantsLogits } of step?.rows ?? []) {
    if (wantsLogits) scheduler.append(sequence, -position - 1);
  }
}

Deno.test("scheduler starts a sequence with its prompt's pages and adds one when it is needed", () => {
  const { scheduler, pool } = create({ slots: 1, chunkTokens: 200, pages: 4 });
  scheduler.add(sequence(1, 2 * PAGE_TOKENS - 1, { maxTokens: 4 * PAGE_TOKENS }));
  const first = scheduler.next();
  assertEquals(first?.slotPages.map(({ slot, pages }) => [slot, pages.length]), [[0, 2]]);
  answer(scheduler, first);
  const second = scheduler.next();
  assertEquals(second?.slotPages, []);
  answer(scheduler, second);
  const third = scheduler.next();
  assertEquals(third?.rows[0].position, 2 * PAGE_TOKENS);
  assertEquals(third?.slotPages.map(({ pages }) => pages.length), [3]);
  assertEquals([...third!.slotPages[0].pages.slice(0, 2)], [...first!.slotPages[0].pages]);
  assertEquals(pool.free, 1);
  scheduler.remove(1);
  assertEquals(pool.free, 4);
});

Deno.test("scheduler keeps spare pages for those that run, and nobody overtakes", () => {
  const { scheduler, pool } = create({ slots: 3, chunkTokens: 200, pages: 6 });
  // Four spare pages for the first, one for the second: with its own page more than there are.
  scheduler.add(sequence(1, 10, { maxTokens: 6 * PAGE_TOKENS }));
  scheduler.add(sequence(2, 10, { maxTokens: 2 * PAGE_TOKENS }));
  scheduler.add(sequence(3, 10, { maxTokens: 20 }));
  assertEquals(scheduler.next()?.slotPages.map(({ sequence }) => sequence), [1]);
  assertEquals([pool.free, scheduler.running, scheduler.waiting], [5, 1, 2]);
  scheduler.remove(1);
  assertEquals(scheduler.next()?.slotPages.map(({ sequence }) => sequence), [2, 3]);
});

Deno.test("the youngest sequence gives way where no page is free, and is computed again", () => {
  const { scheduler, pool } = create({ slots: 2, chunkTokens: 16, pages: 10 });
  const maxTokens = 7 * PAGE_TOKENS;
  scheduler.add(sequence(1, PAGE_TOKENS, { maxTokens }));
  // Both start with the fewest pages, and there are not enough for two such answers.
  scheduler.add(sequence(2, 1, { maxTokens: 5 * PAGE_TOKENS, promptLogits: true }));
  const tokens: Record<number, Map<number, number>> = { 1: new Map(), 2: new Map() };
  const asked: Record<number, number[]> = { 1: [], 2: [] };
  let wasPreempted = false;
  for (let round = 0; round < 2000 && scheduler.running + scheduler.waiting > 0; round++) {
    const before = scheduler.running;
    const step = scheduler.next();
    if (scheduler.running < before) wasPreempted = true;
    for (const row of step?.rows ?? []) {
      const known = tokens[row.sequence].get(row.position);
      if (known !== undefined) assertEquals(row.token, known);
      tokens[row.sequence].set(row.position, row.token);
      if (row.wantsLogits) asked[row.sequence].push(row.position);
      const isEnd = row.position === (row.sequence === 1 ? maxTokens : 5 * PAGE_TOKENS) - 1;
      if (isEnd) scheduler.remove(row.sequence);
      else if (row.wantsLogits) scheduler.append(row.sequence, -row.position - 1);
    }
  }
  assert(wasPreempted, "nothing gave way");
  // Every position's logits were asked for once, in order, also those around the interruption.
  assertEquals(
    asked[1],
    Array.from({ length: 6 * PAGE_TOKENS + 1 }, (_, i) => PAGE_TOKENS - 1 + i),
  );
  assertEquals(asked[2], Array.from({ length: 5 * PAGE_TOKENS }, (_, i) => i));
  assertEquals(pool.free, 10);
});

Deno.test("scheduler refuses a sequence that could never end", () => {
  const { scheduler } = create({ pages: 2 });
  assertThrows(
    () => scheduler.add(sequence(1, 10, { maxTokens: 2 * PAGE_TOKENS + 1 })),
    RangeError,
    "its pages are 3, must be at most 2",
  );
});

Deno.test("scheduler wants no logits of a prompt that nothing follows", () => {
  const { scheduler } = create();
  scheduler.add(sequence(1, 2, { answers: false }));
  assertEquals(rowsOf(scheduler.next()), ["1@0", "1@1"]);
});

Deno.test("scheduler spreads a prompt that wants all logits over the rows that may", () => {
  const { scheduler } = create({ slots: 2, logitRows: 4, chunkTokens: 16 });
  scheduler.add(sequence(1, 2));
  scheduler.next();
  scheduler.append(1, 9);
  scheduler.add(sequence(2, 5, { promptLogits: true }));
  assertEquals(rowsOf(scheduler.next()), ["1@2!", "2@0!", "2@1!", "2@2!"]);
  scheduler.append(1, 9);
  assertEquals(rowsOf(scheduler.next()), ["1@3!", "2@3!", "2@4!"]);
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

/** A small generator for reproducible choices. */
function choices(seed: number): (below: number) => number {
  let state = seed + 1;
  return (below) => {
    state = Math.imul(state, 48271) >>> 0;
    return (state >>> 8) % below;
  };
}

/** What a random test knows of a sequence that it added. */
interface Known {
  readonly spec: SequenceSpec;
  readonly tokens: number[];
  /** The position of its next row. */
  next: number;
  /** Positions below have had their rows before. */
  reached: number;
  place: SlotPages | null;
}

for (let seed = 0; seed < 30; seed++) {
  Deno.test(`scheduler keeps its promises over random comings and goings (seed ${seed})`, () => {
    const pick = choices(seed);
    const slots = 1 + pick(4);
    const chunkTokens = 1 + pick(20);
    const logitRows = slots + pick(6);
    const pages = 4 + pick(16);
    const { scheduler, pool } = create({ slots, chunkTokens, logitRows, pages });
    const live = new Map<number, Known>();
    const firstStarts: number[] = [];
    const remove = (id: number) => {
      scheduler.remove(id);
      live.delete(id);
    };
    for (let round = 0; round < 2000 || live.size > 0; round++) {
      assert(round < 60_000, "a sequence starves");
      if (round < 2000 && pick(30) === 0) {
        const length = 1 + pick(100);
        const more = {
          promptLogits: pick(4) === 0,
          answers: pick(5) !== 0,
          maxTokens: Math.min(length + 1 + pick(800), pages * PAGE_TOKENS),
        };
        const spec = sequence(round + 1, length, more);
        scheduler.add(spec);
        live.set(spec.id, { spec, tokens: [...spec.prompt], next: 0, reached: 0, place: null });
      }
      if (round < 2000 && pick(200) === 0 && live.size > 0) {
        remove([...live.keys()][pick(live.size)]);
      }

      const step = scheduler.next();
      const rows = step?.rows ?? [];
      for (const place of step?.slotPages ?? []) {
        const known = live.get(place.sequence)!;
        // Whoever had the slot has given way.
        for (const other of live.values()) {
          if (other !== known && other.place?.slot === place.slot) other.place = null;
        }
        const isGrowing = known.place !== null && known.next > 0 &&
          rows.some((row) => row.sequence === place.sequence && row.position === known.next);
        if (!isGrowing) known.next = 0;
        if (known.place === null && known.reached === 0) firstStarts.push(place.sequence);
        known.place = place;
      }

      const isAnswer = (row: StepRow) => {
        const { spec, tokens } = live.get(row.sequence)!;
        return row.position >= spec.prompt.length && row.position === tokens.length - 1;
      };
      const chunk = rows.filter((row) => !isAnswer(row));
      assert(chunk.length <= chunkTokens, "a chunk is too long");
      assert(rows.length <= chunkTokens + slots, "a step is too long");
      assert(rows.filter((row) => row.wantsLogits).length <= logitRows, "too many logits");
      const working = new Set(rows.map((row) => row.sequence));
      const places = [...working].map((id) => live.get(id)!.place!);
      assertEquals(new Set(places.map(({ slot }) => slot)).size, places.length);
      const held = places.flatMap((place) => [...place.pages]);
      assertEquals(new Set(held).size, held.length);
      assert(pool.free <= pages - held.length, "a page is free that a row of this step uses");

      for (const row of rows) {
        const known = live.get(row.sequence)!;
        const { prompt, answers, promptLogits, maxTokens } = known.spec;
        assertEquals(row.position, known.next++);
        assertEquals(row.slot, known.place?.slot);
        assertEquals(row.token, known.tokens[row.position]);
        assert(known.place!.pages.length * PAGE_TOKENS > row.position, "a row has no page");
        const isNew = row.position >= known.reached;
        const isEnd = row.position >= prompt.length - 1;
        assertEquals(row.wantsLogits, isNew && (isEnd ? answers : promptLogits));
        known.reached = Math.max(known.reached, known.next);
        if (!isEnd || !isNew) continue;
        if (!answers || known.next === maxTokens) {
          remove(row.sequence);
        } else {
          known.tokens.push(-known.next);
          scheduler.append(row.sequence, -known.next);
        }
      }
    }
    assertEquals(firstStarts, firstStarts.toSorted((a, b) => a - b));
    assertEquals([pool.free, scheduler.running, scheduler.waiting], [pages, 0, 0]);
  });
}
