/** Log-probabilities of the raw logits, before penalties, temperature and filters. */

import { expNonPositive } from "./exp.ts";

/** A token and the natural log of its probability. */
export interface RankedToken {
  readonly token: number;
  readonly logprob: number;
}

/**
 * Log-softmax of `logits` at `token`, and of the `top` most likely tokens: descending, the lowest id
 * first among equals. Logits must be finite.
 */
export function tokenLogprobs(
  logits: Float32Array,
  { token, top }: { token: number; top: number },
): { chosen: RankedToken; top: RankedToken[] } {
  const best = mostLikely(logits, Math.max(1, top));
  const max = logits[best[0]];
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += expNonPositive(logits[i] - max);
  const logSum = max + Math.log(sum);
  const rank = (id: number): RankedToken => ({ token: id, logprob: logits[id] - logSum });
  return { chosen: rank(token), top: best.slice(0, top).map(rank) };
}

/** The `count` tokens with the highest logits; a short sorted list is kept by insertion. */
function mostLikely(logits: Float32Array, count: number): number[] {
  const size = Math.min(count, logits.length);
  const best: number[] = [];
  let floor = -Infinity;
  for (let token = 0; token < logits.length; token++) {
    const logit = logits[token];
    if (best.length === size && !(logit > floor)) continue;
    if (best.length === size) best.pop();
    let at = best.length;
    while (at > 0 && logits[best[at - 1]] < logit) at--;
    best.splice(at, 0, token);
    floor = logits[best[best.length - 1]];
  }
  return best;
}
