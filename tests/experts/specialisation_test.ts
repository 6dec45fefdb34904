/** Kinds of tokens, and what is counted of the experts that they choose. */

import { assertAlmostEquals, assertEquals } from "@std/assert";
import {
  mutualInformation,
  SpecialisationCounter,
  tokenClass,
} from "../../src/experts/specialisation.ts";

Deno.test("tokens are told apart by their text, spaces aside", () => {
  const kinds = {
    digits: ["7", " 42", "²"],
    operators: ["+", " =", " - ", "<=", "×"],
    words: ["the", " Hello", "x1", "漢"],
    other: [" ", "\n", ".", "),", "~", "\u{fffd}", ""],
  };
  for (const [kind, texts] of Object.entries(kinds)) {
    for (const text of texts) {
      assertEquals(tokenClass(text, { control: false }), kind, JSON.stringify(text));
    }
  }
  assertEquals(tokenClass("<|im_end|>", { control: true }), "control");
});

Deno.test("loads, balance and bits follow from the choices", () => {
  const counter = new SpecialisationCounter([
    { layer: 1, experts: 4, topK: 2 },
    { layer: 3, experts: 2, topK: 1 },
  ]);
  // In layer 1 the kind decides; in layer 3 it says nothing.
  for (let i = 0; i < 10; i++) {
    counter.add("digits", { experts: [9, 0, 1, i % 2], at: 1 });
    counter.add("words", { experts: [2, 3, i % 2], at: 0 });
  }
  const { tokens, layers: [first, second] } = counter.summary();
  assertEquals([tokens.digits, tokens.words, tokens.other], [10, 10, 0]);
  assertEquals(first.load, [10, 10, 10, 10]);
  assertEquals(first.byClass.digits, [10, 10, 0, 0]);
  assertEquals([first.maxOverMean, first.unused], [1, 0]);
  assertAlmostEquals(first.bits, 1, 1e-12);
  assertEquals(second.load, [10, 10]);
  assertAlmostEquals(second.bits, 0, 1e-12);
  assertAlmostEquals(mutualInformation([[3, 1], [1, 3]]), 1 - 0.811278, 1e-6);
});
