import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  chooseResidents,
  mostWholeLayers,
  type ResidentLayer,
} from "../../src/experts/residents.ts";
import { choiceProbabilities, chosenByAny, countTrace } from "../../src/experts/routing_counts.ts";
import { Xoshiro128 } from "../../src/sampling/random.ts";
import { randomTrace } from "./_traces.ts";

/** Layers of random sizes and habits. */
function randomLayers(random: Xoshiro128): ResidentLayer[] {
  const below = (bound: number) => Math.floor(random.next() * bound);
  return Array.from({ length: 1 + below(6) }, (_, i) => {
    const experts = 2 + below(12);
    const counts = Array.from({ length: experts }, () => below(100));
    return {
      layer: 2 * i + 1,
      expertBytes: 1 + below(50),
      probabilities: choiceProbabilities({ experts, topK: 1 + below(experts), counts }),
    };
  });
}

function chosenShare(layers: readonly ResidentLayer[], residents: readonly (readonly number[])[]) {
  return layers.reduce(
    (sum, { probabilities }, i) =>
      sum + residents[i].reduce((part, id) => part + probabilities[id], 0),
    0,
  );
}

Deno.test("residents keep to the budget, are distinct experts, and leave no room for another one", () => {
  for (let seed = 0; seed < 300; seed++) {
    const random = new Xoshiro128(seed);
    const layers = randomLayers(random);
    const budgetBytes = Math.floor(random.next() * 1500);
    for (let whole = 0; whole <= mostWholeLayers({ layers, budgetBytes }); whole++) {
      const { layers: placed } = chooseResidents({ layers, budgetBytes, wholeLayers: whole });
      assertEquals(placed.map(({ layer }) => layer), layers.map(({ layer }) => layer));
      let bytes = 0;
      let full = 0;
      for (const [i, { resident }] of placed.entries()) {
        const experts = layers[i].probabilities.length;
        assertEquals(new Set(resident).size, resident.length);
        assert(resident.every((id) => id >= 0 && id < experts));
        bytes += resident.length * layers[i].expertBytes;
        if (resident.length === experts) full++;
      }
      assert(bytes <= budgetBytes && full >= whole, `seed ${seed}`);
      for (const [i, { resident }] of placed.entries()) {
        if (resident.length === layers[i].probabilities.length) continue;
        assert(bytes + layers[i].expertBytes > budgetBytes, `seed ${seed}: layer ${i} has room`);
      }
    }
    const most = mostWholeLayers({ layers, budgetBytes });
    assertThrows(
      () => chooseResidents({ layers, budgetBytes, wholeLayers: most + 1 }),
      RangeError,
      "must fit into",
    );
  }
});

Deno.test("of experts of one size no others would be chosen more often", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Xoshiro128(seed);
    const layers = randomLayers(random).map((layer) => ({ ...layer, expertBytes: 10 }));
    const slots = Math.floor(random.next() * 30);
    const { layers: placed } = chooseResidents({ layers, budgetBytes: slots * 10, wholeLayers: 0 });
    const share = chosenShare(layers, placed.map(({ resident }) => resident));
    const best = layers.flatMap(({ probabilities }) => Array.from(probabilities))
      .sort((a, b) => b - a).slice(0, slots).reduce((sum, p) => sum + p, 0);
    assert(Math.abs(share - best) < 1e-9, `seed ${seed}: ${share} instead of ${best}`);
  }
});

Deno.test("without counts each layer gets as many residents as the next one, give or take one", () => {
  const layers = [3, 4, 7].map((layer) => ({
    layer,
    expertBytes: 5,
    probabilities: choiceProbabilities({ experts: 8, topK: 2 }),
  }));
  const { layers: placed } = chooseResidents({ layers, budgetBytes: 5 * 10 + 4, wholeLayers: 0 });
  assertEquals(placed, [
    { layer: 3, resident: [0, 1, 2, 3] },
    { layer: 4, resident: [0, 1, 2] },
    { layer: 7, resident: [0, 1, 2] },
  ]);
});

Deno.test("the layers that are whole are those whose experts are chosen most evenly", () => {
  const layers = [[90, 1, 1, 1], [25, 25, 25, 25], [60, 20, 10, 1]].map((counts, layer) => ({
    layer,
    expertBytes: 1,
    probabilities: choiceProbabilities({ experts: 4, topK: 1, counts }),
  }));
  const { layers: placed } = chooseResidents({ layers, budgetBytes: 6, wholeLayers: 1 });
  assertEquals(placed, [
    { layer: 0, resident: [0] },
    { layer: 1, resident: [0, 1, 2, 3] },
    { layer: 2, resident: [0] },
  ]);
});

Deno.test("a trace's choices are counted by layer and expert, each row's once", () => {
  const trace = randomTrace({
    ...{ seed: 3, layers: 3, experts: 9, topK: 2, documents: 4, decodeSteps: 5, prefillRows: 6 },
  });
  const counts = countTrace(trace);
  assertEquals(counts.map(({ layer }) => layer), [...trace.layers]);
  for (const [i, { counts: own }] of counts.entries()) {
    const ids = trace.documents.flatMap(({ steps }) => steps.flatMap((step) => step.experts[i]));
    assertEquals(Array.from(own).reduce((sum, count) => sum + count, 0), 4 * (6 + 5) * 2);
    for (let id = 0; id < 9; id++) {
      assertEquals(own[id], ids.filter((chosen) => chosen === id).length);
    }
  }
});

Deno.test("probabilities of choices add up to a token's experts and follow the counts", () => {
  const p = choiceProbabilities({ experts: 4, topK: 2, counts: [9, 0, 4, 4] });
  assertEquals(Array.from(p), [10, 1, 5, 5].map((weight) => 2 * weight / 21));
  assertEquals(Array.from(choiceProbabilities({ experts: 4, topK: 1 })), [0.25, 0.25, 0.25, 0.25]);
  assertEquals(choiceProbabilities({ experts: 2, topK: 2, counts: [100, 0] })[0], 1);
  assertEquals([1, 2, 3].map((rows) => chosenByAny(0.5, rows)), [0.5, 0.75, 0.875]);
});
