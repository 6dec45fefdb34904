/** How large steps are: counted by classes, as a histogram wants it. */

/** Upper ends of the classes in rows, each included: vLLM's. What is larger has a class of its own. */
export const STEP_SIZES: readonly number[] = Object.freeze([
  ...[1, 8, 16, 32, 64, 128, 256, 512, 1024],
]);

/** Rows are tokens that were computed: of prompts, of answers, and guessed ones. */
export interface StepCounts {
  /** Steps of each class, [STEP_SIZES.length + 1]; none where no step has been counted. */
  readonly bySize: readonly number[];
  /** Rows of all of them. */
  readonly rows: number;
}

export const NO_STEPS: StepCounts = Object.freeze({ bySize: Object.freeze([]), rows: 0 });

/** The counts with one more step. */
export function countStep({ bySize, rows }: StepCounts, size: number): StepCounts {
  const found = STEP_SIZES.findIndex((end) => size <= end);
  const index = found < 0 ? STEP_SIZES.length : found;
  const classes = Array.from(
    { length: STEP_SIZES.length + 1 },
    (_, i) => (bySize[i] ?? 0) + (i === index ? 1 : 0),
  );
  return { bySize: classes, rows: rows + size };
}

/** The counts of both. */
export function addSteps(a: StepCounts, b: StepCounts): StepCounts {
  const length = Math.max(a.bySize.length, b.bySize.length);
  return {
    bySize: Array.from({ length }, (_, i) => (a.bySize[i] ?? 0) + (b.bySize[i] ?? 0)),
    rows: a.rows + b.rows,
  };
}
