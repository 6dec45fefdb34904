/** Which experts lie on the GPU: those that tokens choose most, as far as the memory goes. */

import type { HybridPlacement } from "../backend/hybrid/placement.ts";

/** A layer with routed experts, all of one size. */
export interface ResidentLayer {
  /** Its number in the model. */
  readonly layer: number;
  /** Bytes of one expert on the GPU, above 0. */
  readonly expertBytes: number;
  /** By expert: how likely a token chooses it. */
  readonly probabilities: ArrayLike<number>;
}

export interface ResidentsRequest {
  readonly layers: readonly ResidentLayer[];
  /** Bytes for experts. */
  readonly budgetBytes: number;
  /** So many layers have all of theirs there, which spares them the way to the CPU. */
  readonly wholeLayers: number;
}

/**
 * First whole layers, those whose experts are chosen most evenly, for there the hottest few would serve
 * least; then the hottest experts of all others. Of equals each layer gets as many as the next one, give
 * or take one. Throws RangeError where so many whole layers don't fit.
 */
export function chooseResidents(
  { layers, budgetBytes, wholeLayers }: ResidentsRequest,
): HybridPlacement {
  const byEvenness = [...layers].sort((a, b) => unevenness(a) - unevenness(b) || a.layer - b.layer);
  const whole = byEvenness.slice(0, wholeLayers);
  let room = budgetBytes - whole.reduce((sum, layer) => sum + bytesOf(layer), 0);
  if (whole.length < wholeLayers || room < 0) {
    throw new RangeError(
      `cannot choose resident experts: ${wholeLayers} of ${layers.length} layers are to be whole, ` +
        `must fit into ${budgetBytes} bytes`,
    );
  }
  const chosen = new Map(layers.map(({ layer }) => [layer, [] as number[]]));
  for (const { layer, probabilities } of whole) {
    chosen.set(layer, Array.from(probabilities, (_, expert) => expert));
  }
  const candidates = byEvenness.slice(wholeLayers).flatMap((layer) =>
    hottestFirst(layer.probabilities).map((expert, rank) => ({
      layer: layer.layer,
      expert,
      rank,
      bytes: layer.expertBytes,
      worth: layer.probabilities[expert] / layer.expertBytes,
    }))
  );
  candidates.sort((a, b) => b.worth - a.worth || a.rank - b.rank || a.layer - b.layer);
  for (const { layer, expert, bytes } of candidates) {
    if (bytes > room) continue;
    room -= bytes;
    chosen.get(layer)!.push(expert);
  }
  return { layers: [...chosen].map(([layer, resident]) => ({ layer, resident })) };
}

/** The most whole layers that fit, beginning with those that `chooseResidents` would take. */
export function mostWholeLayers({ layers, budgetBytes }: Omit<ResidentsRequest, "wholeLayers">) {
  const sizes = [...layers]
    .sort((a, b) => unevenness(a) - unevenness(b) || a.layer - b.layer)
    .map(bytesOf);
  let count = 0;
  let room = budgetBytes;
  while (count < sizes.length && sizes[count] <= room) room -= sizes[count++];
  return count;
}

/** Ids by falling probability, equals by their number. */
function hottestFirst(probabilities: ArrayLike<number>): number[] {
  return Array.from(probabilities, (_, expert) => expert)
    .sort((a, b) => probabilities[b] - probabilities[a] || a - b);
}

/** The sum of squares of the probabilities: least where all are equal. */
function unevenness({ probabilities }: ResidentLayer): number {
  return Array.from(probabilities).reduce((sum, p) => sum + p * p, 0);
}

function bytesOf({ expertBytes, probabilities }: ResidentLayer): number {
  return expertBytes * probabilities.length;
}
