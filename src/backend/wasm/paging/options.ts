/** How much memory paged experts get, and how they are paged. */

import type { PolicyName } from "../../../experts/policy.ts";

export interface PagingOptions {
  /** Bytes of experts that stay in memory. */
  readonly cacheBytes?: number;
  /** Instead: bytes that the whole process may take; experts get what the rest leaves. */
  readonly memoryBytes?: number;
  /** What the process holds now, for `memoryBytes`. */
  readonly processBytes?: () => number;
  /** DEFAULT_POLICY where nothing is said. */
  readonly policy?: PolicyName;
  /** Whether experts are fetched ahead; by default as far as that is measured to pay. */
  readonly lookAhead?: boolean;
  /** Threads that read beside the one that runs plans; 1 by default, and at least that for URLs. */
  readonly readers?: number;
}

/** What the process is going to take beyond what it holds when the slots are made: code, stacks, garbage. */
const HEADROOM_BYTES = 24 * 2 ** 20;

/** Bytes for resident experts; `kvBytes` are spoken for but not yet held. */
export function cacheBytesOf(options: PagingOptions, { kvBytes }: { kvBytes: number }): number {
  if (options.cacheBytes !== undefined) return options.cacheBytes;
  const { memoryBytes = Infinity, processBytes = () => 0 } = options;
  return memoryBytes - processBytes() - kvBytes - HEADROOM_BYTES;
}
