/** What a step makes smaller, and what it does about gates besides, as the tape takes them. */

import type { Buffer } from "../backend/backend.ts";
import { likelihood, policy } from "./losses.ts";
import type { BalanceShare, StepBuffers } from "./step_buffers.ts";
import type { Loss, TapeBackend } from "./tape/mod.ts";
import type { GateTraining } from "./tape/rules/mixture.ts";

export type Objective =
  | { readonly kind: "likelihood" }
  | {
    readonly kind: "policy";
    readonly temperature: number;
    readonly clipLow: number;
    readonly clipHigh: number;
    /** Factor on the k3 estimate of the divergence from the reference; 0 for none. */
    readonly klCoefficient: number;
  };

/** The loss over a step's buffers. */
export function lossOf(objective: Objective, buffers: StepBuffers): Loss {
  if (objective.kind === "likelihood") return likelihood(buffers);
  const { kind: _, ...rest } = objective;
  const { oldLogProbs, advantages, referenceLogProbs } = buffers;
  return policy(buffers, {
    ...{ ...rest, oldLogProbs, advantages },
    ...(objective.klCoefficient !== 0 && { referenceLogProbs }),
  });
}

/** What is done about the gate that comes `index`-th. */
export function gateTraining(
  index: number,
  options: {
    tape: TapeBackend;
    buffers: StepBuffers;
    counts: Buffer | null;
    balance?: Pick<BalanceShare, "over" | "alpha">;
    replayRouting?: boolean;
  },
): GateTraining {
  const { tape, buffers, counts, balance, replayRouting } = options;
  const { clock, totals, counted, balanceWeights, inputs, chosen } = buffers;
  return {
    counts: { counted, counts: counts!, row: index },
    ...(balance && {
      balance: {
        ...{ over: balance.over, rowWeights: balanceWeights, clock, totals },
        positions: tape.located(inputs.batch.positions),
      },
    }),
    ...(replayRouting && { chosen: chosen[index] }),
  };
}
