import { assertEquals, assertThrows } from "@std/assert";
import { RequestError } from "../../src/errors.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../src/sampling/types.ts";
import { validateSampling } from "../../src/sampling/validate.ts";

const WRONG: readonly (readonly [string, Partial<SamplingParams>])[] = [
  ["temperature", { temperature: -0.1 }],
  ["temperature", { temperature: NaN }],
  ["temperature", { temperature: Infinity }],
  ["top_k", { topK: -1 }],
  ["top_k", { topK: 1.5 }],
  ["top_p", { topP: 1.01 }],
  ["top_p", { topP: NaN }],
  ["min_p", { minP: -1 }],
  ["min_p", { minP: 2 }],
  ["repetition_penalty", { repetitionPenalty: 0 }],
  ["presence_penalty", { presencePenalty: Infinity }],
  ["frequency_penalty", { frequencyPenalty: NaN }],
  ["seed", { seed: 0.5 }],
  ["seed", { seed: 2 ** 53 }],
  ["logit_bias", { logitBias: [[100, 1]] }],
  ["logit_bias", { logitBias: [[-1, 1]] }],
  ["logit_bias", { logitBias: [[5, NaN]] }],
  ["logit_bias", { logitBias: [[5, Infinity]] }],
];

for (const [param, wrong] of WRONG) {
  const shown = `${Object.keys(wrong)[0]} ${Object.values(wrong)[0]}`;
  Deno.test(`sampling refuses ${shown} and names ${param}`, () => {
    const error = assertThrows(
      () => validateSampling({ ...NEUTRAL_SAMPLING, ...wrong }, 100),
      RequestError,
    );
    assertEquals([error.param, error.status], [param, 400]);
  });
}

Deno.test("sampling accepts neutral parameters and the edges of each range", () => {
  validateSampling(NEUTRAL_SAMPLING, 100);
  validateSampling({
    temperature: 2,
    topK: 1_000_000,
    topP: 0,
    minP: 1,
    repetitionPenalty: 1.1,
    presencePenalty: -2,
    frequencyPenalty: 2,
    logitBias: [[99, -Infinity], [0, 100]],
    seed: -(2 ** 53 - 1),
  }, 100);
});
