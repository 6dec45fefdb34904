/** The loss that keeps experts in balance, over a step's rows. */

import { CLOCK, TOTALS } from "../../training.ts";
import type { BalanceParams } from "../../training_params.ts";
import { floats, integers } from "../memory.ts";
import { rowOf } from "../recorder.ts";
import { addBalance, fractionsOf } from "./gate.ts";

interface Choices {
  readonly expertIds: Int32Array;
  readonly topK: number;
  readonly experts: number;
  readonly rows: number;
}

/** Called when the choices are made, gives what adds a row's share where its scores are known. */
export function balanceLoss(balance: BalanceParams, choices: Choices) {
  const [rowWeights, clock, totals] = [balance.rowWeights, balance.clock, balance.totals]
    .map(floats);
  const positions = integers(balance.positions);
  return () => {
    const fractions = balance.over === "batch"
      ? batchFractions(rowWeights, choices)
      : sequenceFractions(positions, choices);
    let loss = 0;
    return {
      add(t: number, { scores, gradient }: { scores: Float64Array; gradient: Float64Array }): void {
        if (rowWeights[t] === 0) return;
        const factor = rowWeights[t] * clock[CLOCK.lossScale];
        const share = { fractions: fractions[t], factor, scoresGradient: gradient };
        loss += rowWeights[t] * addBalance(scores, share);
      },
      finish(): void {
        totals[TOTALS.balance] += loss;
      },
    };
  };
}

/** Of each row, the fractions of its sequence. */
function sequenceFractions(positions: Int32Array, choices: Choices): Float64Array[] {
  const { expertIds, rows } = choices;
  const perRow: Float64Array[] = [];
  for (let start = 0; start < rows;) {
    let end = start + 1;
    while (end < rows && positions[end] !== 0) end++;
    const fractions = fractionsOf(expertIds, { ...choices, start, end });
    while (start < end) perRow[start++] = fractions;
  }
  return perRow;
}

/** Of each row, those of all rows that count. */
function batchFractions(
  rowWeights: Float32Array,
  { expertIds, topK, experts, rows }: Choices,
): Float64Array[] {
  const counting = Array.from({ length: rows }, (_, t) => t).filter((t) => rowWeights[t] !== 0);
  const ids = Int32Array.from(counting.flatMap((t) => Array.from(rowOf(expertIds, t, topK))));
  const fractions = fractionsOf(ids, { start: 0, end: counting.length, topK, experts });
  return new Array<Float64Array>(rows).fill(fractions);
}
