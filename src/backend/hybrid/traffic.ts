/** What a hybrid backend counts of its two sides' work together. */

export interface HybridTraffic {
  /** Times that plans waited for the device, or handed something back to it. */
  readonly crossings: number;
  /** Mixtures that plans came by at which some of the experts lie on the host. */
  readonly mixtures: number;
  readonly bytesFromDevice: number;
  readonly bytesToDevice: number;
  /** Choices of those mixtures, by where the expert lay. */
  readonly onDevice: number;
  readonly onHost: number;
  /** Time that plans waited for what they read of the device. */
  readonly waitedMilliseconds: number;
  /** Time that the host's experts took; the device goes on meanwhile with what it has. */
  readonly hostMilliseconds: number;
  /** Experts that have been moved to the device since the start. */
  readonly moves: number;
}

/** Counts as they grow. */
export type HybridCounts = { -readonly [K in keyof HybridTraffic]: number };

export function noTraffic(): HybridCounts {
  return {
    crossings: 0,
    mixtures: 0,
    bytesFromDevice: 0,
    bytesToDevice: 0,
    onDevice: 0,
    onHost: 0,
    waitedMilliseconds: 0,
    hostMilliseconds: 0,
    moves: 0,
  };
}
