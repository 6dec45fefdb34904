/**
 * Rejection sampling (DeepSeek-R1, section 2.3.3): several answers to each prompt, of which those are kept
 * that are rewarded and differ from each other.
 */

import { hashText } from "../data/hash.ts";
import type { RejectionPhase } from "../run/phase_recipe.ts";
import { messageOf, type Prompt, sampleOf } from "./prompts.ts";
import type { RolloutEngine } from "./rollout.ts";
import type { Scorer } from "./scorer.ts";

export interface Accepted {
  /** The form that `samples` of a data recipe reads. */
  readonly prompt: readonly { readonly role: "user"; readonly content: string }[];
  readonly completion: readonly { readonly role: "assistant"; readonly content: string }[];
  readonly reward: number;
  readonly family: string;
  readonly answer?: string;
}

export interface SelectionOptions {
  readonly keep: number;
  readonly minReward: number;
  readonly maxSimilarity: number;
}

export interface Candidate {
  readonly text: string;
  readonly reward: number;
}

/**
 * At most `keep` of a prompt's answers: the best rewarded first, the shorter of equals, and none that is
 * much like one before.
 */
export function selectAnswers<T extends Candidate>(
  candidates: readonly T[],
  { keep, minReward, maxSimilarity }: SelectionOptions,
): T[] {
  const order = candidates.filter(({ reward }) => reward >= minReward)
    .sort((a, b) => b.reward - a.reward || a.text.length - b.text.length);
  const kept: { candidate: T; runs: ReadonlySet<string> }[] = [];
  for (const candidate of order) {
    if (kept.length === keep) break;
    const runs = runsOf(candidate.text);
    const isNew = kept.every((other) =>
      other.candidate.text !== candidate.text && similarity(other.runs, runs) <= maxSimilarity
    );
    if (isNew) kept.push({ candidate, runs });
  }
  return kept.map(({ candidate }) => candidate);
}

/** Words of a run. */
const RUN = 3;

/** All runs of three words; of shorter texts the whole. */
function runsOf(text: string): Set<string> {
  const words = text.split(/\s+/).filter((word) => word !== "");
  if (words.length <= RUN) return new Set([words.join(" ")]);
  return new Set(
    Array.from({ length: words.length - RUN + 1 }, (_, i) => words.slice(i, i + RUN).join(" ")),
  );
}

/** Runs that both have, among all (Jaccard). */
function similarity(a: ReadonlySet<string>, b: ReadonlySet<string>): number {
  const shared = a.intersection(b).size;
  return shared / Math.max(1, a.size + b.size - shared);
}

export interface SampleOptions {
  readonly phase: RejectionPhase;
  readonly engine: RolloutEngine;
  readonly scorer: Scorer;
  readonly endTokens: readonly number[];
  readonly decode: (ids: readonly number[]) => string;
  readonly seed: string;
}

/** Samples answers to prompts, the first of which is the `from`-th of the phase, and keeps some. */
export async function acceptedOf(
  prompts: readonly Prompt[],
  { from, ...options }: SampleOptions & { from: number },
): Promise<{ accepted: Accepted[]; tokens: number }> {
  const { phase, engine, scorer, endTokens, decode, seed } = options;
  const requests = prompts.flatMap(({ ids }, i) =>
    Array.from({ length: phase.samples }, (_, k) => ({
      prompt: ids,
      seed: hashText(`${seed}/sample/${from + i}/${k}`),
    }))
  );
  const rollouts = await engine.answer(requests, { ...phase.sampling, endTokens });
  const texts = rollouts.map(({ answer }) => decode(answer));
  const judged = await scorer.score(
    texts.map((text, i) => sampleOf(prompts[Math.floor(i / phase.samples)], text)),
  );
  const accepted = prompts.flatMap((prompt, i) => {
    const places = Array.from({ length: phase.samples }, (_, k) => i * phase.samples + k);
    // What was cut off has no end to learn.
    const candidates = places.filter((at) => rollouts[at].ended)
      .map((at) => ({ text: texts[at], reward: judged[at].reward }));
    return selectAnswers(candidates, phase).map(({ text, reward }): Accepted => ({
      prompt: [{ role: "user", content: prompt.text }],
      completion: [{ role: "assistant", content: messageOf(prompt, text) }],
      reward,
      family: prompt.family,
      ...(prompt.reference.answer !== undefined && { answer: prompt.reference.answer }),
    }));
  });
  const tokens = rollouts.reduce(
    (sum, { prompt, answer }) => sum + prompt.length + answer.length,
    0,
  );
  return { accepted, tokens };
}
