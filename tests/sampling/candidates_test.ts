import { assert, assertEquals } from "@std/assert";
import { Candidates } from "../../src/sampling/candidates.ts";
import { STEPS, stepScale, weightOf } from "../../src/sampling/weights.ts";
import { bellLogits, shareOf } from "./support.ts";

/** Loaded and scaled candidates. */
function scaled(logits: Float32Array, temperature = 1): Candidates {
  const candidates = new Candidates(logits.length);
  const best = candidates.load(logits.slice());
  candidates.scale({ best, scale: stepScale(temperature), farthest: STEPS - 1 });
  return candidates;
}

const ascending = (tokens: number[]) => tokens.toSorted((a, b) => a - b);

/** Tokens with a weight in the order of their likeliness, and their weights. */
function sorted(logits: Float32Array): { ranked: number[]; weights: bigint[] } {
  const most = Math.max(...logits);
  const scale = Math.fround(65536 / Math.LN2);
  const steps = [...logits].map((logit) =>
    Math.ceil(Math.fround(Math.fround(most - logit) * scale))
  );
  const ranked = steps.map((_, token) => token).filter((token) => steps[token] < STEPS).sort(
    (a, b) => steps[a] - steps[b] || a - b,
  );
  return { ranked, weights: ranked.map((token) => BigInt(weightOf(steps[token]))) };
}

Deno.test("top_k over 20,000 tokens keeps what a full sort keeps", () => {
  for (const spread of [4, 0.001]) {
    const logits = bellLogits(20_000, spread);
    const { ranked } = sorted(logits);
    for (const k of [1, 2, 40, 1000, 19_000, 20_000]) {
      const candidates = scaled(logits);
      candidates.keepMostLikely(k);
      assertEquals(candidates.kept(), ascending(ranked.slice(0, k)), `${k} of spread ${spread}`);
    }
  }
});

Deno.test("top_p over 20,000 tokens keeps what a full sort keeps", () => {
  for (const spread of [4, 0.001]) {
    const logits = bellLogits(20_000, spread);
    const { ranked, weights } = sorted(logits);
    const total = weights.reduce((sum, weight) => sum + weight, 0n);
    for (const share of [0.01, 0.5, 0.9, 0.99, 0.99999]) {
      const target = (total * BigInt(shareOf(share))) >> 32n;
      let sum = 0n;
      const length = 1 + weights.findIndex((weight) => (sum += weight) >= target);
      const candidates = scaled(logits);
      candidates.keepNucleus(shareOf(share));
      assertEquals(candidates.kept(), ascending(ranked.slice(0, length)), `${share} of ${spread}`);
    }
  }
});

Deno.test("equal logits at the border keep the lowest ids", () => {
  const logits = Float32Array.of(1, 2, 1, 2, 1, 1, 0);
  const topK = scaled(logits);
  topK.keepMostLikely(4);
  assertEquals(topK.kept(), [0, 1, 2, 3]);
  const even = scaled(new Float32Array(1000));
  even.keepNucleus(shareOf(0.2505));
  assertEquals(even.kept(), Array.from({ length: 251 }, (_, i) => i));
  const topP = scaled(logits);
  const [top, middle, low] = [1, Math.exp(-1), Math.exp(-2)];
  topP.keepNucleus(shareOf((top * 2 + middle * 1.5) / (top * 2 + middle * 4 + low)));
  assertEquals(topP.kept(), [0, 1, 2, 3]);
});

Deno.test("a share that is met exactly needs no further token", () => {
  const even = scaled(new Float32Array(8));
  even.keepNucleus(shareOf(0.5));
  assertEquals(even.kept(), [0, 1, 2, 3]);
});

Deno.test("filters on a kept list look at the kept tokens only", () => {
  const candidates = scaled(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7));
  candidates.keepMostLikely(5);
  candidates.keepMostLikely(3);
  assertEquals(candidates.kept(), [5, 6, 7]);
  // 0.66 and 0.24 of what is kept: two tokens in three quarters of it, one in the half.
  candidates.keepNucleus(shareOf(0.75));
  assertEquals(candidates.kept(), [6, 7]);
  candidates.keepNucleus(shareOf(0.5));
  assertEquals(candidates.kept(), [7]);
});

Deno.test("only what equals the best logit is as near as the best", () => {
  const candidates = scaled(Float32Array.of(1, 1 + 2 ** -22, 1 + 2 ** -23, 1 + 2 ** -22), 100);
  candidates.keepMostLikely(2);
  assertEquals(candidates.kept(), [1, 3]);
});

Deno.test("what is next to nothing counts as zero, and what is huge as equal", () => {
  const candidates = new Candidates(3);
  for (const logits of [[-1e-45, 0, 1e-45], [3e38, 1e38, 2e38], [-1e-30, -1e-20, 1e-25]]) {
    const best = candidates.load(Float32Array.from(logits));
    candidates.scale({ best, scale: stepScale(8), farthest: 0 });
    assertEquals(candidates.kept(), [0, 1, 2]);
    assertEquals(candidates.best(), 0);
  }
});

Deno.test("the distance of huge logits from small ones is finite", () => {
  const candidates = scaled(Float32Array.of(-3e38, 3e38, -1), 1e-300);
  assertEquals(candidates.kept(), [1]);
});

Deno.test("draws meet the kept tokens' weights at their borders", () => {
  const candidates = scaled(Float32Array.of(-1000, -Math.LN2, 0));
  const [light, heavy] = [weightOf(65_536), weightOf(0)];
  assertEquals([light * 2, heavy], [heavy, 2 ** 31]);
  const draw = (uniform: bigint) =>
    candidates.draw({ high: Number(uniform >> 32n), low: Number(uniform & 0xffffffffn) });
  const border = 2n ** 64n / 3n;
  assertEquals(draw(0n), 1);
  assertEquals(draw(border), 1);
  assertEquals(draw(border + 2n ** 32n), 2);
  assertEquals(draw(2n ** 64n - 1n), 2);
});

Deno.test("a draw never gives a token whose weight is zero", () => {
  const candidates = scaled(Float32Array.of(-500, 3, -400, 3, -300));
  for (let i = 0; i < 1000; i++) {
    const token = candidates.draw({ high: Math.floor(i / 1000 * 2 ** 32), low: i });
    assert(token === 1 || token === 3);
  }
});
