import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { chainKey, rootKey } from "../../src/cache/chain.ts";
import { Roots } from "../../src/engine/roots.ts";
import { toyRequest } from "./toy.ts";

const ROOT = { model: "m", numerics: "n", kvType: "f16" };

function roots(reusePrefixes: boolean): Roots {
  return new Roots({ rootOf: (tenant) => rootKey({ ...ROOT, tenant }), reusePrefixes });
}

Deno.test("requests of one tenant have one root, those of two tenants have two", () => {
  const all = roots(true);
  const [a, b, c] = ["x", "x", "y"].map((tenant, id) => all.of(toyRequest([1], { tenant }), id));
  assertEquals(a.key, b.key);
  assertNotEquals(a.key, c.key);
  assert(a.lasting);
});

Deno.test("a request without a tenant is of the common one, and of null alone", () => {
  const all = roots(true);
  assertEquals(all.of(toyRequest([1]), 1).key, all.of(toyRequest([2], { tenant: "" }), 2).key);
  const alone = [3, 4].map((id) => all.of(toyRequest([1], { tenant: null }), id));
  assertNotEquals(alone[0].key, alone[1].key);
  assert(!alone[0].lasting);
});

Deno.test("without reuse only equal prompts that run together share a root", () => {
  const all = roots(false);
  const first = all.of(toyRequest([1, 2]), 1);
  const second = all.of(toyRequest([1, 2]), 2);
  assertEquals(first.key, second.key);
  assertNotEquals(first.key, all.of(toyRequest([1, 3]), 3).key);
  assertNotEquals(first.key, all.of(toyRequest([1, 2], { tenant: "other" }), 4).key);
  first.release();
  assertEquals(all.of(toyRequest([1, 2]), 5).key, first.key);
  second.release();
  const stillRunning = all.of(toyRequest([1, 2]), 6);
  assertEquals(stillRunning.key, first.key);
});

Deno.test("without reuse a prompt that has ended is not shared by a later one", () => {
  const all = roots(false);
  const first = all.of(toyRequest([1, 2]), 1);
  first.release();
  assertNotEquals(all.of(toyRequest([1, 2]), 2).key, first.key);
});

Deno.test("whatever decides the bits of the cache changes the root", () => {
  const base = { ...ROOT, tenant: "t" };
  const changed = [
    { ...base, model: "m2" },
    { ...base, numerics: "n2" },
    { ...base, kvType: "q8" },
    { ...base, tenant: "t2" },
    // Fields that only run together in text are not the same.
    { ...base, model: "mn", numerics: "" },
  ];
  const keys = [base, ...changed].map(rootKey);
  assertEquals(new Set(keys).size, keys.length);
});

Deno.test("a unit's key depends on its tokens, on their order and number, and on what came before", () => {
  const root = rootKey({ ...ROOT, tenant: "" });
  const keys = [[1, 2], [2, 1], [1], [1, 2, 0], [258]].map((tokens) => chainKey(root, tokens));
  keys.push(chainKey(keys[0], [1, 2]));
  assertEquals(new Set(keys).size, keys.length);
  assertEquals(chainKey(root, [1, 2]), chainKey(root, Int32Array.of(1, 2)));
});
