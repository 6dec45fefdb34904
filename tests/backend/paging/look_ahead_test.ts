/** The choice whether to fetch experts ahead, by time measured. */

import { assertEquals } from "@std/assert";
import { LookAheadChoice } from "../../../src/backend/wasm/paging/look_ahead.ts";

/** Runs steps that take as long as given with and without; returns what was done in each. */
function steps(
  choice: LookAheadChoice,
  options: { count: number; on: number; off: number },
): boolean[] {
  return Array.from({ length: options.count }, () => {
    const { on } = choice;
    choice.measured(on ? options.on : options.off);
    return on;
  });
}

const TRIAL = [false, true, false, true].flatMap((on) => new Array<boolean>(16).fill(on));

for (const [faster, times] of [[true, { on: 1, off: 2 }], [false, { on: 2, off: 1 }]] as const) {
  Deno.test(`after a trial in blocks of 16 steps, looking ahead is ${faster ? "kept" : "given up"} where it is ${faster ? "faster" : "slower"}`, () => {
    const choice = new LookAheadChoice();
    assertEquals(steps(choice, { count: 64, ...times }), TRIAL);
    assertEquals(new Set(steps(choice, { count: 1024 - 64, ...times })), new Set([faster]));
    // The next trial may come to another end.
    const others = { on: times.off, off: times.on };
    assertEquals(steps(choice, { count: 64, ...others }), TRIAL);
    assertEquals(new Set(steps(choice, { count: 1024 - 64, ...others })), new Set([!faster]));
  });
}

Deno.test("the first steps of a block, which live on the block before, do not count", () => {
  const choice = new LookAheadChoice();
  for (let step = 0; step < 64; step++) {
    const early = step % 16 < 4;
    // Faster in what counts, much slower in what does not.
    choice.measured(choice.on ? (early ? 1000 : 1) : 2);
  }
  assertEquals(choice.on, true);
});

for (const always of [true, false]) {
  Deno.test(`looking ahead ${always ? "always" : "never"} is not put to trial`, () => {
    const choice = new LookAheadChoice(always);
    const done = steps(choice, { count: 2100, on: 3, off: 1 });
    assertEquals(new Set(done), new Set([always]));
  });
}
