/**
 * Group relative policy optimisation (DeepSeekMath, section 4.1): groups of answers to each prompt, their
 * rewards against their group's, and the clipped objective, with what DAPO and Dr. GRPO changed as options.
 */

import type { TrainingSequence } from "../batch.ts";
import { hashText } from "../data/hash.ts";
import { groupAdvantages, tokenShares } from "../policy.ts";
import type { GrpoPhase } from "../run/phase_recipe.ts";
import { rateAt } from "../schedule.ts";
import type { StepTotals, StepTrainer } from "../step_trainer.ts";
import { answerMetrics, rewardMetrics } from "./answer_metrics.ts";
import { microBatches } from "./micro_batches.ts";
import { type Prompt, sampleOf, shuffled } from "./prompts.ts";
import type { Rollout, RolloutEngine } from "./rollout.ts";
import type { Scorer } from "./scorer.ts";
import { expertLoad, type PhaseWork, type StepReport } from "./work.ts";

export interface GrpoOptions {
  readonly phase: GrpoPhase;
  readonly trainer: StepTrainer;
  readonly engine: RolloutEngine;
  /** The model that the policy is kept near to; null where `kl` is 0. */
  readonly reference: ReferencePolicy | null;
  readonly prompts: readonly Prompt[];
  readonly scorer: Scorer;
  readonly endTokens: readonly number[];
  readonly decode: (ids: readonly number[]) => string;
  /** Names the run's random choices. */
  readonly seed: string;
  readonly onProgress?: (answers: number) => void;
}

export interface ReferencePolicy {
  readonly engine: RolloutEngine;
  /** Makes it the policy as it is now. */
  follow(): Promise<void>;
}

/** An answer with what it is worth. */
export interface GradedAnswer {
  readonly rollout: Rollout;
  readonly advantage: number;
  readonly referenceLogProbs?: readonly number[];
}

export class GrpoWork implements PhaseWork {
  readonly #options: GrpoOptions;
  #order: { epoch: number; prompts: readonly Prompt[] } | null = null;

  constructor(options: GrpoOptions) {
    this.#options = options;
  }

  async step(step: number): Promise<StepReport> {
    const { phase, trainer, reference } = this.#options;
    const { group, referenceEvery } = phase;
    await trainer.collect(["value"]);
    if (reference !== null && referenceEvery > 0 && step > 0 && step % referenceEvery === 0) {
      await reference.follow();
    }
    const prompts = this.#promptsOf(step);
    const rollouts = await this.#rollouts(prompts, step);
    const { rewards, metrics } = await this.#rewards(prompts, rollouts);
    const advantages = groupAdvantages(rewards, { group, scale: phase.scale });
    const counts = rollouts.map((rollout, i) => this.#counts(rollout, { rewards, at: i }));
    const kept = rollouts.flatMap((rollout, i) =>
      counts[i] ? [{ rollout, advantage: advantages[i] }] : []
    );
    const sampledTokens = rollouts.reduce(
      (sum, { prompt, answer }) => sum + prompt.length + answer.length,
      0,
    );
    const rate = rateAt({ ...phase.update, peak: phase.update.rate, steps: phase.steps }, step);
    const { trainedTokens, totals } = await this.#learn(kept, rate);
    return {
      ...{ trainedTokens, sampledTokens, totals },
      metrics: {
        ...metrics,
        ...answerMetrics(rollouts),
        learning_rate: rate,
        kept: kept.length / rollouts.length,
        ...(totals !== null && {
          loss: totals.loss,
          grad_norm: totals.gradientNorm,
          "clip_ratio/region_mean": totals.clipFraction,
          ...(phase.kl !== 0 && { kl: totals.kl }),
          ratio: totals.ratio,
          ...await expertLoad(trainer),
        }),
      },
    };
  }

  #promptsOf(step: number): Prompt[] {
    const { prompts, phase, seed } = this.#options;
    return Array.from({ length: phase.prompts }, (_, i) => {
      const place = step * phase.prompts + i;
      const epoch = Math.floor(place / prompts.length);
      if (this.#order?.epoch !== epoch) {
        this.#order = { epoch, prompts: shuffled(prompts, `${seed}/prompts/${epoch}`) };
      }
      return this.#order.prompts[place % prompts.length];
    });
  }

  async #rollouts(prompts: readonly Prompt[], step: number): Promise<Rollout[]> {
    const { phase, engine, seed, endTokens, onProgress } = this.#options;
    const requests = prompts.flatMap(({ ids }, i) =>
      Array.from({ length: phase.group }, (_, g) => ({
        prompt: ids,
        seed: hashText(`${seed}/${step}/${i}/${g}`),
      }))
    );
    return await engine.answer(requests, {
      ...{ ...phase.sampling, endTokens, scores: true, routing: phase.replayRouting },
      ...(onProgress && { onProgress }),
    });
  }

  async #rewards(prompts: readonly Prompt[], rollouts: readonly Rollout[]) {
    const { phase, scorer, decode } = this.#options;
    const { group } = phase;
    const samples = rollouts.map(({ answer }, i) =>
      sampleOf(prompts[Math.floor(i / group)], decode(answer))
    );
    const judged = await scorer.score(samples);
    const rewards = judged.map(({ reward }, i) => reward + overlongPenalty(rollouts[i], phase));
    return { rewards, metrics: rewardMetrics(judged, { rewards, group }) };
  }

  /** Whether an answer takes part in the loss. */
  #counts(rollout: Rollout, { rewards, at }: { rewards: readonly number[]; at: number }): boolean {
    const { group, dropEqual, overlong } = this.#options.phase;
    if (overlong === "mask" && !rollout.ended) return false;
    if (!dropEqual) return true;
    const start = at - at % group;
    return rewards.slice(start, start + group).some((reward) => reward !== rewards[start]);
  }

  async #learn(
    kept: readonly GradedAnswer[],
    rate: number,
  ): Promise<{ trainedTokens: number; totals: StepTotals | null }> {
    const { phase, trainer } = this.#options;
    if (kept.length === 0) return { trainedTokens: 0, totals: null };
    const graded = await this.#referenced(kept);
    const sequences = policySequences(graded, phase);
    const batches = microBatches(sequences, trainer.shape);
    for (let update = 0; update < phase.updates; update++) {
      await trainer.step(batches, { rate, biasRate: phase.update.biasRate });
    }
    const tokens = sequences.reduce((sum, { inputs }) => sum + inputs.length, 0);
    return { trainedTokens: phase.updates * tokens, totals: await trainer.totals() };
  }

  async #referenced(kept: readonly GradedAnswer[]): Promise<readonly GradedAnswer[]> {
    const { reference, phase } = this.#options;
    if (reference === null) return kept;
    const { temperature } = phase.sampling;
    const scores = await reference.engine.score(
      kept.map(({ rollout }) => {
        const ids = [...rollout.prompt, ...rollout.answer];
        return { inputs: ids.slice(0, -1), targets: ids.slice(1) };
      }),
      { temperature },
    );
    return kept.map((graded, i) => ({
      ...graded,
      referenceLogProbs: scores[i].slice(graded.rollout.prompt.length - 1),
    }));
  }
}

/**
 * What comes off an answer's reward for its length (DAPO, section 3.4): nothing up to the margin below the
 * limit, then in a line up to 1; cut off is 1.
 */
export function overlongPenalty(
  { answer, ended }: Pick<Rollout, "answer" | "ended">,
  { overlong, overlongMargin, sampling }: Pick<
    GrpoPhase,
    "overlong" | "overlongMargin" | "sampling"
  >,
): number {
  if (overlong !== "penalty") return 0;
  if (!ended) return -1;
  const over = answer.length - (sampling.maxTokens - overlongMargin);
  return over <= 0 ? 0 : -over / overlongMargin;
}

/** Answers as sequences of the policy objective. */
export function policySequences(
  answers: readonly GradedAnswer[],
  { shares, sampling }: Pick<GrpoPhase, "shares" | "sampling">,
): TrainingSequence[] {
  const lengths = answers.map(({ rollout }) => rollout.answer.length);
  const weights = tokenShares(lengths, { shares, maxLength: sampling.maxTokens });
  return answers.map(({ rollout, advantage, referenceLogProbs }, i): TrainingSequence => {
    const { prompt, answer, logProbs, chosen } = rollout;
    const ids = [...prompt, ...answer];
    // The last token of the prompt is the first that predicts one of the answer.
    const behind = (values: readonly number[]) => [
      ...new Array(prompt.length - 1).fill(0),
      ...values,
    ];
    return {
      inputs: ids.slice(0, -1),
      targets: ids.slice(1),
      weights: behind(new Array(answer.length).fill(weights[i])),
      policy: {
        oldLogProbs: behind(logProbs),
        advantages: behind(new Array(answer.length).fill(advantage)),
        ...(referenceLogProbs && { referenceLogProbs: behind(referenceLogProbs) }),
      },
      ...(chosen.length > 0 && { chosen }),
    };
  });
}
