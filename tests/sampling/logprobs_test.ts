import { assertAlmostEquals, assertEquals } from "@std/assert";
import { expNonPositive } from "../../src/sampling/exp.ts";
import { tokenLogprobs } from "../../src/sampling/logprobs.ts";
import { bellLogits, ranking, softmax } from "./support.ts";

Deno.test("e^x agrees with Math.exp to 2e-12 over the range that counts", () => {
  for (let x = -69; x <= 0; x += 0.000917) {
    assertAlmostEquals(expNonPositive(x) / Math.exp(x), 1, 2e-12);
  }
  assertEquals(expNonPositive(0), 1);
  assertEquals(expNonPositive(-70), 0);
  assertEquals(expNonPositive(-Infinity), 0);
});

Deno.test("log-probabilities are the log-softmax of the raw logits", () => {
  const logits = bellLogits(3000, 5);
  const expected = softmax([...logits]).map(Math.log);
  const ranked = ranking([...logits]);
  const { chosen, top } = tokenLogprobs(logits, { token: 1234, top: 20 });
  assertEquals(chosen.token, 1234);
  assertAlmostEquals(chosen.logprob, expected[1234], 1e-10);
  assertEquals(top.map(({ token }) => token), ranked.slice(0, 20));
  for (const { token, logprob } of top) assertAlmostEquals(logprob, expected[token], 1e-10);
});

Deno.test("top 0 gives the chosen token alone, and top beyond the vocabulary all of it", () => {
  const logits = Float32Array.of(0, Math.log(3), -40);
  assertEquals(tokenLogprobs(logits, { token: 0, top: 0 }).top, []);
  const { chosen, top } = tokenLogprobs(logits, { token: 0, top: 9 });
  assertAlmostEquals(Math.exp(chosen.logprob), 0.25, 1e-7);
  assertEquals(top.map(({ token }) => token), [1, 0, 2]);
});

Deno.test("equal logits are listed by ascending id", () => {
  const { top } = tokenLogprobs(Float32Array.of(1, 2, 2, 1, 2), { token: 0, top: 4 });
  assertEquals(top.map(({ token }) => token), [1, 2, 4, 0]);
});
