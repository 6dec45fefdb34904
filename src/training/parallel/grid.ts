/** Who does what: ranks as places on a grid of four axes. */

import { OptionError } from "../../errors.ts";

export interface Grid {
  /** Copies of the model, each with a share of every batch. */
  readonly replicas: number;
  /** Parts of its layers, one behind the other. */
  readonly stages: number;
  /** Parts of each layer's heads and columns, side by side over the same rows; 1 where absent. */
  readonly tensor?: number;
  /** Parts of each layer's experts; each has a share of the batch too. 1 where absent. */
  readonly expert?: number;
}

export type Axis = "replica" | "expert" | "stage" | "tensor";

export type GridPlace = Readonly<Record<Axis, number>>;

/** From the outermost axis to the innermost: those that exchange most are neighbours. */
const AXES = ["replica", "expert", "stage", "tensor"] as const;

/** How many places each axis has. */
export function extentsOf({ replicas, expert = 1, stages, tensor = 1 }: Grid): GridPlace {
  return { replica: replicas, expert, stage: stages, tensor };
}

export function ranksOf(grid: Grid): number {
  return AXES.reduce((product, axis) => product * extentsOf(grid)[axis], 1);
}

export function placeOf(grid: Grid, rank: number): GridPlace {
  const extents = extentsOf(grid);
  let rest = rank;
  const place = { replica: 0, expert: 0, stage: 0, tensor: 0 };
  for (const axis of AXES.toReversed()) {
    place[axis] = rest % extents[axis];
    rest = Math.floor(rest / extents[axis]);
  }
  return place;
}

export function rankOf(grid: Grid, place: GridPlace): number {
  const extents = extentsOf(grid);
  return AXES.reduce((rank, axis) => rank * extents[axis] + place[axis], 0);
}

/** The ranks that differ from a place along these axes only, ascending. */
export function groupOf(grid: Grid, place: GridPlace, axes: readonly Axis[]): number[] {
  return Array.from({ length: ranksOf(grid) }, (_, rank) => rank).filter((rank) => {
    const other = placeOf(grid, rank);
    return AXES.every((axis) => axes.includes(axis) || other[axis] === place[axis]);
  });
}

/** Those that have a share of the batch of their own, and how many there are. */
export function batchShareOf(grid: Grid, rank: number): { index: number; count: number } {
  const { replica: replicas, expert } = extentsOf(grid);
  const place = placeOf(grid, rank);
  return { index: place.replica * expert + place.expert, count: replicas * expert };
}

/** Names of the axes, for people. */
const NAMES: Readonly<Record<Axis, string>> = Object.freeze({
  replica: "replica",
  expert: "expert part",
  stage: "stage",
  tensor: "tensor part",
});

/** "2 replicas, 3 stages": the axes that have more than one place. */
export function gridText(grid: Grid): string {
  const extents = extentsOf(grid);
  const used = AXES.filter((axis) => extents[axis] > 1);
  if (used.length === 0) return "one member";
  return used.map((axis) => `${extents[axis]} ${NAMES[axis]}s`).join(", ");
}

/** "replica 0, stage 1", along those axes. */
export function placeText(grid: Grid, place: GridPlace): string {
  const extents = extentsOf(grid);
  const used = AXES.filter((axis) => extents[axis] > 1);
  return used.map((axis) => `${NAMES[axis]} ${place[axis]}`).join(", ");
}

/** Throws OptionError for a grid that is none. */
export function checkGrid(grid: Grid): void {
  const { replica, expert, stage, tensor } = extentsOf(grid);
  const named = {
    replicas: replica,
    stages: stage,
    "tensor parts": tensor,
    "expert parts": expert,
  };
  for (const [what, is] of Object.entries(named)) {
    if (Number.isInteger(is) && is >= 1) continue;
    throw new OptionError(`cannot train together: ${what} are ${is}, must be 1 or more`);
  }
}
