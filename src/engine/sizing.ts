/** How much memory an engine gives to its KV cache and its logits, from plain numbers. */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { OptionError } from "../errors.ts";
import type { ModelConfig } from "../model/types.ts";
import { KV_BUDGET_BYTES, LOGITS_BUDGET_BYTES } from "./limits.ts";
import { pagesFor } from "./pages.ts";

export interface SizingOptions {
  readonly config: Pick<
    ModelConfig,
    "layers" | "cacheWidth" | "vocabSize" | "contextLength"
  >;
  readonly slots: number;
  readonly chunkTokens: number;
  /** Tokens per sequence that the caller asks for. */
  readonly contextLength?: number;
  /** Bytes for everything, of which the cache gets a quarter at most. */
  readonly memoryBytes?: number;
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
 * The asked-for context, or the model's own as far as the cache's budget holds one such sequence.
 * The slots share what the budget buys, so long sequences may have to wait for each other. Throws
 * OptionError for options that are out of range, a context beyond the model's among them.
 */
export function chooseSizes(options: SizingOptions): Sizing {
  const { config, slots, chunkTokens, contextLength, memoryBytes = Infinity } = options;
  checkPositive("slots", slots);
  checkPositive("chunkTokens", chunkTokens);
  if (contextLength !== undefined) checkPositive("contextLength", contextLength);
  if (contextLength !== undefined && contextLength > config.contextLength) {
    throw new OptionError(
      `cannot open the engine: contextLength is ${contextLength}, must be at most ` +
        `${config.contextLength} (the model's own)`,
    );
  }
  // In float32; a backend that keeps them smaller only needs less.
  const pageBytes = PAGE_TOKENS * config.layers * config.cacheWidth * 4;
  const budgetPages = Math.max(
    1,
    Math.floor(Math.min(KV_BUDGET_BYTES, memoryBytes / 4) / pageBytes),
  );
  const context = contextLength ?? Math.min(config.contextLength, budgetPages * PAGE_TOKENS);
  const pagesEach = pagesFor(context);
  const affordableRows = Math.floor(LOGITS_BUDGET_BYTES / (config.vocabSize * 4));
  return {
    contextLength: context,
    pages: Math.min(slots * pagesEach, Math.max(pagesEach, budgetPages)),
    maxRows: slots + chunkTokens,
    logitRows: Math.min(slots + chunkTokens, Math.max(slots, affordableRows)),
  };
}

function checkPositive(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1 || value > 2 ** 20) {
    throw new OptionError(
      `cannot open the engine: ${name} is ${value}, must be an integer from 1 to ${2 ** 20}`,
    );
  }
}
