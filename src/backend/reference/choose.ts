/** What choosing a token means: the CPU's sampler, on rows of numbers. */

import { FormatError, RequestError } from "../../errors.ts";
import { Candidates } from "../../sampling/candidates.ts";
import type { RandomBits } from "../../sampling/random.ts";
import { editedLogit, RULE_WORDS, ruleOf, type SamplingRule, SEEN } from "../../sampling/rule.ts";
import { type Buffer, type ChooseParams, CHOSEN_NONE, CHOSEN_NOT_FINITE } from "../backend.ts";

/** What is known of one row's sequence, its own values alone. */
interface Row {
  readonly logits: Float32Array;
  readonly rule: SamplingRule;
  readonly bits: RandomBits;
  readonly tallies: Int32Array;
  readonly biases: Float32Array;
}

/** The op; the two functions give the arrays of its buffers. */
export function chooser(
  params: ChooseParams,
  { floats, integers }: {
    floats: (buffer: Buffer) => Float32Array;
    integers: (buffer: Buffer) => Int32Array;
  },
): () => void {
  const { rows, stride, sampling, logits: { width } } = params;
  const logits = floats(params.logits);
  const [sequences, ids, latest] = [params.sequences, params.ids, params.latest].map(integers);
  const [history, turn] = [params.history, params.turn].map(integers);
  const candidates = new Candidates(width);
  const sampled = sampling && {
    rules: integers(sampling.rules),
    draws: integers(sampling.draws),
    tallies: integers(sampling.tallies),
    biases: floats(sampling.biases),
  };
  return () => {
    for (let t = 0; t < rows; t++) {
      const at = turn[0] * stride + t;
      const sequence = sequences[t];
      const row = logits.subarray(t * width, (t + 1) * width);
      const chosen = chosenOr(() => {
        if (sampled === undefined) return candidates.load(row);
        const { rules, draws, tallies, biases } = sampled;
        return choose(candidates, {
          logits: row,
          rule: ruleOf(rules.subarray(sequence * RULE_WORDS, (sequence + 1) * RULE_WORDS)),
          bits: { high: draws[2 * at] >>> 0, low: draws[2 * at + 1] >>> 0 },
          tallies: tallies.subarray(sequence * width, (sequence + 1) * width),
          biases: biases.subarray(sequence * width, (sequence + 1) * width),
        });
      });
      history[at] = chosen;
      ids[t] = latest[sequence] = Math.max(0, chosen);
    }
  };
}

function choose(candidates: Candidates, { logits, rule, bits, tallies, biases }: Row): number {
  const rawBest = candidates.load(logits);
  for (let token = 0; rule.edits && token < logits.length; token++) {
    const edit = { rule, tally: tallies[token], bias: biases[token] };
    logits[token] = editedLogit(logits[token], edit);
  }
  const best = rule.edits ? candidates.best() : rawBest;
  const token = rule.draws ? candidates.choose({ best, rule, bits }) : best;
  if (rule.edits) tallies[token] = (tallies[token] | SEEN) + 1;
  return token;
}

/** What is chosen, or the number that says why there is nothing. */
function chosenOr(body: () => number): number {
  try {
    return body();
  } catch (error) {
    if (error instanceof FormatError) return CHOSEN_NOT_FINITE;
    if (error instanceof RequestError) return CHOSEN_NONE;
    throw error;
  }
}
