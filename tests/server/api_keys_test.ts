import { assert, assertEquals, assertThrows } from "@std/assert";
import { generateKey, hashKey, keyLine, KeyRing, parseKeys } from "../../src/server/api_keys.ts";
import { OptionError } from "../../src/errors.ts";

const HASH = "a".repeat(64);

Deno.test("a key file's lines become names, hashes and limits", () => {
  const keys = parseKeys(
    [
      "# who may call",
      "",
      `alice sha256:${HASH}`,
      `bob   sha256:${"B".repeat(64)}  rate=60/min concurrency=4 priority=-2 # the other one`,
      `c.d-e_f\tsha256:${"c".repeat(64)} priority=10 rate=5/s`,
    ].join("\r\n"),
    "keys",
  );
  assertEquals(keys.map(({ name }) => name), ["alice", "bob", "c.d-e_f"]);
  assertEquals(keys[0].hash, new Uint8Array(32).fill(0xaa));
  assertEquals([keys[0].rate, keys[0].concurrency, keys[0].priority], [undefined, undefined, 0]);
  assertEquals(keys[1].hash, new Uint8Array(32).fill(0xbb));
  assertEquals(keys[1].rate, { requests: 60, perMs: 60_000 });
  assertEquals([keys[1].concurrency, keys[1].priority], [4, -2]);
  assertEquals([keys[2].rate, keys[2].priority], [{ requests: 5, perMs: 1_000 }, 10]);
});

Deno.test("a wrong line is refused by its number, and no part of a key is shown", () => {
  const good = `alice sha256:${HASH}`;
  const cases: [string, string][] = [
    ["a/b sha256:" + HASH, "name"],
    ["a".repeat(65) + " sha256:" + HASH, "name"],
    ["bob", "hash"],
    ["bob sk-secret", "hash"],
    ["bob sha256:" + HASH.slice(1), "hash"],
    ["bob md5:" + HASH, "hash"],
    ["bob sha256:" + HASH + "0", "hash"],
    [`bob sha256:${"b".repeat(64)} rate=0/s`, "rate"],
    [`bob sha256:${"b".repeat(64)} rate=5`, "rate"],
    [`bob sha256:${"b".repeat(64)} rate=5/h`, "rate"],
    [`bob sha256:${"b".repeat(64)} rate=-5/s`, "rate"],
    [`bob sha256:${"b".repeat(64)} rate=5/s rate=6/s`, "rate=6/s"],
    [`bob sha256:${"b".repeat(64)} concurrency=0`, "concurrency"],
    [`bob sha256:${"b".repeat(64)} concurrency=2 concurrency=2`, "concurrency"],
    [`bob sha256:${"b".repeat(64)} priority=x`, "priority"],
    [`bob sha256:${"b".repeat(64)} priority=0 priority=1`, "priority"],
    [`bob sha256:${"b".repeat(64)} quota=1`, "quota"],
    [`bob sha256:${HASH}`, "line 2"],
    [`alice sha256:${"b".repeat(64)}`, "line 2"],
  ];
  for (const [line, named] of cases) {
    const error = assertThrows(() => parseKeys(`\n${good}\n${line}\n`, "keys.txt"), OptionError);
    assert(error.message.includes('line 3 of "keys.txt"'), error.message);
    assert(error.message.includes(named), `${line}: ${error.message}`);
    assert(!error.message.includes("sk-secret"), error.message);
  }
  for (const text of ["", "\n# none\n"]) {
    assertThrows(() => parseKeys(text, "keys.txt"), OptionError, "has none");
  }
});

Deno.test("a new key is let in by its line, and by nothing else", () => {
  const [one, two] = [generateKey(), generateKey()];
  assert(one !== two && /^sk-sluice-[0-9a-f]{64}$/.test(one));
  const ring = new KeyRing(parseKeys(`${keyLine("one", one)}\n${keyLine("two", two)}`, "keys"));
  assertEquals(ring.find(one)?.name, "one");
  assertEquals(ring.find(two)?.name, "two");
  for (const wrong of ["", one.slice(0, -1), `${one}0`, one.toUpperCase(), "\u{1F600}"]) {
    assertEquals(ring.find(wrong), undefined);
  }
  ring.replace(parseKeys(keyLine("new", two), "keys"));
  assertEquals([ring.find(one), ring.find(two)?.name], [undefined, "new"]);
  assertThrows(() => keyLine("a b", one), OptionError, "its name is");
});

Deno.test("a key's hash is its SHA-256", async () => {
  const own = new Uint8Array(
    await crypto.subtle.digest("SHA-256", new TextEncoder().encode("schlüssel")),
  );
  assertEquals(hashKey("schlüssel"), own);
});
