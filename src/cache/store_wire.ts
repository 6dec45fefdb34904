/** What a store's worker and the engines that use it say to each other. */

import type { LoadQuery, StoredUnit } from "./store.ts";
import type { StoreState } from "./types.ts";

/** To the store. */
export type StoreCommand =
  | { readonly type: "load"; readonly id: number; readonly query: Omit<LoadQuery, "signal"> }
  | { readonly type: "abort"; readonly id: number }
  | { readonly type: "save"; readonly unit: StoredUnit }
  | { readonly type: "flush"; readonly id: number }
  /** Answered with the state, as a sign of life. */
  | { readonly type: "ping" };

/** From the store. */
export type StoreReport =
  | { readonly type: "loaded"; readonly id: number; readonly units: readonly StoredUnit[] }
  /** Bytes of a save that have left the port. */
  | { readonly type: "taken"; readonly bytes: number }
  | { readonly type: "flushed"; readonly id: number }
  /** Sent after every change, and while a load is under way. */
  | { readonly type: "state"; readonly state: StoreState };

/** The part of a message port that both sides use. */
export interface StorePort<Sent, Received> {
  postMessage(message: Sent, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent<Received>) => void) | null;
  close(): void;
}
