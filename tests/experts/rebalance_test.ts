import { assert, assertEquals } from "@std/assert";
import type { HybridPlacement } from "../../src/backend/hybrid/placement.ts";
import { type ExpertMove, moved, rebalance, RecentChoices } from "../../src/experts/rebalance.ts";
import { choiceProbabilities, type LayerCounts } from "../../src/experts/routing_counts.ts";
import { Xoshiro128 } from "../../src/sampling/random.ts";

interface Case {
  readonly placement: HybridPlacement;
  readonly counts: readonly LayerCounts[];
  readonly topK: number;
  readonly experts: number;
}

function randomCase(seed: number): Case {
  const random = new Xoshiro128(seed);
  const below = (bound: number) => Math.floor(random.next() * bound);
  const experts = 2 + below(14);
  const numbers = Array.from({ length: 1 + below(5) }, (_, i) => i + below(2) * 10)
    .sort((a, b) => a - b);
  const layers = [...new Set(numbers)];
  const shuffled = () =>
    Array.from({ length: experts }, (_, id) => ({ id, key: random.next() }))
      .sort((a, b) => a.key - b.key).map(({ id }) => id);
  return {
    experts,
    topK: 1 + below(experts),
    placement: {
      layers: layers.map((layer) => ({
        layer,
        resident: shuffled().slice(0, below(experts + 1)),
      })),
    },
    counts: layers.map((layer) => ({
      layer,
      counts: Float64Array.from({ length: experts }, () => below(2) * below(400)),
    })),
  };
}

/** The choices a token is expected to make of resident experts. */
function served({ counts, topK, experts }: Case, { layers }: HybridPlacement): number {
  let sum = 0;
  for (const { layer, resident } of layers) {
    const own = counts.find((counted) => counted.layer === layer)!.counts;
    const probabilities = choiceProbabilities({ experts, topK, counts: own });
    for (const id of resident) sum += probabilities[id];
  }
  return sum;
}

Deno.test("moves are few, take residents out of their own places and bring others in, each once", () => {
  let all = 0;
  for (let seed = 0; seed < 500; seed++) {
    const one = randomCase(seed);
    const most = seed % 5;
    const moves = rebalance(one.placement, { ...one, most });
    assert(moves.length <= most);
    const touched = new Set<string>();
    for (const { layer, slot, out, in: coming } of moves) {
      const { resident } = one.placement.layers.find((other) => other.layer === layer)!;
      assertEquals(resident[slot], out);
      assert(!resident.includes(coming) && coming >= 0 && coming < one.experts);
      for (const id of [out, coming]) {
        assert(!touched.has(`${layer} ${id}`), `seed ${seed}: ${id} moves twice`);
        touched.add(`${layer} ${id}`);
      }
    }
    all += moves.length;
  }
  assert(all > 300, `only ${all} moves were tried`);
});

Deno.test("every move serves more choices than the hysteresis asks for, the best one first", () => {
  for (let seed = 0; seed < 300; seed++) {
    const one = randomCase(seed);
    const { experts, topK } = one;
    const least = 0.5 * topK / experts;
    let { placement } = one;
    let last = Infinity;
    for (const move of rebalance(placement, { ...one, most: Infinity })) {
      const next = moved(placement, [move]);
      const gain = served(one, next) - served(one, placement);
      assert(gain > least - 1e-9 && gain <= last + 1e-9, `seed ${seed}: ${gain}, least ${least}`);
      last = gain;
      placement = next;
    }
  }
});

Deno.test("with equal counts moves come to an end, at which no exchange would gain enough", () => {
  for (let seed = 0; seed < 300; seed++) {
    const one = randomCase(seed);
    const { experts, topK, counts } = one;
    let { placement } = one;
    let rounds = 0;
    let moves: readonly ExpertMove[];
    do {
      moves = rebalance(placement, { ...one, most: 2 });
      placement = moved(placement, moves);
      assert(++rounds <= 1 + experts * placement.layers.length, `seed ${seed} goes on`);
    } while (moves.length > 0);
    for (const { layer, resident } of placement.layers) {
      const own = counts.find((counted) => counted.layer === layer)!.counts;
      const p = choiceProbabilities({ experts, topK, counts: own });
      assertEquals(new Set(resident).size, resident.length);
      const coldest = Math.min(...resident.map((id) => p[id]));
      for (let id = 0; id < experts; id++) {
        if (!resident.includes(id)) assert(p[id] - coldest <= 0.5 * topK / experts + 1e-9);
      }
    }
  }
});

Deno.test("after a move its reverse waits until the counts have turned by twice the hysteresis", () => {
  const placement = { layers: [{ layer: 4, resident: [0] }] };
  const at = (first: number, second: number) =>
    rebalance(placement, {
      counts: [{ layer: 4, counts: [first, second] }],
      topK: 1,
      most: 1,
      hysteresis: 0.4,
    });
  // An expert of two has a probability of a half: a gain of 0.2 is asked for.
  assertEquals(at(500, 700), []);
  assertEquals(at(399, 601), [{ layer: 4, slot: 0, out: 0, in: 1 }]);
  assertEquals(at(601, 399), []);
});

Deno.test("layers that nothing was counted of, or that have all or none there, are left alone", () => {
  const counts = [1, 2, 3].map((layer) => ({ layer, counts: [0, 0, 900] }));
  const layers = [
    { layer: 1, resident: [2, 1, 0] },
    { layer: 2, resident: [] },
    { layer: 9, resident: [0] },
  ];
  assertEquals(rebalance({ layers }, { counts, topK: 1, most: 9 }), []);
  const behind = [...layers, { layer: 3, resident: [1, 0] }];
  assertEquals(rebalance({ layers: behind }, { counts, topK: 1, most: 9 }), [
    { layer: 3, slot: 0, out: 1, in: 2 },
  ]);
});

Deno.test("a choice counts half once as many tokens as the half-life have followed", () => {
  const recent = new RecentChoices([{ layer: 5, experts: 3 }], { halfLife: 100 });
  recent.add([[0, 1]], 1);
  recent.add([Int32Array.of(1, 2)], 99);
  const [{ layer, counts }] = recent.counts();
  assertEquals(layer, 5);
  const close = (is: number, must: number) =>
    assert(Math.abs(is - must) < 1e-9, `${is} instead of ${must}`);
  close(counts[0], 0.5);
  close(counts[1], 0.5 + 2 ** -0.99);
  close(counts[2], 2 ** -0.99);
});

Deno.test("recent choices of a long time stay finite and are those of its end", () => {
  const recent = new RecentChoices([{ layer: 0, experts: 2 }], { halfLife: 50 });
  for (let token = 0; token < 60_000; token++) recent.add([[token < 59_000 ? 0 : 1]], 1);
  const [{ counts }] = recent.counts();
  assert(counts[0] < 1e-4, `${counts[0]}`);
  // A sum of powers: 1 / (1 - 2^(-1/50)), less what the newest has faded by.
  const expected = 2 ** (-1 / 50) / (1 - 2 ** (-1 / 50));
  assert(Math.abs(counts[1] - expected) < 1e-3, `${counts[1]} instead of ${expected}`);
});
