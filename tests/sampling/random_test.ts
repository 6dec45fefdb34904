import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { drawSeed, Xoshiro128 } from "../../src/sampling/random.ts";
import { bellLogits, chiSquareDeviation, sampler } from "./support.ts";

function numbers(seed: number, count: number): number[] {
  const source = new Xoshiro128(seed);
  return Array.from({ length: count }, () => source.next());
}

Deno.test("a seed gives the same numbers again, and another seed others", () => {
  assertEquals(numbers(7, 50), numbers(7, 50));
  const seeds = [0, 1, 2, -1, -2, 2 ** 32, 2 ** 32 + 1, 2 ** 52, -(2 ** 40), 2 ** 53 - 1];
  const firsts = new Set(seeds.map((seed) => numbers(seed, 1)[0]));
  assertEquals(firsts.size, seeds.length);
});

Deno.test("the generator's numbers for seed 42 are fixed for good", () => {
  const source = new Xoshiro128(42);
  assertEquals([0, 1, 2, 3].map(() => source.nextUint32()), [
    291291409,
    101454158,
    38966992,
    3890920330,
  ]);
});

Deno.test("numbers lie in [0, 1), evenly, and neighbours are unrelated", () => {
  const values = numbers(99, 64_000);
  assert(values.every((value) => value >= 0 && value < 1));
  const pairs = new Array(256).fill(0);
  for (let i = 0; i < values.length; i += 2) {
    pairs[Math.floor(values[i] * 16) * 16 + Math.floor(values[i + 1] * 16)]++;
  }
  assert(chiSquareDeviation(pairs, new Array(256).fill(1 / 256)) < 4);
});

Deno.test("a seeded sequence repeats its tokens, an unseeded one does not", () => {
  const draw = (seed?: number) => {
    const source = sampler({ temperature: 1, topP: 0.95, seed }, { vocabSize: 500 });
    return Array.from({ length: 40 }, () => source.sample(bellLogits(500, 2)));
  };
  assertEquals(draw(3), draw(3));
  assertNotEquals(draw(3), draw(4));
  assertNotEquals(draw(), draw());
  assert(Number.isSafeInteger(drawSeed()));
});
