/** The choice of weight streams by trial. */

import { assertEquals } from "@std/assert";
import { StreamChoice } from "../../src/backend/wasm/stream_choice.ts";

/** Runs steps on a machine where a step takes `cost(streams, step)`; returns the streams of each. */
function simulate(steps: number, cost: (streams: number, step: number) => number): number[] {
  let streams = 0;
  const choice = new StreamChoice((count) => streams = count);
  return Array.from({ length: steps }, (_, step) => {
    const used = streams;
    choice.measured(cost(used, step));
    return used;
  });
}

Deno.test("the number of streams that was fastest stays", () => {
  for (const fast of [1, 4]) {
    const used = simulate(500, (streams) => streams === fast ? 5 : 9);
    assertEquals(new Set(used.slice(0, 8)), new Set([1, 4]));
    assertEquals(new Set(used.slice(8)), new Set([fast]));
  }
});

Deno.test("a first step that is slow for other reasons decides nothing", () => {
  const used = simulate(100, (streams, step) => step === 0 ? 500 : streams === 1 ? 5 : 9);
  assertEquals(new Set(used.slice(8)), new Set([1]));
});

Deno.test("a wrong choice on a busy machine is put right later", () => {
  const used = simulate(
    3000,
    (streams, step) => step < 10 && streams === 1 ? 50 : 10 / streams + 5,
  );
  assertEquals(used[500], 4);
  const other = simulate(3000, (streams, step) => (step < 10 && streams === 1 ? 50 : 0) + streams);
  assertEquals(other[500], 4);
  assertEquals(other[1500], 1);
});
