/** How long and how much a client may take before its connection is closed. */

export interface ServerLimits {
  /** Milliseconds for the whole request head to arrive. */
  readonly headerMs: number;
  /** Milliseconds for the whole request, body included, to arrive. */
  readonly requestMs: number;
  /** Milliseconds a client may leave written bytes unread while more are waiting. */
  readonly writeStallMs: number;
  /** Milliseconds a connection may stay open between requests. */
  readonly idleMs: number;
  /** Milliseconds during which the rest of a refused request is read and thrown away. */
  readonly lingerMs: number;
  /** How often header and request deadlines are looked at, in milliseconds. */
  readonly checkMs: number;
  /** Open connections; a new one beyond them closes the one that has been idle longest. */
  readonly connections: number;
}

/** A slow head is closed within 15 s, a slow body or a client that never reads within 60 s. */
export const DEFAULT_SERVER_LIMITS: ServerLimits = Object.freeze({
  headerMs: 12_000,
  requestMs: 50_000,
  writeStallMs: 50_000,
  idleMs: 60_000,
  lingerMs: 2_000,
  checkMs: 1_000,
  connections: 4_096,
});
