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
    reservedTokens: length + 4,
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

Deno.test("scheduler reserves the pages of the whole sequence when it starts", () => {
  const { scheduler, pool } = create({ slots: 3, pages: 4 });
  scheduler.add(sequence(1, 10, { reservedTokens: 2 * PAGE_TOKENS + 1 }));
  scheduler.add(sequence(2, 10, { reservedTokens: 2 * PAGE_TOKENS }));
  scheduler.add(sequence(3, 10, { reservedTokens: PAGE_TOKENS }));
  const step = scheduler.next();
  // The second one has to wait, and the third does not overtake it.
  assertEquals(step?.admitted.map(({ pages }) => pages.length), [3]);
  assertEquals([pool.free, scheduler.running, scheduler.waiting], [1, 1, 2]);
  scheduler.remove(1);
  assertEquals(scheduler.next()?.admitted.map(({ pages }) => pages.length), [2, 1]);
  assertEquals(pool.free, 1);
});

Deno.test("scheduler refuses a reservation that would never fit", () => {
  const { scheduler } = create({ pages: 2 });
  assertThrows(
    () => scheduler.add(sequence(1, 10, { reservedTokens: 2 * PAGE_TOKENS + 1 })),
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
  /** The position of its next row. */
  next: number;
  place: SlotPages | null;
}

for (let seed = 0; seed < 20; seed++) {
  Deno.test(`scheduler keeps its promises over random comings and goings (seed ${seed})`, () => {
    const pick = choices(seed);
    const slots = 1 + pick(4);
    const chunkTokens = 1 + pick(20);
    const logitRows = slots + pick(6);
    const pages = 3 + pick(10);
    const { scheduler, pool } = create({ slots, chunkTokens, logitRows, pages });
    const live = new Map<number, Known>();
    const admittedIds: number[] = [];
    const remove = (id: number) => {
      scheduler.remove(id);
      live.delete(id);
    };
    for (let round = 0; round < 300 || live.size > 0; round++) {
      assert(round < 5000, "a sequence starves");
      if (round < 300 && pick(3) === 0) {
        const more = { promptLogits: pick(4) === 0, answers: pick(5) !== 0 };
        const spec = sequence(round + 1, 1 + pick(100), more);
        scheduler.add(spec);
        live.set(spec.id, { spec, next: 0, place: null });
      }
      if (round < 300 && pick(15) === 0 && live.size > 0) {
        remove([...live.keys()][pick(live.size)]);
      }

      const step = scheduler.next();
      for (const place of step?.admitted ?? []) {
        admittedIds.push(place.sequence);
        live.get(place.sequence)!.place = place;
      }
      const rows = step?.rows ?? [];
      const inPrompt = (row: StepRow) => row.position < live.get(row.sequence)!.spec.prompt.length;
      assert(rows.filter(inPrompt).length <= chunkTokens, "a chunk is too long");
      assert(rows.filter((row) => !inPrompt(row)).length <= slots, "more answers than slots");
      assert(rows.filter((row) => row.wantsLogits).length <= logitRows, "too many logits");
      const places = [...live.values()].flatMap(({ place }) => place ?? []);
      assertEquals(new Set(places.map(({ slot }) => slot)).size, places.length);
      const held = places.flatMap((place) => [...place.pages]);
      assertEquals(new Set(held).size, held.length);
      assertEquals(pool.free, pages - held.length);

      for (const row of rows) {
        const known = live.get(row.sequence)!;
        const { prompt, answers, promptLogits } = known.spec;
        assertEquals(row.position, known.next++);
        assertEquals(row.slot, known.place?.slot);
        assertEquals(row.token, prompt[row.position] ?? -row.position);
        const isEnd = row.position >= prompt.length - 1;
        assertEquals(row.wantsLogits, isEnd ? answers : promptLogits);
        if (!isEnd) continue;
        if (!answers || known.next === known.spec.reservedTokens) remove(row.sequence);
        else scheduler.append(row.sequence, -known.next);
      }
    }
    assertEquals(admittedIds, admittedIds.toSorted((a, b) => a - b));
    assertEquals([pool.free, scheduler.running, scheduler.waiting], [pages, 0, 0]);
  });
}
