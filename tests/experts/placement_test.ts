import { assert, assertEquals, assertThrows } from "@std/assert";
import { CapacityError, OptionError } from "../../src/errors.ts";
import { type PlacementRequest, placeWeights } from "../../src/experts/placement.ts";
import { Xoshiro128 } from "../../src/sampling/random.ts";

/** `layers` layers of `count` experts each, all of one size. */
function evenly(layers: number, count: number, bytes: number): PlacementRequest["experts"] {
  return Array.from({ length: layers * count }, (_, i) => ({
    layer: Math.floor(i / count),
    expert: i % count,
    bytes,
  }));
}

Deno.test("every expert is placed once and no bank overflows, whatever the sizes", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Xoshiro128(seed);
    const below = (bound: number) => Math.floor(random.next() * bound);
    const [layers, count] = [1 + below(6), 1 + below(9)];
    const fixed = Array.from({ length: layers }, (_, layer) => ({ layer, bytes: below(80) }));
    const experts = evenly(layers, count, 0).map((item) => ({ ...item, bytes: 1 + below(50) }));
    const bankBytes = 100 + below(200);
    const total = [...fixed, ...experts].reduce((sum, { bytes }) => sum + bytes, 0);
    const fixedBytes = fixed.reduce((sum, { bytes }) => sum + bytes, 0);
    const memoryBytes = below(3) === 0 ? undefined : fixedBytes + 50 + below(total);
    const placement = placeWeights({
      bankBytes,
      fixed,
      experts: experts.toSorted(() => random.next() - 0.5),
      ...(memoryBytes !== undefined && { memoryBytes }),
    });
    const seen = new Map<string, number>();
    const resident = placement.banks.map(() => 0);
    for (const { layer, experts, bank, bytes } of placement.entries) {
      if (bank !== null) resident[bank] += bytes;
      for (let i = 0; i < (experts?.count ?? 0); i++) {
        const name = `${layer} ${(experts?.first ?? 0) + i}`;
        seen.set(name, (seen.get(name) ?? 0) + 1);
      }
    }
    assertEquals(seen.size, layers * count);
    assert([...seen.values()].every((times) => times === 1));
    assertEquals(placement.entries.reduce((sum, { bytes }) => sum + bytes, 0), total);
    assertEquals(placement.banks.map((bank) => bank.resident), resident);
    let spent = 0;
    for (const { resident, slots } of placement.banks) {
      assert(resident + slots * placement.slotBytes <= bankBytes);
      spent += resident + slots * placement.slotBytes;
    }
    assert(spent <= (memoryBytes ?? Infinity));
    const fits = total <= (memoryBytes ?? Infinity);
    assertEquals(placement.entries.every(({ bank }) => bank !== null), fits);
    if (!fits) {
      assertEquals(placement.slotBytes, Math.max(...experts.map(({ bytes }) => bytes)));
      assert(placement.banks.some(({ slots }) => slots > 0));
      const paged = placement.entries.filter(({ bank }) => bank === null);
      assert(paged.every(({ experts }) => experts !== null), "what every token needs stays");
    }
  }
});

Deno.test("a layer that does not fit into a bank is split between its experts", () => {
  const placement = placeWeights({
    bankBytes: 100,
    fixed: [{ layer: 0, bytes: 30 }, { layer: 1, bytes: 30 }],
    experts: evenly(2, 4, 20),
  });
  assertEquals(placement.entries, [
    { layer: 0, experts: null, bytes: 30, bank: 0 },
    { layer: 0, experts: { first: 0, count: 3 }, bytes: 60, bank: 0 },
    { layer: 0, experts: { first: 3, count: 1 }, bytes: 20, bank: 1 },
    { layer: 1, experts: null, bytes: 30, bank: 1 },
    { layer: 1, experts: { first: 0, count: 2 }, bytes: 40, bank: 1 },
    { layer: 1, experts: { first: 2, count: 2 }, bytes: 40, bank: 2 },
  ]);
  assertEquals(placement.banks.map(({ resident }) => resident), [90, 90, 40]);
});

Deno.test("where not all fits, experts share the slots that the rest of the memory gives", () => {
  const placement = placeWeights({
    bankBytes: 100,
    fixed: [{ layer: 0, bytes: 45 }, { layer: 1, bytes: 10 }],
    experts: evenly(2, 8, 20),
    memoryBytes: 190,
  });
  assertEquals(placement.slotBytes, 20);
  assertEquals(placement.banks, [{ resident: 55, slots: 2 }, { resident: 0, slots: 4 }]);
  assertEquals(placement.entries.map(({ layer, experts, bank }) => [layer, experts, bank]), [
    [0, null, 0],
    [0, { first: 0, count: 8 }, null],
    [1, null, 0],
    [1, { first: 0, count: 8 }, null],
  ]);
});

Deno.test("what cannot be placed is refused with both numbers", () => {
  const fixed = [{ layer: 0, bytes: 50 }];
  const experts = evenly(1, 4, 30);
  const refusals: [PlacementRequest, string][] = [
    [{ bankBytes: 40, fixed, experts }, "an item is 50 bytes, must be at most a bank's 40"],
    [
      { bankBytes: 100, fixed, experts, memoryBytes: 49 },
      "is 50 bytes, must be at most the memory's 49",
    ],
    [{ bankBytes: 100, fixed, experts, memoryBytes: 79 }, "the largest expert is 30 bytes"],
  ];
  for (const [request, says] of refusals) {
    assertThrows(() => placeWeights(request), CapacityError, says);
  }
  assertThrows(() => placeWeights({ bankBytes: 0, fixed, experts }), OptionError, "a bank is 0");
  const half = [{ layer: 3, bytes: 0.5 }];
  assertThrows(() => placeWeights({ bankBytes: 9, fixed: half, experts }), OptionError, "layer 3");
});
