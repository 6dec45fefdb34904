/**
 * The hash chain that names units of the prefix cache. A key stands for the model, the kind of numbers,
 * the tenant and every token up to the unit's end, so entries are interchangeable exactly if keys are
 * equal.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes, utf8ToBytes } from "@noble/hashes/utils.js";

/** Changes whenever the meaning of an entry's bytes does. */
const LAYOUT = "sluice-units-1";

export interface ChainRoot {
  /** Names the checkpoint's content. */
  readonly model: string;
  /** Precision of activations, and the backend's `numerics`. */
  readonly numerics: string;
  readonly kvType: string;
  readonly tenant: string;
}

/** The key before the first unit, hex. */
export function rootKey({ model, numerics, kvType, tenant }: ChainRoot): string {
  return bytesToHex(sha256(utf8ToBytes(JSON.stringify([LAYOUT, model, numerics, kvType, tenant]))));
}

/** The key of the unit that holds `tokens` behind the one of `parent`, hex. */
export function chainKey(parent: string, tokens: ArrayLike<number>): string {
  const bytes = new Uint8Array(32 + 4 * tokens.length);
  bytes.set(hexToBytes(parent));
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < tokens.length; i++) view.setUint32(32 + 4 * i, tokens[i], true);
  return bytesToHex(sha256(bytes));
}
