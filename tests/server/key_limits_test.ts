import { assert, assertEquals } from "@std/assert";
import type { ApiKey } from "../../src/server/api_keys.ts";
import { KeyLimits } from "../../src/server/key_limits.ts";

function clocked(limits: Partial<ApiKey>, name = "a") {
  const clock = { ms: 0 };
  const key: ApiKey = { name, hash: new Uint8Array(32), priority: 0, ...limits };
  return { clock, key, door: new KeyLimits(() => clock.ms) };
}

Deno.test("a key's rate lets a burst through, then one request after the other", () => {
  const { clock, key, door } = clocked({ rate: { requests: 6, perMs: 60_000 } });
  for (let i = 0; i < 6; i++) {
    const admission = door.enter(key);
    assert(admission.admitted);
    assertEquals(admission.quota, { limit: 6, remaining: 5 - i, resetMs: (i + 1) * 10_000 });
    admission.leave();
  }
  clock.ms = 4_000;
  const refused = door.enter(key);
  assert(!refused.admitted);
  assertEquals([refused.limit, Math.round(refused.retryMs)], ["rate", 6_000]);
  assertEquals(refused.quota?.remaining, 0);
  clock.ms = 4_000 + refused.retryMs;
  assert(door.enter(key).admitted);
  assert(!door.enter(key).admitted);
});

Deno.test("over any stretch of time a key gets its rate and one burst, and no more", () => {
  const { clock, key, door } = clocked({ rate: { requests: 10, perMs: 1_000 } });
  let admitted = 0;
  for (let i = 0; i < 20_000; i++) {
    clock.ms += 0.5 + (i * 7919 % 100) / 100;
    if (door.enter(key).admitted) admitted++;
  }
  const earned = clock.ms / 100;
  assert(admitted <= earned + 10 && admitted >= earned + 8, `${admitted} of ${earned}`);
});

Deno.test("a key has as many requests in progress as it may, and leaving makes room", () => {
  const { key, door } = clocked({ concurrency: 2, rate: { requests: 5, perMs: 1_000 } });
  const [one, two] = [door.enter(key), door.enter(key)];
  assert(one.admitted && two.admitted);
  const refused = door.enter(key);
  assert(!refused.admitted);
  // What is refused for one limit is not counted against the other.
  assertEquals([refused.limit, refused.quota?.remaining], ["concurrency", 3]);
  one.leave();
  assert(door.enter(key).admitted);
  assert(!door.enter(key).admitted);
});

Deno.test("keys don't touch one another's limits, and one that is read anew keeps its use", () => {
  const { key, door } = clocked({ rate: { requests: 1, perMs: 60_000 } });
  assert(door.enter(key).admitted);
  assert(!door.enter(key).admitted);
  assert(!door.enter({ ...key, rate: { requests: 2, perMs: 60_000 } }).admitted);
  assert(door.enter({ ...key, name: "b" }).admitted);
  assert(door.enter({ ...key, name: "c", rate: undefined }).admitted);
});
