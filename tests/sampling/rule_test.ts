import { assertEquals } from "@std/assert";
import {
  createRule,
  editedLogit,
  RULE_WORDS,
  ruleOf,
  ruleWords,
  type SamplingRule,
  SEEN,
} from "../../src/sampling/rule.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../src/sampling/types.ts";
import { SMALLEST } from "../../src/sampling/weights.ts";

const RULES: Partial<SamplingParams>[] = [
  {},
  { temperature: 0.7, topK: 40, topP: 0.95, minP: 0.02 },
  { temperature: 100, topP: 0, minP: 1, topK: 2 ** 40 },
  { temperature: 1e-300, topP: 1 - 2 ** -50 },
  { repetitionPenalty: 1.1, frequencyPenalty: -0.3, presencePenalty: 2 },
  { logitBias: [[3, -1]] },
];

function rule(params: Partial<SamplingParams>): SamplingRule {
  return createRule({ ...NEUTRAL_SAMPLING, ...params });
}

Deno.test("a rule is the same behind the words that a backend reads", () => {
  for (const params of RULES) {
    const made = rule(params);
    const words = ruleWords(made);
    assertEquals(words.length, RULE_WORDS);
    assertEquals(ruleOf(words), made);
  }
});

Deno.test("neutral parameters neither draw nor edit, and each of the others does one of them", () => {
  const kinds = RULES.map((params) => {
    const { draws, edits } = rule(params);
    return [draws, edits];
  });
  const [draws, edits] = [[true, false], [false, true]];
  assertEquals(kinds, [[false, false], draws, draws, draws, edits, edits]);
});

Deno.test("an edit is a float32 operation at a time, in the documented order", () => {
  const made = rule({ repetitionPenalty: 1.3, frequencyPenalty: 0.1, presencePenalty: 0.7 });
  const f = Math.fround;
  for (const logit of [f(3.3), f(-2.7)]) {
    const biased = f(logit + f(0.3));
    const repeated = f(biased * (biased > 0 ? f(1 / 1.3) : f(1.3)));
    const edited = f(f(repeated - f(5 * f(0.1))) - f(0.7));
    assertEquals(editedLogit(logit, { rule: made, tally: SEEN + 5, bias: f(0.3) }), edited);
    // Seen in the prompt alone, and not seen.
    assertEquals(editedLogit(logit, { rule: made, tally: SEEN, bias: f(0.3) }), repeated);
    assertEquals(editedLogit(logit, { rule: made, tally: 0, bias: f(0.3) }), biased);
  }
});

Deno.test("an edit settles what it begins with and what it makes, and -Infinity stays", () => {
  const made = rule({ repetitionPenalty: 0.01 });
  const edit = (logit: number, bias = 0) => editedLogit(logit, { rule: made, tally: SEEN, bias });
  assertEquals([edit(1e-40), edit(-SMALLEST), edit(-3e38)], [0, 0, -settledTimes(0.01)]);
  assertEquals(edit(5, -Infinity), -Infinity);
});

function settledTimes(factor: number): number {
  return Math.fround(2 ** 60 * Math.fround(factor));
}
