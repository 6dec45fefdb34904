/** Efficiency: steps and words against the shortest solution that is known. */

import type { Reading, Working } from "./reading.ts";

/** A word, a digit or a sign, which is about a token of the tokenizers made here. */
const PIECE = /\p{L}+|[^\s\p{L}]/gu;

/**
 * The mean of two shares, each at most 1: the known solution's steps of those taken, and its pieces of
 * text of those written. 0 where the answer is wrong or nothing was worked out: what solves nothing is
 * not efficient. Null where no solution is known.
 */
export function efficiencyReward({ solution, working, isRight }: Reading): number | null {
  if (solution === null) return null;
  const worked = solution.derivation.supported.size === 0 || working.derivation.supported.size > 0;
  if (isRight !== true || !worked || working.lines.length === 0) return 0;
  const steps = Math.min(1, stepsOf(solution) / stepsOf(working));
  const pieces = Math.min(1, piecesOf(solution) / piecesOf(working));
  return (steps + pieces) / 2;
}

/** A line is a step at least, whether it claims anything or not. */
function stepsOf({ lines }: Working): number {
  return lines.reduce((sum, { claims }) => sum + Math.max(1, claims.length), 0);
}

function piecesOf({ text }: Working): number {
  return text.match(PIECE)?.length ?? 0;
}
