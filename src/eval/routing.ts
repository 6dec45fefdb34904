/** Where a model's gates send the tokens of prompts and answers, by kind of token. */

import {
  type Specialisation,
  SpecialisationCounter,
  tokenClass,
} from "../experts/specialisation.ts";
import { choicesOf } from "../engine/routing.ts";
import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import type { TextModel } from "../text/types.ts";

/** Texts of control tokens that have no name of their own. */
const CONTROL_FORM = /^<[|｜].*[|｜]>$/s;

/** Reads each sequence of token ids once more; those longer than the context up to there. */
export async function specialisationOf(
  model: TextModel,
  { sequences, onProgress, signal }: {
    sequences: readonly (readonly number[])[];
    onProgress?: (done: number) => void;
    signal?: AbortSignal;
  },
): Promise<Specialisation> {
  const { routedLayers, contextLength } = model.info;
  const choices = choicesOf(routedLayers);
  const counter = new SpecialisationCounter(routedLayers);
  const { bosToken, eosToken, padToken } = model.tokenizerFacts;
  const control = new Set([bosToken, eosToken, padToken]);
  const kindOf = (token: number) => {
    const text = model.decode([token]);
    return tokenClass(text, { control: control.has(text) || CONTROL_FORM.test(text) });
  };
  for (const [done, sequence] of sequences.entries()) {
    const tokens = sequence.slice(0, contextLength);
    if (tokens.length > 0) {
      const events = model.answer(await model.textPrompt(tokens), {
        ...{ sampling: NEUTRAL_SAMPLING, maxTokens: 0, routedExperts: "all" },
        ...(signal && { signal }),
      });
      for await (const event of events) {
        if (event.type !== "prompt" || event.routing === undefined) continue;
        const { experts } = event.routing;
        for (const [i, token] of tokens.entries()) {
          counter.add(kindOf(token), { experts, at: i * choices });
        }
      }
    }
    onProgress?.(done + 1);
  }
  return counter.summary();
}
