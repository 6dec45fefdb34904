/** Losses on a tape: from logits to the gradient that the backward pass begins with. */

import type { Buffer } from "../backend/backend.ts";
import type { TrainingOps } from "../backend/training.ts";
import type { PolicyLossParams } from "../backend/training_params.ts";
import type { Loss } from "./tape/mod.ts";
import { type Step, Value } from "./tape/value.ts";

/** Buffers of a step that every loss reads and writes; see `LossParams`. */
export interface LossBuffers {
  /** i32 [rows, 1]: the token that each row of logits is to predict. */
  readonly targets: Buffer;
  readonly tokenWeights: Buffer;
  readonly clock: Buffer;
  readonly totals: Buffer;
  /** f32 [rows, 1]: gets the log-probabilities of the targets. */
  readonly logProbs: Buffer;
}

/** Cross-entropy: the log-probabilities of the targets, weighted and summed. */
export function likelihood(buffers: LossBuffers): Loss {
  return tokenLoss(buffers, {
    temperature: 1,
    record: (ops, places) => ops.likelihoodLoss({ ...buffers, ...places }),
  });
}

/** What the policy objective needs besides. */
export type PolicyOptions =
  & Pick<
    PolicyLossParams,
    | "oldLogProbs"
    | "advantages"
    | "referenceLogProbs"
    | "clipLow"
    | "clipHigh"
    | "klCoefficient"
  >
  & { readonly temperature: number };

/** The clipped policy objective of GRPO; logits are divided by the temperature first. */
export function policy(buffers: LossBuffers, options: PolicyOptions): Loss {
  const { temperature, ...objective } = options;
  return tokenLoss(buffers, {
    temperature,
    record: (ops, places) => ops.policyLoss({ ...buffers, ...objective, ...places }),
  });
}

/** A loss of the targets' log-probabilities; `record` turns those into their gradients. */
function tokenLoss(
  buffers: LossBuffers,
  options: {
    temperature: number;
    record: (
      ops: TrainingOps,
      places: { logProbs: Buffer; gradient: Buffer; rows: number },
    ) => void;
  },
): Loss {
  const { targets, logProbs } = buffers;
  const { temperature, record } = options;
  return {
    write(logits: Value, steps: Step[]): Value {
      const { rows } = logits;
      const gradient = new Value({ rows, width: 1 });
      const logitsGradient = logits.twin();
      steps.push([{
        reads: [logits],
        writes: [gradient],
        acts: true,
        record(ops, at) {
          ops.tokenLogProbs({ logits: at(logits), targets, temperature, out: logProbs, rows });
          record(ops, { logProbs, gradient: at(gradient), rows });
        },
      }], [{
        reads: [gradient],
        changes: [{ from: logits, to: logitsGradient }],
        record(ops, at) {
          const place = at(logitsGradient);
          ops.tokenLogProbsBackward({
            ...{ logits: place, targets, temperature, outGradient: at(gradient) },
            ...{ logitsGradient: place, rows },
          });
        },
      }]);
      return logitsGradient;
    },
  };
}
