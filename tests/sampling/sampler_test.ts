import { assert, assertEquals, assertThrows } from "@std/assert";
import { FormatError, RequestError } from "../../src/errors.ts";
import type { SamplingParams } from "../../src/sampling/types.ts";
import { chiSquareDeviation, frequencies, ranking, restrict, sampler, softmax } from "./support.ts";

const LOGITS = [1.5, -0.5, 2.25, 0, 2.25, -3, 1, 0.75, -1.25, 1.75];
const COUNT = 40_000;

/** The statistic is normal: 4 deviations are met by chance once in 30,000 seeds, and seeds are fixed. */
function assertDistribution(params: Partial<SamplingParams>, probabilities: number[]): void {
  const deviation = chiSquareDeviation(
    frequencies(LOGITS, { params, count: COUNT }),
    probabilities,
  );
  assert(deviation < 4, `chi-square is ${deviation} standard deviations above its mean`);
}

Deno.test("temperature 0 takes the highest logit, the lowest id among equals", () => {
  const greedy = sampler({}, { vocabSize: LOGITS.length });
  assertEquals(greedy.sample(Float32Array.from(LOGITS)), 2);
  const ascending = Float32Array.from({ length: 1001 }, (_, i) => Math.min(i, 700));
  assertEquals(sampler({}, { vocabSize: 1001 }).sample(ascending), 700);
});

for (const temperature of [0.5, 1, 1.7]) {
  Deno.test(`temperature ${temperature} samples from softmax(logits / temperature)`, () => {
    assertDistribution({ temperature }, softmax(LOGITS.map((logit) => logit / temperature)));
  });
}

Deno.test("a wrong distribution is told apart by the statistic", () => {
  const observed = frequencies(LOGITS, { params: { temperature: 1 }, count: COUNT });
  assert(chiSquareDeviation(observed, softmax(LOGITS.map((logit) => logit / 1.05))) > 4);
});

for (const topK of [1, 2, 5, 10, 50]) {
  Deno.test(`top_k ${topK} keeps the ${topK} most likely tokens in proportion`, () => {
    const expected = restrict(softmax(LOGITS), ranking(LOGITS).slice(0, topK));
    if (topK === 1) {
      const seen = frequencies(LOGITS, { params: { temperature: 1, topK }, count: 100 });
      assertEquals(seen[2], 100);
    } else {
      assertDistribution({ temperature: 1, topK }, expected);
    }
  });
}

for (const topP of [0.3, 0.6, 0.9, 0.999]) {
  Deno.test(`top_p ${topP} keeps the smallest set that reaches it`, () => {
    const probabilities = softmax(LOGITS);
    const kept: number[] = [];
    let sum = 0;
    for (const token of ranking(LOGITS)) {
      kept.push(token);
      sum += probabilities[token];
      if (sum >= topP) break;
    }
    assertDistribution({ temperature: 1, topP }, restrict(probabilities, kept));
  });
}

Deno.test("top_p 0 leaves the most likely token", () => {
  const seen = frequencies(LOGITS, { params: { temperature: 1, topP: 0 }, count: 100 });
  assertEquals(seen[2], 100);
});

for (const minP of [0.1, 0.4, 0.7]) {
  Deno.test(`min_p ${minP} keeps tokens at least that share as likely as the best`, () => {
    const temperature = 1.3;
    const probabilities = softmax(LOGITS.map((logit) => logit / temperature));
    const best = Math.max(...probabilities);
    const kept = ranking(LOGITS).filter((token) => probabilities[token] >= minP * best);
    assertDistribution({ temperature, minP }, restrict(probabilities, kept));
  });
}

Deno.test("filters run as min_p, top_k, top_p, each on renormalised probabilities", () => {
  const temperature = 0.8;
  const probabilities = softmax(LOGITS.map((logit) => logit / temperature));
  const best = Math.max(...probabilities);
  const afterMinP = ranking(LOGITS).filter((token) => probabilities[token] >= 0.05 * best);
  const afterTopK = restrict(probabilities, afterMinP.slice(0, 5));
  const kept: number[] = [];
  let sum = 0;
  for (const token of ranking(LOGITS)) {
    kept.push(token);
    sum += afterTopK[token];
    if (sum >= 0.8) break;
  }
  // Without renormalising after top_k the nucleus would be one token longer.
  let rawSum = 0;
  const rawLength = 1 + ranking(LOGITS).findIndex((t) => (rawSum += probabilities[t]) >= 0.8);
  assertEquals(rawLength, kept.length + 1);
  assertDistribution({ temperature, minP: 0.05, topK: 5, topP: 0.8 }, restrict(afterTopK, kept));
});

Deno.test("logit_bias is added before the choice, and -Infinity excludes a token", () => {
  const favoured = sampler({ logitBias: [[3, 100]] }, { vocabSize: LOGITS.length });
  assertEquals(favoured.sample(Float32Array.from(LOGITS)), 3);
  const banned = { logitBias: [[2, -Infinity], [4, -Infinity]] as const };
  assertEquals(
    sampler(banned, { vocabSize: LOGITS.length }).sample(Float32Array.from(LOGITS)),
    9,
  );
  const seen = frequencies(LOGITS, { params: { temperature: 2, ...banned }, count: 5000 });
  assertEquals([seen[2], seen[4]], [0, 0]);
});

Deno.test("a bias that excludes every token is a RequestError", () => {
  const none = sampler({ logitBias: [[0, -Infinity], [1, -Infinity]] }, { vocabSize: 2 });
  assertThrows(() => none.sample(Float32Array.of(1, 2)), RequestError, "one must be finite");
});

Deno.test("the repetition penalty divides positive and multiplies negative logits of seen tokens", () => {
  const options = { vocabSize: 4, prompt: [0, 2] };
  const logits = [4, 2.1, -1, -1.9];
  const source = sampler({ repetitionPenalty: 2 }, options);
  const edited = Float32Array.from(logits);
  assertEquals(source.sample(edited), 1);
  assertEquals([...edited], [2, ...Float32Array.of(2.1), -2, ...Float32Array.of(-1.9)]);
  // Token 1 is part of the answer now.
  assertEquals(source.sample(Float32Array.from(logits)), 0);
});

Deno.test("presence and frequency penalties count the answer, not the prompt", () => {
  const params = { presencePenalty: 0.5, frequencyPenalty: 0.25 };
  const source = sampler(params, { vocabSize: 3, prompt: [0, 0, 0] });
  const steps = Array.from({ length: 5 }, () => {
    const logits = Float32Array.of(3, 2, 1);
    return { token: source.sample(logits), logits: [...logits] };
  });
  assertEquals(steps, [
    { token: 0, logits: [3, 2, 1] },
    { token: 0, logits: [3 - 0.5 - 0.25, 2, 1] },
    { token: 0, logits: [3 - 0.5 - 0.5, 2, 1] },
    { token: 1, logits: [3 - 0.5 - 0.75, 2, 1] },
    { token: 0, logits: [3 - 0.5 - 0.75, 2 - 0.5 - 0.25, 1] },
  ]);
});

Deno.test("the repetition penalty comes before presence and frequency penalties", () => {
  const params = { repetitionPenalty: 2, presencePenalty: 1, frequencyPenalty: 0.5 };
  const source = sampler(params, { vocabSize: 2 });
  source.sample(Float32Array.of(8, 0));
  const logits = Float32Array.of(8, 0);
  source.sample(logits);
  assertEquals(logits[0], 8 / 2 - 1 - 0.5);
});

Deno.test("a NaN or infinite logit is a FormatError that names the token", () => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    for (const params of [{}, { temperature: 1 }]) {
      const logits = Float32Array.from(LOGITS);
      logits[7] = bad;
      assertThrows(
        () => sampler(params, { vocabSize: LOGITS.length }).sample(logits),
        FormatError,
        `the logit of token 7 is ${bad}, must be finite`,
      );
    }
  }
});

Deno.test("a row of logits of the wrong length is a FormatError", () => {
  const error = "the number of logits is 3, must be 4 (the vocabulary)";
  assertThrows(
    () => sampler({}, { vocabSize: 4 }).sample(Float32Array.of(1, 2, 3)),
    FormatError,
    error,
  );
});

Deno.test("a tiny temperature is greedy rather than NaN", () => {
  const seen = frequencies(LOGITS.slice(0, 4), { params: { temperature: 1e-40 }, count: 50 });
  assertEquals(seen, [0, 0, 50, 0]);
});

Deno.test("tokens taken from elsewhere leave a sampler as if it had chosen them", () => {
  const params = {
    temperature: 1.2,
    topP: 0.95,
    repetitionPenalty: 1.2,
    frequencyPenalty: 0.1,
    seed: 8,
  };
  const options = { vocabSize: LOGITS.length, prompt: [1, 2] };
  const own = sampler(params, options);
  const other = sampler(params, options);
  const draws = other.bitsFrom(0, 20);
  assertEquals(other.bitsFrom(5, 15), draws.slice(5));
  for (let i = 0; i < 20; i++) {
    assertEquals(other.bitsFrom(i, 1), [draws[i]]);
    other.take(own.sample(Float32Array.from(LOGITS)));
    assertEquals([...other.tallies], [...own.tallies]);
    assertEquals(other.taken, i + 1);
  }
  const [next, same] = [own, other].map((source) => source.sample(Float32Array.from(LOGITS)));
  assertEquals(same, next);
  assertEquals(own.bitsFrom(21, 3), other.bitsFrom(21, 3));
});
