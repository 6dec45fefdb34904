import { assert, assertEquals, assertThrows } from "@std/assert";
import { OptionError } from "../../src/errors.ts";
import { createPolicy, POLICY_NAMES, type PolicyName } from "../../src/experts/policy.ts";
import { Xoshiro128 } from "../../src/sampling/random.ts";

const anyone = () => false;

for (const name of POLICY_NAMES) {
  Deno.test(`${name} gives up residents only, never pinned ones, and always one that there is`, () => {
    const [layers, experts] = [7, 9];
    for (let seed = 0; seed < 20; seed++) {
      const random = new Xoshiro128(seed);
      const below = (bound: number) => Math.floor(random.next() * bound);
      const policy = createPolicy(name, { layers, experts });
      const residents = new Set<number>();
      for (let action = 0; action < 2000; action++) {
        if (below(10) === 0) policy.beginStep({ prefill: below(3) === 0 });
        if (below(4) === 0) policy.enterLayer(below(layers));
        const key = below(layers * experts);
        if (residents.has(key)) policy.use(key);
        else {
          policy.admit(key);
          residents.add(key);
        }
        const pinned = new Set([...residents].filter(() => below(3) === 0));
        const victim = policy.victim((key) => pinned.has(key));
        if (victim === undefined) assertEquals(pinned.size, residents.size);
        else assert(residents.has(victim) && !pinned.has(victim), `step ${action}: ${victim}`);
        if (victim !== undefined && below(2) === 0) {
          policy.remove(victim);
          residents.delete(victim);
        }
      }
    }
  });

  Deno.test(`${name} without residents, or with all pinned, has no victim`, () => {
    const policy = createPolicy(name, { layers: 2, experts: 2 });
    assertEquals(policy.victim(anyone), undefined);
    policy.beginStep({ prefill: false });
    policy.admit(3);
    assertEquals(policy.victim(() => true), undefined);
    assertEquals(policy.victim(anyone), 3);
    policy.remove(3);
    assertEquals(policy.victim(anyone), undefined);
  });

  Deno.test(`${name} gives up what a prompt brought in before what decode uses`, () => {
    const policy = createPolicy(name, { layers: 2, experts: 8 });
    decode(policy, [[0, 1], [8, 9]]);
    policy.beginStep({ prefill: true });
    for (const [layer, keys] of [[2, 3, 4, 5], [10, 11, 12]].entries()) {
      policy.enterLayer(layer);
      for (const key of keys) {
        policy.admit(key);
        policy.use(key);
      }
    }
    policy.beginStep({ prefill: false });
    policy.enterLayer(0);
    policy.use(2);
    const order = drain(policy, 11);
    // 2 has become decode's own.
    assertEquals(new Set(order.slice(0, 6)), new Set([3, 4, 5, 10, 11, 12]));
    assertEquals(new Set(order.slice(6)), new Set([0, 1, 2, 8, 9]));
  });

  Deno.test(`${name} does not forget decode's habits over a prompt that uses other residents`, () => {
    const order = (withPrompt: boolean) => {
      const policy = createPolicy(name, { layers: 2, experts: 4 });
      decode(policy, [[0, 1], [4, 5]]);
      decode(policy, [[1], [5]]);
      if (withPrompt) {
        policy.beginStep({ prefill: true });
        policy.enterLayer(0);
        policy.use(0);
        policy.enterLayer(1);
        policy.use(4);
      }
      return drain(policy, 4);
    };
    assertEquals(order(true), order(false));
  });
}

type Policy = ReturnType<typeof createPolicy>;

/** A decode step that uses the keys of each layer, admitting those that are new to the policy. */
function decode(policy: Policy, layers: readonly (readonly number[])[]): void {
  policy.beginStep({ prefill: false });
  for (const [layer, keys] of layers.entries()) {
    policy.enterLayer(layer);
    for (const key of keys) {
      policy.admit(key);
      policy.use(key);
    }
  }
}

/** The order in which the policy gives up its residents. */
function drain(policy: Policy, count: number): number[] {
  const order: number[] = [];
  for (let i = 0; i < count; i++) {
    const victim = policy.victim(anyone);
    assert(victim !== undefined);
    policy.remove(victim);
    order.push(victim);
  }
  assertEquals(policy.victim(anyone), undefined);
  return order;
}

Deno.test("lru gives up the longest unused", () => {
  const policy = createPolicy("lru", { layers: 1, experts: 4 });
  decode(policy, [[0, 1, 2]]);
  decode(policy, [[0]]);
  assertEquals(drain(policy, 3), [1, 2, 0]);
});

Deno.test("lfu gives up the least used, though it was used last", () => {
  const policy = createPolicy("lfu", { layers: 1, experts: 4 });
  for (let i = 0; i < 3; i++) decode(policy, [[0, 1]]);
  decode(policy, [[1, 2]]);
  assertEquals(drain(policy, 3), [2, 0, 1]);
});

Deno.test("lfu forgets: a few recent uses outweigh many of long ago", () => {
  const policy = createPolicy("lfu", { layers: 1, experts: 4 });
  for (let i = 0; i < 100; i++) decode(policy, [[0]]);
  for (let i = 0; i < 1500; i++) decode(policy, [[1]]);
  policy.remove(1);
  for (let i = 0; i < 3; i++) decode(policy, [[2]]);
  assertEquals(policy.victim(anyone), 0);
});

Deno.test("lfu remembers how often an expert was used while it is away", () => {
  const policy = createPolicy("lfu", { layers: 1, experts: 4 });
  for (let i = 0; i < 5; i++) decode(policy, [[0]]);
  policy.remove(0);
  for (let i = 0; i < 3; i++) decode(policy, [[1]]);
  policy.admit(0);
  assertEquals(drain(policy, 2), [1, 0]);
});

Deno.test("least-stale gives up what its layer passed over, and of equals the layer just passed", () => {
  const policy = createPolicy("least-stale", { layers: 3, experts: 4 });
  decode(policy, [[0, 1], [4, 5], [8, 9]]);
  policy.beginStep({ prefill: false });
  policy.enterLayer(0);
  policy.use(0);
  policy.enterLayer(1);
  policy.use(4);
  // 1 and 5 were passed over; layer 1 has just run, layer 0 comes sooner, layer 2 sooner still.
  assertEquals(drain(policy, 6), [5, 1, 4, 0, 8, 9]);
});

Deno.test("a policy's victim among 16,000 residents is found within a millisecond", () => {
  for (const name of POLICY_NAMES) {
    const policy = createPolicy(name, { layers: 60, experts: 270 });
    policy.beginStep({ prefill: false });
    for (let key = 0; key < 60 * 270; key++) policy.admit(key);
    for (let i = 0; i < 50; i++) policy.victim(anyone);
    const begin = performance.now();
    for (let i = 0; i < 50; i++) policy.victim(anyone);
    // Some 60 microseconds on a quiet machine.
    assert((performance.now() - begin) / 50 < 1, name);
  }
});

Deno.test("a policy of another name is refused", () => {
  const options = { layers: 1, experts: 1 };
  assertThrows(() => createPolicy("fifo" as PolicyName, options), OptionError, '"fifo"');
});
