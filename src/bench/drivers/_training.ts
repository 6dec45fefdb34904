/** The driver's side of the conversation of `../training_peers.ts`, for drivers that run in Deno. */

import { linesOf } from "../../cli/lines.ts";
import type { PeerTokens, TrainingRequest, TrainingTiming } from "../training_model.ts";
import { MARK, type Ready } from "../wire.ts";

/** What a driver makes of its engine. */
export interface TrainedEngine {
  readonly version: string;
  readonly parameters: number;
  /** Takes the tokens of all steps; the function trains one step and gives its loss. */
  open(tokens: PeerTokens): () => Promise<number>;
}

/** Opens the engine, says how long that took, and trains as it is told until the input ends. */
export async function serveTraining(open: () => Promise<TrainedEngine>): Promise<never> {
  const start = performance.now();
  const engine = await open();
  const ready: Ready = {
    loadSeconds: (performance.now() - start) / 1000,
    version: engine.version,
  };
  console.log(MARK + JSON.stringify({ ready }));
  let step: (() => Promise<number>) | undefined;
  for await (const line of linesOf(Deno.stdin.readable)) {
    const request: TrainingRequest = JSON.parse(line);
    step ??= engine.open(request.tokens);
    const seconds: number[] = [];
    const losses: number[] = [];
    for (let i = 0; i < request.steps; i++) {
      const begun = performance.now();
      losses.push(await step());
      seconds.push((performance.now() - begun) / 1000);
    }
    const training: TrainingTiming = { parameters: engine.parameters, losses, seconds };
    console.log(MARK + JSON.stringify({ training }));
  }
  Deno.exit(0);
}
