import { assertEquals, assertRejects } from "@std/assert";
import { merge } from "../../routes/merge.ts";

/** Counts up to `count`, one turn of the event loop each; records when it begins and ends. */
function counter(name: string, { count, log }: { count: number; log: string[] }) {
  return async function* () {
    log.push(`${name} begins`);
    try {
      for (let i = 0; i < count; i++) {
        await new Promise((resolve) => setTimeout(resolve, 0));
        yield `${name}${i}`;
      }
    } finally {
      log.push(`${name} ends`);
    }
  };
}

Deno.test("merging keeps each source's order and tells its index", async () => {
  const log: string[] = [];
  const sources = [counter("a", { count: 3, log }), counter("b", { count: 2, log })];
  const got = await Array.fromAsync(merge(sources, 2));
  for (const [index, expected] of [["a0", "a1", "a2"], ["b0", "b1"]].entries()) {
    const own = got.filter((item) => item.index === index).map(({ event }) => event);
    assertEquals(own, expected);
  }
});

Deno.test("merging starts a source only when another has ended", async () => {
  const log: string[] = [];
  const sources = ["a", "b", "c"].map((name) => counter(name, { count: 1, log }));
  await Array.fromAsync(merge(sources, 1));
  assertEquals(log, ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
  assertEquals(await Array.fromAsync(merge([], 2)), []);
});

Deno.test("a consumer that stops taking holds the sources back", async () => {
  let made = 0;
  const source = async function* () {
    while (true) yield made++;
  };
  const merged = merge([source], 1);
  for (let i = 0; i < 3; i++) await merged.next();
  await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(made <= 5, true);
  await merged.return(undefined);
});

Deno.test("a source that fails, or a consumer that leaves, ends the other sources", async () => {
  const log: string[] = [];
  const failing = async function* () {
    yield "x";
    await new Promise((resolve) => setTimeout(resolve, 5));
    throw new Error("broken");
  };
  const sources = [counter("a", { count: 1e6, log }), failing];
  await assertRejects(() => Array.fromAsync(merge(sources, 2)), Error, "broken");
  await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(log, ["a begins", "a ends"]);
  for await (const _ of merge([counter("b", { count: 1e6, log })], 1)) break;
  await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(log.slice(2), ["b begins", "b ends"]);
});
