import { assert, assertEquals } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { choices, type Known, Machine, ROOTS, sequence } from "./_scheduling.ts";

/** Tokens of a small vocabulary, so that sequences have much in common. */
const VOCABULARY = 5;

/** A token that depends on all before it, and is easy enough to guess. */
function choose(tokens: readonly number[]): number {
  let hash = tokens.length;
  for (const token of tokens) hash = Math.imul(hash ^ token, 0x9e3779b1) >>> 3;
  return hash % 3 === 0 ? hash % VOCABULARY : 1;
}

const ROUNDS = 1500;

for (let seed = 0; seed < 40; seed++) {
  Deno.test(`scheduler keeps its promises over random comings and goings (seed ${seed})`, () => {
    const pick = choices(seed);
    const slots = 1 + pick(5);
    const stepTokens = 1 + pick(60);
    const pages = 4 + pick(20);
    const machine = new Machine({
      slots,
      stepTokens,
      mixedTokens: 1 + pick(stepTokens),
      maxRows: slots + pick(80),
      logitRows: slots + pick(8),
      pages,
    });
    const { scheduler, live, restoring } = machine;
    const streams = Array.from({ length: 3 }, () => Array.from({ length: 400 }, () => pick(5)));
    const lengths = new Map<number, number>();
    const hasRoom = (known: Known) => known.tokens.length < lengths.get(known.spec.id)!;
    const add = (id: number) => {
      const shared = streams[pick(3)].slice(0, pick(300));
      const own = Array.from({ length: pick(3) * pick(60) }, () => pick(VOCABULARY));
      const longest = Math.min(400, pages * PAGE_TOKENS);
      const prompt = [...shared, ...own, pick(VOCABULARY)].slice(-(longest - 30));
      const promptLogits = pick(6) === 0;
      const root = ROOTS[pick(8) === 0 ? 1 + pick(2) : 0];
      const length = Math.min(longest, prompt.length + 1 + pick(150));
      lengths.set(id, length);
      const copies = pick(8) === 0 ? 1 + pick(4) : 1;
      for (let copy = 0; copy < copies; copy++) {
        lengths.set(id + copy, length);
        machine.add(sequence(id + copy, 0, {
          prompt,
          maxTokens: length,
          answers: pick(8) !== 0,
          promptLogits,
          reuse: !promptLogits,
          restorable: pick(2) === 0,
          root,
          lasting: pick(10) !== 0,
          client: `client ${pick(4)}`,
          priority: pick(6) === 0 ? pick(3) : 1,
        }));
      }
    };

    for (let round = 0; round < ROUNDS || live.size > 0 || restoring.size > 0; round++) {
      assert(round < 40 * ROUNDS, "a sequence starves");
      const isOpen = round < ROUNDS;
      if (isOpen && pick(20) === 0) add(10 * (round + 1));
      if (isOpen && pick(60) === 0 && live.size > 0) {
        machine.remove([...live.keys()][pick(live.size)]);
      }
      for (const id of live.keys()) {
        if (pick(3) === 0) {
          scheduler.draft(id, Array.from({ length: pick(8) }, () => pick(2) === 0 ? 1 : pick(5)));
        }
      }
      for (const [id, { tokens }] of [...restoring]) {
        if (pick(5) === 0) machine.restore(id, pick(3) === 0 ? 0 : pick(tokens.length + 1));
      }
      const step = scheduler.next();
      if (step === null) continue;
      if (isOpen && pick(80) === 0) {
        machine.fail(step);
        continue;
      }
      machine.run(step);
      if (isOpen && pick(100) === 0 && live.size > 0) {
        machine.remove([...live.keys()][pick(live.size)]);
      }
      const before = new Map(live);
      machine.answer(step, { choose, ends: (known) => !hasRoom(known) });
      for (const [id, { spec, tokens, asked }] of before) {
        if (live.has(id)) continue;
        // Whatever else was going on: these tokens, and each row's logits once and in order.
        const alone = [...spec.prompt];
        while (alone.length < tokens.length) alone.push(choose(alone));
        assertEquals(tokens, alone);
        const end = spec.answers ? tokens.length - 1 : spec.prompt.length - 1;
        const first = spec.promptLogits ? 0 : spec.prompt.length - 1;
        assertEquals(asked, Array.from({ length: end - first }, (_, i) => first + i));
      }
    }
    const { total, used, kept } = scheduler.pageCounts();
    assertEquals([total, used], [pages, 0]);
    assert(kept <= total);
    assertEquals([scheduler.running, scheduler.waiting], [0, 0]);
  });
}
