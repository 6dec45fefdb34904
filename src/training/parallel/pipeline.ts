/**
 * The order of a stage's work on micro-batches: one forward, one backward (Narayanan et al. 2019, PipeDream;
 * 2021, Megatron-LM, section 2.2.1). A stage begins with as many forward passes as there are stages behind
 * it, so that no more micro-batches than that and one are kept.
 */

export interface PipelineStep {
  readonly pass: "forward" | "backward";
  readonly microBatch: number;
}

/** Micro-batches whose activations a stage keeps at a time. */
export function slotsOf(
  { stage, stages }: { stage: number; stages: number },
  microBatches: number,
): number {
  return Math.min(stages - stage, microBatches);
}

/**
 * Part of a step in which stages have nothing to do, were all passes of all stages equally long and nothing
 * else took time (Narayanan et al. 2021, section 2.2.1, over the whole step).
 */
export function idealBubble({ stages }: { stages: number }, microBatches: number): number {
  return (stages - 1) / (microBatches + stages - 1);
}

/** The stage's passes in order. */
export function schedule1F1B(
  place: { stage: number; stages: number },
  microBatches: number,
): PipelineStep[] {
  const ahead = slotsOf(place, microBatches) - 1;
  const steps: PipelineStep[] = [];
  for (let i = 0; i < ahead; i++) steps.push({ pass: "forward", microBatch: i });
  for (let i = ahead; i < microBatches; i++) {
    steps.push({ pass: "forward", microBatch: i }, { pass: "backward", microBatch: i - ahead });
  }
  for (let i = microBatches - ahead; i < microBatches; i++) {
    steps.push({ pass: "backward", microBatch: i });
  }
  return steps;
}
