/**
 * How long a step takes by bytes, operations and waits: on the CPU alone, on the GPU alone, and on both.
 * Kernels are taken to be bound by memory or by arithmetic, whichever takes longer at the measured rates.
 *
 * On both, a layer with experts on the CPU is one round: the host waits for what the gate has chosen, and
 * computes its experts while the GPU computes the shared expert and the experts that are resident; its
 * sum goes back behind that, without a wait. Layers whose experts are all resident have no such round.
 */

import type { HybridModel, HybridModelLayer, Weights } from "./hybrid_model.ts";
import { NOTHING } from "./hybrid_model.ts";
import { chosenByAny } from "./routing_counts.ts";

/** What each side does in a second. */
export interface Rates {
  readonly device: {
    /** Weights that are read. */
    readonly bytesPerSecond: number;
    /** Multiplications and additions. */
    readonly operationsPerSecond: number;
    /** What a layer takes however little it computes: its dispatches, one behind the other. */
    readonly layerSeconds: number;
  };
  readonly host: {
    readonly threads: number;
    readonly bytesPerSecond: number;
    readonly operationsPerSecond: number;
    /** What a layer's experts take besides where they come alone: a submission, and threads that wake. */
    readonly roundSeconds: number;
  };
  /**
   * What the host waits at least for anything that the GPU computes. It looks so often, and so notices longer
   * work half of it late on average.
   */
  readonly crossingSeconds: number;
}

export interface StepShape {
  readonly rows: number;
  /** Rows whose logits are wanted. */
  readonly logitRows: number;
  /** Tokens whose keys and values are read, those of all sequences together. */
  readonly cachedTokens: number;
}

/** A layer's experts with how likely a token chooses them, and which lie on the GPU. */
export interface LayerExperts {
  readonly probabilities: ArrayLike<number>;
  readonly resident: ReadonlySet<number>;
}

/** What a step reads and computes of some weights. */
interface Load {
  readonly bytes: number;
  readonly operations: number;
}

export interface HybridStep {
  readonly seconds: number;
  /** Of these, seconds in which the host waits, and in which it computes. */
  readonly waitSeconds: number;
  readonly hostSeconds: number;
  /** Bytes of weights that each side reads. */
  readonly deviceBytes: number;
  readonly hostBytes: number;
}

/** A step with experts on both sides; `experts` by the layers' numbers. */
export function hybridStep(
  model: HybridModel,
  { shape, rates, experts }: {
    shape: StepShape;
    rates: Rates;
    experts: ReadonlyMap<number, LayerExperts>;
  },
): HybridStep {
  const { rows } = shape;
  let [waitSeconds, hostSeconds, deviceBytes, hostBytes] = [0, 0, 0, 0];
  /** Seconds of work that the GPU has been given and not done. */
  let queued = 0;
  const queue = (load: Load) => {
    queued += deviceSeconds(load, rates);
    deviceBytes += load.bytes;
  };
  const wait = () => {
    waitSeconds += waitFor(queued, rates);
    queued = 0;
  };
  for (const layer of model.layers) {
    queued += rates.device.layerSeconds;
    queue(dense(layer.before, "deviceBytes", rows));
    queue(cacheLoad(model, shape));
    const { resident, away } = expertLoads(layer, { rows, experts: experts.get(layer.layer) });
    if (away !== null) wait();
    queue(dense(layer.beside, "deviceBytes", rows));
    queue(resident);
    if (away === null) continue;
    const seconds = rates.host.roundSeconds + hostTime(away, rates);
    hostSeconds += seconds;
    hostBytes += away.bytes;
    queued = Math.max(0, queued - seconds);
  }
  queue(dense(model.head, "deviceBytes", shape.logitRows));
  wait();
  return { seconds: waitSeconds + hostSeconds, waitSeconds, hostSeconds, deviceBytes, hostBytes };
}

/** Seconds of a step on the CPU alone. */
export function hostStep(
  model: HybridModel,
  { shape, rates, experts }: {
    shape: StepShape;
    rates: Rates;
    experts: ReadonlyMap<number, LayerExperts>;
  },
): number {
  const { rows } = shape;
  const loads = model.layers.flatMap((layer) => [
    dense(layer.before, "hostBytes", rows),
    dense(layer.beside, "hostBytes", rows),
    expertLoad(layer, {
      rows,
      bytes: "hostBytes",
      probabilities: experts.get(layer.layer)?.probabilities ?? [],
    }),
    cacheLoad(model, shape),
  ]);
  loads.push(dense(model.head, "hostBytes", shape.logitRows));
  return loads.reduce((sum, load) => sum + hostTime(load, rates), 0);
}

/**
 * Seconds of a step on the GPU alone; `stepsPerWait` is how many run one behind the other before the host
 * waits for them.
 */
export function deviceStep(
  model: HybridModel,
  { shape, rates, experts, stepsPerWait }: {
    shape: StepShape;
    rates: Rates;
    experts: ReadonlyMap<number, LayerExperts>;
    stepsPerWait: number;
  },
): number {
  const all = new Map(
    [...experts].map(([layer, { probabilities }]) => {
      const resident = new Set(Array.from(probabilities, (_, id) => id));
      return [layer, { probabilities, resident }];
    }),
  );
  const free = { ...rates, crossingSeconds: 0 };
  const { seconds } = hybridStep(model, { shape, rates: free, experts: all });
  return waitFor(seconds * stepsPerWait, rates) / stepsPerWait;
}

/** Layers whose experts do not all lie on the GPU. */
export function crossingLayers(experts: ReadonlyMap<number, LayerExperts>): number {
  return [...experts.values()]
    .filter(({ probabilities, resident }) => resident.size < probabilities.length)
    .length;
}

/** Loads of a layer's experts on the GPU and on the CPU; null where none are there. */
function expertLoads(
  layer: HybridModelLayer,
  { rows, experts }: { rows: number; experts: LayerExperts | undefined },
): { resident: Load; away: Load | null } {
  if (experts === undefined) return { resident: { bytes: 0, operations: 0 }, away: null };
  const { probabilities, resident } = experts;
  const all = Array.from(probabilities);
  const here = all.filter((_, id) => resident.has(id));
  const away = all.filter((_, id) => !resident.has(id));
  return {
    resident: expertLoad(layer, { rows, bytes: "deviceBytes", probabilities: here }),
    away: away.length === 0
      ? null
      : expertLoad(layer, { rows, bytes: "hostBytes", probabilities: away }),
  };
}

/** What is read of experts that are chosen with such probabilities, once however many rows choose them. */
function expertLoad(
  { routed }: HybridModelLayer,
  { rows, bytes, probabilities }: {
    rows: number;
    bytes: "hostBytes" | "deviceBytes";
    probabilities: ArrayLike<number>;
  },
): Load {
  const each = routed?.each ?? NOTHING;
  let [read, chosen] = [0, 0];
  for (let i = 0; i < probabilities.length; i++) {
    read += chosenByAny(probabilities[i], rows);
    chosen += rows * probabilities[i];
  }
  return { bytes: each[bytes] * read, operations: 2 * each.parameters * chosen };
}

function dense(weights: Weights, bytes: "hostBytes" | "deviceBytes", rows: number): Load {
  return rows === 0
    ? { bytes: 0, operations: 0 }
    : { bytes: weights[bytes], operations: 2 * weights.parameters * rows };
}

/** A layer's share of the cache. */
function cacheLoad({ cacheBytesPerToken, layers }: HybridModel, { cachedTokens }: StepShape): Load {
  return { bytes: cacheBytesPerToken / layers.length * cachedTokens, operations: 0 };
}

function deviceSeconds({ bytes, operations }: Load, { device }: Rates): number {
  return Math.max(bytes / device.bytesPerSecond, operations / device.operationsPerSecond);
}

function hostTime({ bytes, operations }: Load, { host }: Rates): number {
  return Math.max(bytes / host.bytesPerSecond, operations / host.operationsPerSecond);
}

/** How long the host waits for so many seconds of work. */
function waitFor(seconds: number, { crossingSeconds }: Rates): number {
  return Math.max(crossingSeconds, seconds + crossingSeconds / 2);
}
