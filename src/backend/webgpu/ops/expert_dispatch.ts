/** What kernels for tiles of one expert's pairs share. */

import type { Binding, Dispatch } from "../kernel.ts";
import type { GpuWeight } from "../memory.ts";
import { type ExpertRange, expertsBefore } from "./expert_ranges.ts";
import { type Schedule, TILE_WORDS } from "./expert_sort.ts";
import type { ExpertInput } from "./experts.ts";
import { inputBinding } from "./products.ts";
import { partBindings } from "./weights.ts";

export interface ExpertTiles {
  readonly label: string;
  readonly schedule: Schedule;
  readonly range: ExpertRange;
  readonly input: ExpertInput;
  /** Row of records that the first pair's is, or belongs to. */
  readonly firstRow: number;
  /** WGSL of a pair's row of records; may use `params.firstRow`. */
  readonly record: (pair: string) => string;
  /** Of each expert's matrix. */
  readonly rows: number;
  readonly cols: number;
  readonly matrices: readonly GpuWeight[];
  readonly bindings: readonly Binding[];
  /** f32 [pairs, rows] */
  readonly out: GPUBuffer;
  readonly helpers: string;
  /** WGSL of what is written for the sums of `column`; may use `id`, the expert's. */
  readonly value: (sums: string[]) => string;
}

/** A dispatch for every tile of the schedule, with so many workgroups each. */
export function expertDispatch(
  options: ExpertTiles,
  { groups, code }: { groups: number; code: string },
): Dispatch {
  const { schedule, range, input, rows, cols, matrices } = options;
  return {
    label: options.label,
    bindings: [
      ...matrices.flatMap((weight, m) => partBindings(`w${m}`, weight, range.parts[m])),
      inputBinding({ ...input, cols, width: cols, rows }),
      { name: "schedule", buffer: schedule.memory, type: "array<u32>" },
      ...options.bindings,
      { name: "out", buffer: options.out, write: true },
    ],
    params: {
      tiles: schedule.tiles,
      firstRow: options.firstRow,
      first: range.first,
      experts: range.end - range.first,
      ...Object.fromEntries(
        range.parts.map((part, m) => [`before${m}`, expertsBefore(range, part, rows)]),
      ),
    },
    workgroups: schedule.tiles * groups,
    code,
  };
}

/** WGSL statements that find `id`, `expert` within the range, and the `count` of pairs of tile `tile`. */
export const FIND_TILE = `
  if (tile >= params.tiles) { return; }
  let id = schedule[tile * ${TILE_WORDS}u];
  let count = schedule[tile * ${TILE_WORDS}u + 2u];
  let expert = id - params.first;
  if (count == 0u || expert >= params.experts) { return; }
  let firstPair = params.tiles * ${TILE_WORDS}u + schedule[tile * ${TILE_WORDS}u + 1u];`;

/** WGSL of a pair of the tile that FIND_TILE has found, the last one where it has fewer. */
export function pairOf(t: string): string {
  return `schedule[firstPair + min(${t}, count - 1u)]`;
}

/** The same, and `pairs` in workgroup memory. */
export function findTile(tokens: number, threads: number): string {
  return `${FIND_TILE}
  for (var i = lane; i < ${tokens}u; i += ${threads}u) {
    pairs[i] = schedule[firstPair + min(i, count - 1u)];
  }
  workgroupBarrier();`;
}
