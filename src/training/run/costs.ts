/** What a run has cost: tokens and operations, which are the same each time, and seconds, which are not. */

/** Of a phase; all but the seconds are functions of the recipe. */
export interface PhaseCost {
  readonly trainedTokens: number;
  /** Read and written for samples that are learnt from, and for evaluations. */
  readonly sampledTokens: number;
  readonly evaluatedTokens: number;
  /** Without evaluations: what the phase's share is measured by. */
  readonly flops: number;
  readonly evaluationFlops: number;
}

export const NO_COST: PhaseCost = Object.freeze({
  trainedTokens: 0,
  sampledTokens: 0,
  evaluatedTokens: 0,
  flops: 0,
  evaluationFlops: 0,
});

/** Operations of a token and active parameter: two forward, twice as many back. */
const FORWARD = 2;
const TRAINING = 6;

export function addTokens(
  cost: PhaseCost,
  tokens: { trained?: number; sampled?: number; evaluated?: number; activeParameters: number },
): PhaseCost {
  const { trained = 0, sampled = 0, evaluated = 0, activeParameters } = tokens;
  return {
    trainedTokens: cost.trainedTokens + trained,
    sampledTokens: cost.sampledTokens + sampled,
    evaluatedTokens: cost.evaluatedTokens + evaluated,
    flops: cost.flops + activeParameters * (TRAINING * trained + FORWARD * sampled),
    evaluationFlops: cost.evaluationFlops + activeParameters * FORWARD * evaluated,
  };
}

export interface CostLine extends PhaseCost {
  readonly phase: string;
  readonly seconds: number;
  readonly gflopsPerSecond: number;
  /** Null without a stated wattage. */
  readonly wattHours: number | null;
}

export function costLine(
  cost: PhaseCost,
  { phase, seconds, watts }: { phase: string; seconds: number; watts: number | null },
): CostLine {
  const flops = cost.flops + cost.evaluationFlops;
  return {
    ...{ phase, ...cost, seconds },
    gflopsPerSecond: seconds > 0 ? flops / seconds / 1e9 : 0,
    wattHours: watts === null ? null : watts * seconds / 3600,
  };
}

/** For people. */
export function costText(lines: readonly CostLine[], watts: number | null): string {
  const head = ["phase", "trained", "sampled", "evaluated", "TFLOP", "seconds", "GFLOP/s", "Wh"];
  const rows = lines.map((line) => [
    line.phase,
    ...[line.trainedTokens, line.sampledTokens, line.evaluatedTokens].map(String),
    ((line.flops + line.evaluationFlops) / 1e12).toPrecision(3),
    line.seconds.toFixed(1),
    line.gflopsPerSecond.toPrecision(3),
    line.wattHours === null ? "-" : line.wattHours.toPrecision(2),
  ]);
  const widths = head.map((word, i) => Math.max(word.length, ...rows.map((row) => row[i].length)));
  const text = [head, ...rows].map((row) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ")
  ).join("\n");
  const power = watts === null ? "" : `\nEnergy is ${watts} W times seconds, not measured.`;
  return `${text}\nTokens; operations are 2 a token and active parameter forward, 6 trained.${power}\n`;
}
