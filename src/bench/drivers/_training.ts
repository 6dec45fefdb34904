/** The driver's side of the conversation of `../training_peers.ts`, for drivers that run in Deno. */

import type { PeerTokens, TrainingRequest, TrainingTiming } from "../training_model.ts";
import { converse } from "./_serve.ts";

/** What a driver makes of its engine. */
export interface TrainedEngine {
  readonly version: string;
  readonly parameters: number;
  /** Takes the tokens of all steps; the function trains one step and gives its loss. */
  open(tokens: PeerTokens): () => Promise<number>;
}

/** Opens the engine, and trains as it is told until the input ends. */
export function serveTraining(open: () => Promise<TrainedEngine>): Promise<never> {
  let step: (() => Promise<number>) | undefined;
  return converse(open, async (engine, { tokens, steps }: TrainingRequest) => {
    step ??= engine.open(tokens);
    const seconds: number[] = [];
    const losses: number[] = [];
    for (let i = 0; i < steps; i++) {
      const begun = performance.now();
      losses.push(await step());
      seconds.push((performance.now() - begun) / 1000);
    }
    const training: TrainingTiming = { parameters: engine.parameters, losses, seconds };
    return { training };
  });
}
