import { assert, assertEquals } from "@std/assert";
import { Candidates } from "../../src/sampling/candidates.ts";
import { bellLogits, ranking, softmax } from "./support.ts";

/** Loaded and scaled candidates. */
function scaled(logits: Float32Array, temperature = 1): Candidates {
  const candidates = new Candidates(logits.length);
  candidates.load(logits.slice());
  candidates.scale(temperature);
  return candidates;
}

const ascending = (tokens: number[]) => tokens.toSorted((a, b) => a - b);

Deno.test("top_k over 20,000 tokens keeps what a full sort keeps", () => {
  const logits = bellLogits(20_000, 4);
  const ranked = ranking([...logits]);
  for (const k of [1, 2, 40, 1000, 19_999, 20_000]) {
    const candidates = scaled(logits);
    candidates.keepMostLikely(k);
    assertEquals(candidates.kept(), ascending(ranked.slice(0, k)));
  }
});

Deno.test("top_p over 20,000 tokens keeps what a full sort keeps", () => {
  const logits = bellLogits(20_000, 4);
  // Probabilities of the logits as float32 holds them after the shift by the best.
  const best = Math.max(...logits);
  const shifted = [...logits].map((logit) => Math.fround(logit - best));
  const ranked = ranking(shifted);
  const probabilities = softmax(shifted);
  for (const share of [0.01, 0.5, 0.9, 0.99, 0.99999]) {
    let sum = 0;
    const length = 1 + ranked.findIndex((token) => (sum += probabilities[token]) >= share);
    const candidates = scaled(logits);
    candidates.keepNucleus(share);
    assertEquals(candidates.kept(), ascending(ranked.slice(0, length)));
  }
});

Deno.test("equal logits at the border keep the lowest ids", () => {
  const logits = Float32Array.of(1, 2, 1, 2, 1, 1, 0);
  const topK = scaled(logits);
  topK.keepMostLikely(4);
  assertEquals(topK.kept(), [0, 1, 2, 3]);
  const even = scaled(new Float32Array(1000));
  even.keepNucleus(0.2505);
  assertEquals(even.kept(), Array.from({ length: 251 }, (_, i) => i));
  const topP = scaled(logits);
  const probabilities = softmax([...logits]);
  topP.keepNucleus(probabilities[1] * 2 + probabilities[0] * 1.5);
  assertEquals(topP.kept(), [0, 1, 2, 3]);
});

Deno.test("filters on a kept list look at the kept tokens only", () => {
  const candidates = scaled(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7));
  candidates.keepMostLikely(5);
  candidates.keepMostLikely(3);
  assertEquals(candidates.kept(), [5, 6, 7]);
  candidates.keepAtLeast(-1.5);
  assertEquals(candidates.kept(), [6, 7]);
  candidates.keepNucleus(0.1);
  assertEquals(candidates.kept(), [7]);
});

Deno.test("a shift that rounds to minus zero counts as the best logit", () => {
  const candidates = scaled(Float32Array.of(-1e-45, 0, 1e-45), 8);
  candidates.keepAtLeast(0);
  assertEquals(candidates.kept(), [0, 1, 2]);
});

Deno.test("draws meet the kept tokens' probabilities at their borders", () => {
  const candidates = scaled(Float32Array.of(-1000, Math.log(1), Math.log(3)));
  assertEquals(candidates.draw(0), 1);
  assertEquals(candidates.draw(0.2499), 1);
  assertEquals(candidates.draw(0.2501), 2);
  assertEquals(candidates.draw(1 - 2 ** -53), 2);
});

Deno.test("a draw never gives a token whose probability is zero", () => {
  const candidates = scaled(Float32Array.of(-500, 3, -400, 3, -300));
  for (let i = 0; i < 1000; i++) {
    const token = candidates.draw(i / 1000);
    assert(token === 1 || token === 3);
  }
});
