/** A reader that begins at the very moment in which its slot is about to be given to another expert. */

import { assert, assertEquals } from "@std/assert";
import { LoadTable, STATE } from "../../../src/backend/wasm/paging/load_table.ts";
import { assertSameBits } from "../_harness.ts";
import { MIXTURE, type Paged, TOKENS, withPaged } from "./_paged.ts";

/**
 * Stands for a reading thread, in this thread: right after the store has seen that a slot is wanted,
 * it claims the slot, and it reads for as long as nobody waits for it. What it reads ends as a failed
 * read, which the store does again.
 */
class SuddenReader {
  /** Slots that it is reading into. */
  readonly #reading = new Set<number>();
  /** Slots given to another expert meanwhile. */
  readonly torn: number[] = [];
  /** How often the store came too late to take a slot from it. */
  late = 0;

  /** Stands between the store and its table while `body` runs. */
  async beside(body: () => Promise<void>): Promise<void> {
    const { state, claim, settled, publish } = LoadTable.prototype;
    // deno-lint-ignore no-this-alias -- the functions below are the table's methods
    const reader = this;
    Object.assign(LoadTable.prototype, {
      state(this: LoadTable, slot: number): number {
        const seen = state.call(this, slot);
        if (seen === STATE.wanted && claim.call(this, slot)) reader.#reading.add(slot);
        return seen;
      },
      claim(this: LoadTable, slot: number, as?: number): boolean {
        const claimed = claim.call(this, slot, as);
        if (!claimed && as === STATE.idle && reader.#reading.has(slot)) reader.late++;
        return claimed;
      },
      settled(this: LoadTable, slot: number): number {
        if (reader.#reading.delete(slot)) this.fail(slot, "the sudden reader reads nothing");
        return settled.call(this, slot);
      },
      publish(this: LoadTable, ...given: Parameters<LoadTable["publish"]>): void {
        if (reader.#reading.delete(given[0])) reader.torn.push(given[0]);
        publish.apply(this, given);
      },
    });
    try {
      await body();
    } finally {
      Object.assign(LoadTable.prototype, { state, claim, settled, publish });
    }
  }
}

/** Logits token by token: only short steps look ahead. */
async function stepByStep({ evaluator }: Paged): Promise<Float32Array> {
  const [logits] = await evaluator.allLogits([TOKENS], { chunk: 1 });
  return logits;
}

Deno.test("a slot whose reader begins while it is being taken is waited for, not torn away", async () => {
  let right = new Float32Array();
  await withPaged(MIXTURE, { slots: 48, readers: 0 }, async (paged) => {
    right = (await stepByStep(paged)).slice();
  });
  for (const slots of [8, 11, 16]) {
    await withPaged(MIXTURE, { slots, readers: 0, lookAhead: true }, async (paged) => {
      const reader = new SuddenReader();
      await reader.beside(async () => {
        assertSameBits(await stepByStep(paged), right, `${slots} slots`);
      });
      assertEquals(reader.torn, [], `${slots} slots`);
      assert(reader.late > 0, `with ${slots} slots the reader never came in between`);
    });
  }
});
