/** What holds where an option says nothing. */

import type { KvType } from "../backend/backend.ts";

/** How keys and values are kept. */
export const DEFAULT_KV_TYPE: KvType = "f16";

/** Prompt tokens of a step beside answers: more would make those wait noticeably for their next token. */
export const MIXED_TOKENS = 32;

/**
 * Prompt tokens of a step where a GPU and the CPU take turns: each step waits for the GPU once a layer,
 * whatever it computes.
 */
export const HYBRID_CHUNK_TOKENS = 512;

/** Requests that may wait for a slot. */
export const DEFAULT_MAX_WAITING = 256;

/** How long `close` lets requests finish, in milliseconds. */
export const DEFAULT_GRACE_MS = 5000;

/** Bytes the KV cache may take, unless a single sequence of the asked-for context needs more. */
export const KV_BUDGET_BYTES = 2 ** 30;

/** Bytes the rows of logits may take, as long as every slot has one. */
export const LOGITS_BUDGET_BYTES = 8 * 2 ** 20;
