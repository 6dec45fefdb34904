/** Who does what: ranks as replicas of a pipeline of stages. */

import { OptionError } from "../../errors.ts";

export interface Grid {
  /** Copies of the model, each with a share of every batch. */
  readonly replicas: number;
  /** Parts of its layers, one behind the other. */
  readonly stages: number;
}

export interface GridPlace {
  readonly replica: number;
  readonly stage: number;
}

/** Ranks of one replica are neighbours. */
export function placeOf({ stages }: Grid, rank: number): GridPlace {
  return { replica: Math.floor(rank / stages), stage: rank % stages };
}

export function rankOf({ stages }: Grid, { replica, stage }: GridPlace): number {
  return replica * stages + stage;
}

/** The ranks of one replica, first stage to last. */
export function pipelineOf(grid: Grid, replica: number): number[] {
  return Array.from({ length: grid.stages }, (_, stage) => rankOf(grid, { replica, stage }));
}

/** The ranks that hold the same stage. */
export function twinsOf(grid: Grid, stage: number): number[] {
  return Array.from({ length: grid.replicas }, (_, replica) => rankOf(grid, { replica, stage }));
}

/** Throws OptionError for a grid that is none. */
export function checkGrid({ replicas, stages }: Grid): void {
  for (const [what, is] of [["replicas", replicas], ["stages", stages]] as const) {
    if (Number.isInteger(is) && is >= 1) continue;
    throw new OptionError(`cannot train together: ${what} are ${is}, must be 1 or more`);
  }
}
