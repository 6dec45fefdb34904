/** Checks of sampling parameters; errors carry the wire name of the field. */

import { RequestError } from "../errors.ts";
import type { SamplingParams } from "./types.ts";

/** Throws RequestError naming the first parameter that is out of range. */
export function validateSampling(params: SamplingParams, vocabSize: number): void {
  const { temperature, topK, topP, minP, seed } = params;
  check(temperature >= 0 && temperature <= 100, "temperature", temperature, "from 0 to 100");
  check(Number.isSafeInteger(topK) && topK >= 0, "top_k", topK, "an integer, 0 or more");
  check(topP >= 0 && topP <= 1, "top_p", topP, "from 0 to 1");
  check(minP >= 0 && minP <= 1, "min_p", minP, "from 0 to 1");
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = params;
  check(
    repetitionPenalty >= 0.01 && repetitionPenalty <= 100,
    "repetition_penalty",
    repetitionPenalty,
    "from 0.01 to 100",
  );
  const penalties = { presence_penalty: presencePenalty, frequency_penalty: frequencyPenalty };
  for (const [name, value] of Object.entries(penalties)) {
    check(value >= -100 && value <= 100, name, value, "from -100 to 100");
  }
  check(seed === undefined || Number.isSafeInteger(seed), "seed", seed, "an integer within 2^53");
  for (const [token, bias] of params.logitBias) {
    const known = Number.isInteger(token) && token >= 0 && token < vocabSize;
    check(known, "logit_bias", `for token ${token}`, `for a token from 0 to ${vocabSize - 1}`);
    const allowed = bias === -Infinity || Math.abs(bias) <= 1000;
    check(allowed, "logit_bias", `${bias} for token ${token}`, "within 1000 of 0, or -Infinity");
  }
}

function check(holds: boolean, param: string, value: unknown, must: string): void {
  if (!holds) {
    throw new RequestError(`cannot sample: ${param} is ${value}, must be ${must}`, { param });
  }
}
