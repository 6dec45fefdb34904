/**
 * Where layers begin and end in a trace, without being told: a layer begins at the last point before the
 * first op on its cache at which everything that later ops read is one value, the residual stream.
 */

import type { Node } from "./node.ts";
import { madeBy, neededBy, type Value } from "./value.ts";

/** Nodes from `start` up to `end`. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** A layer, and the residual stream before and after it. */
export interface LayerRange extends Range {
  readonly input: Value;
  readonly output: Value;
}

/** The layers of a trace, first to last; what comes before and after them belongs to none. */
export function layersOf(nodes: readonly Node[]): LayerRange[] {
  const cuts = cutsOf(nodes);
  const starts: Cut[] = [];
  for (const [at, { layer }] of nodes.entries()) {
    if (layer === undefined) continue;
    const start = cuts.findLast((cut) => cut.at <= at);
    if (start !== undefined && start.at > (starts.at(-1)?.at ?? -1)) starts.push(start);
  }
  if (starts.length === 0) return [];
  // What is gathered for the logits is one value too, but no longer the stream.
  const stream = starts[0].value.handle;
  const last = cuts.findLast(({ value }) => value.handle === stream)!;
  return starts.map(({ at, value }, i) => {
    const next = starts[i + 1] ?? last;
    return { start: at, end: next.at, input: value, output: next.value };
  });
}

interface Cut {
  /** Before which node. */
  readonly at: number;
  readonly value: Value;
}

/** Points at which one value made before is all that is read after. */
function cutsOf(nodes: readonly Node[]): Cut[] {
  const madeAt = new Map<Value, number>();
  const lastRead = new Map<Value, number>();
  for (const [i, { forward }] of nodes.entries()) {
    // All ways of a step read the same.
    for (const value of forward.flatMap(neededBy)) lastRead.set(value, i);
    for (const value of forward.flatMap(madeBy)) madeAt.set(value, i);
  }
  const cuts: Cut[] = [];
  for (let at = 1; at < nodes.length; at++) {
    const live = [...madeAt].filter(([value, made]) =>
      made < at && (lastRead.get(value) ?? -1) >= at
    );
    if (live.length === 1) cuts.push({ at, value: live[0][0] });
  }
  return cuts;
}
