/** How much memory an engine gives to its KV cache and its logits, from plain numbers. */

import { type KvType, PAGE_TOKENS } from "../backend/backend.ts";
import { kvPageLayout, latentPageLayout, layerPageBytes } from "../backend/kv_layout.ts";
import { OptionError } from "../errors.ts";
import type { ModelConfig } from "../model/types.ts";
import { DEFAULT_KV_TYPE, KV_BUDGET_BYTES, LOGITS_BUDGET_BYTES } from "./limits.ts";
import { pagesFor } from "./pages.ts";
import { MAX_DRAFT } from "./speculation.ts";

export interface SizingOptions {
  readonly config: Pick<
    ModelConfig,
    "layers" | "cacheShape" | "vocabSize" | "contextLength"
  >;
  readonly slots: number;
  readonly chunkTokens: number;
  /** Tokens per sequence that the caller asks for. */
  readonly contextLength?: number;
  /** Bytes for everything, of which the cache gets a quarter at most. */
  readonly memoryBytes?: number;
  /** Bytes for the cache. */
  readonly kvBytes?: number;
  readonly kvType?: KvType;
  readonly speculation?: "off" | "ngram";
}

export interface Sizing {
  /** Tokens a sequence may hold. */
  readonly contextLength: number;
  /** Pages of the KV cache, which the slots share. */
  readonly pages: number;
  /** Rows of a step. */
  readonly maxRows: number;
  /** Rows of a step that may want logits. */
  readonly logitRows: number;
}

/**
 * The asked-for context, or the model's own as far as the cache's budget holds one such sequence. The
 * slots share what the budget buys, so long sequences may have to wait for each other; up to as much
 * again as they could fill is for prefixes that are kept. Throws OptionError for options that are out of
 * range, a context beyond the model's or beyond the cache among them.
 */
export function chooseSizes(options: SizingOptions): Sizing {
  const { config, slots, chunkTokens, contextLength, kvBytes, memoryBytes = Infinity } = options;
  checkPositive("slots", slots);
  checkPositive("chunkTokens", chunkTokens);
  if (contextLength !== undefined) checkPositive("contextLength", contextLength);
  if (contextLength !== undefined && contextLength > config.contextLength) {
    throw new OptionError(
      `cannot open the engine: contextLength is ${contextLength}, must be at most ` +
        `${config.contextLength} (the model's own)`,
    );
  }
  const budget = kvBytes ?? Math.min(KV_BUDGET_BYTES, memoryBytes / 4);
  const pageBytes = cachePageBytes(config, options.kvType ?? DEFAULT_KV_TYPE);
  const budgetPages = Math.floor(budget / pageBytes);
  if (kvBytes !== undefined && budgetPages < pagesFor(contextLength ?? 1)) {
    throw new OptionError(
      `cannot open the engine: kvBytes is ${kvBytes}, must be at least ` +
        `${pagesFor(contextLength ?? 1) * pageBytes} (${contextLength ?? PAGE_TOKENS} tokens)`,
    );
  }
  const held = Math.max(1, budgetPages) * PAGE_TOKENS;
  const context = contextLength ?? Math.min(config.contextLength, held);
  const pagesEach = pagesFor(context);
  const guesses = options.speculation === "ngram" ? MAX_DRAFT : 0;
  const affordableRows = Math.floor(LOGITS_BUDGET_BYTES / (config.vocabSize * 4));
  const maxRows = slots + Math.max(chunkTokens, guesses);
  return {
    contextLength: context,
    pages: Math.min(2 * slots * pagesEach, Math.max(pagesEach, budgetPages)),
    maxRows,
    logitRows: Math.min(maxRows, Math.max(slots + guesses, affordableRows)),
  };
}

/** Bytes of a page of all layers. */
export function cachePageBytes(
  { layers, cacheShape: shape }: Pick<ModelConfig, "layers" | "cacheShape">,
  type: KvType,
): number {
  const layout = "kvHeads" in shape
    ? kvPageLayout({ type, ...shape })
    : latentPageLayout({ type, ...shape });
  return layers * layerPageBytes(layout);
}

function checkPositive(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1 || value > 2 ** 20) {
    throw new OptionError(
      `cannot open the engine: ${name} is ${value}, must be an integer from 1 to ${2 ** 20}`,
    );
  }
}
