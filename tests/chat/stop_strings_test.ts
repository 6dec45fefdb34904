import { assert, assertEquals } from "@std/assert";
import { StopMatcher } from "../../src/chat/mod.ts";

/** What the matcher does, said directly: the stop string that ends first, of those the longest. */
function naive(text: string, stops: readonly string[]): { text: string; matched: string | null } {
  const wanted = stops.filter((stop) => stop !== "").sort((a, b) => b.length - a.length);
  for (let end = 1; end <= text.length; end++) {
    const matched = wanted.find((stop) => text.slice(0, end).endsWith(stop));
    if (matched !== undefined) return { text: text.slice(0, end - matched.length), matched };
  }
  return { text, matched: null };
}

/** The longest end of `text` that begins a stop string without being one. */
function naiveHeld(text: string, stops: readonly string[]): number {
  let held = 0;
  for (const stop of stops) {
    for (let n = 1; n < stop.length; n++) {
      if (text.endsWith(stop.slice(0, n))) held = Math.max(held, n);
    }
  }
  return held;
}

function stream(parts: readonly string[], stops: readonly string[]) {
  const matcher = new StopMatcher(stops);
  let text = "";
  for (const part of parts) {
    const result = matcher.push(part);
    text += result.text;
    if (result.matched !== null) return { text, matched: result.matched };
  }
  return { text: text + matcher.flush(), matched: null };
}

Deno.test("a stop string across token borders ends the text in front of it", () => {
  assertEquals(stream(["Hello, wo", "r", "ld! How"], ["world"]), {
    text: "Hello, ",
    matched: "world",
  });
  assertEquals(stream(["a\n", "\nUser", ": b"], ["\n\nUser:"]), {
    text: "a",
    matched: "\n\nUser:",
  });
  assertEquals(stream(["abab", "abc"], ["ababc"]), { text: "ab", matched: "ababc" });
});

Deno.test("the stop string that ends first wins, the longest of those that end together", () => {
  assertEquals(stream(["xabcd"], ["abcd", "bc"]), { text: "xa", matched: "bc" });
  assertEquals(stream(["xabc"], ["c", "abc", "bc"]), { text: "x", matched: "abc" });
  assertEquals(stream(["😀😁"], ["😁"]), { text: "😀", matched: "😁" });
});

Deno.test("without stop strings every text passes at once", () => {
  for (const stops of [[], [""]]) {
    const matcher = new StopMatcher(stops);
    assertEquals(matcher.push("text"), { text: "text", matched: null });
    assertEquals(matcher.flush(), "");
  }
});

Deno.test("behind a match nothing comes out any more", () => {
  const matcher = new StopMatcher(["stop"]);
  assertEquals(matcher.push("a stop b"), { text: "a ", matched: "stop" });
  assertEquals(matcher.push("more"), { text: "", matched: "stop" });
  assertEquals(matcher.flush(), "");
  assertEquals(matcher.matched, "stop");
});

Deno.test("random texts and stop strings end as the naive search says and hold no more back than needed", () => {
  let state = 7;
  const next = (below: number) => (state = (state * 48271) % 0x7fffffff) % below;
  const word = (most: number) => Array.from({ length: next(most) }, () => "ab\n"[next(3)]).join("");
  for (let round = 0; round < 20_000; round++) {
    const stops = Array.from({ length: 1 + next(5) }, () => word(7));
    const parts = Array.from({ length: 1 + next(12) }, () => word(5));
    const expected = naive(parts.join(""), stops);
    const matcher = new StopMatcher(stops);
    let seen = "";
    let text = "";
    for (const part of parts) {
      const result = matcher.push(part);
      text += result.text;
      seen += part;
      if (result.matched === null) assertEquals(seen.length - text.length, naiveHeld(seen, stops));
      else break;
    }
    assertEquals(matcher.matched, expected.matched);
    assertEquals(text + matcher.flush(), expected.text);
  }
});

Deno.test("time is linear in the text even for stop strings that nearly match everywhere", () => {
  const stops = Array.from({ length: 50 }, (_, i) => "a".repeat(1000 + i) + "b");
  const matcher = new StopMatcher(stops);
  const begin = performance.now();
  let length = 0;
  for (let i = 0; i < 200_000; i++) length += matcher.push("a").text.length;
  length += matcher.push("c").text.length;
  const milliseconds = performance.now() - begin;
  assertEquals(length, 200_001);
  assert(milliseconds < 2000, `${milliseconds} ms`);
});
