/**
 * Whose prefixes a request may share. A tenant is an HMAC, so that its name tells nothing of the key
 * or the user, and nobody without the key's hash can make one.
 */

import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";
import type { ApiKey } from "./api_keys.ts";

/** In place of a key's hash where no keys are set: there, tenants part users who mean no harm. */
const NO_KEY = "sluice: no API keys";

export interface TenantParts {
  readonly key?: ApiKey;
  /** `user_id` and `user` of the request. */
  readonly userId?: string;
  readonly user?: string;
  readonly cacheSalt?: string;
}

/** 64 hexadecimal digits; the same parts give the same ones in every process. */
export function tenantOf({ key, userId, user, cacheSalt }: TenantParts): string {
  // JSON keeps apart what is absent, what is empty, and where one text ends and the next begins.
  const message = JSON.stringify([userId ?? null, user ?? null, cacheSalt ?? null]);
  return bytesToHex(hmac(sha256, key?.hash ?? utf8ToBytes(NO_KEY), utf8ToBytes(message)));
}
