/** What every backend that trains must do. */

import { checkpointingTests } from "./_checkpointing_conformance.ts";
import { moeBlockTests } from "./_moe_block_conformance.ts";
import { opGradientTests } from "./_op_gradients_conformance.ts";
import { policyTests } from "./_policy_conformance.ts";
import { trainerTests } from "./_trainer_conformance.ts";
import { type TrainingConformance, updateTests } from "./_update_conformance.ts";
import { wholeModelTests } from "./_whole_models_conformance.ts";

export type { TrainingConformance };

export function trainingConformance(suite: TrainingConformance): void {
  opGradientTests(suite);
  updateTests(suite);
  policyTests(suite);
  moeBlockTests(suite);
  wholeModelTests(suite);
  checkpointingTests(suite);
  trainerTests(suite);
}
