/** Checks of a request against an engine's limits, before it is queued. */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { CapacityError, RequestError } from "../errors.ts";
import { validateSampling } from "../sampling/validate.ts";
import { pagesFor } from "./pages.ts";
import type { GenerateRequest } from "./types.ts";

/** Alternatives per token at most; the list is kept sorted by insertion. */
const MAX_TOP_LOGPROBS = 1000;

const MAX_PRIORITY = 2 ** 31;

/** What a timer can wait for. */
const MAX_DEADLINE_MS = 2 ** 31 - 1;

export interface RequestLimits {
  readonly vocabSize: number;
  readonly contextLength: number;
  /** Pages of the KV cache. */
  readonly pages: number;
  /** The model has routed experts. */
  readonly routes: boolean;
}

/** What a checked request comes to. */
export interface RequestPlan {
  /** Tokens to generate at most, within the context. */
  readonly maxTokens: number;
  /** Tokens of prompt and answer at most. */
  readonly totalTokens: number;
}

/**
 * Throws RequestError for wrong fields and prompts longer than the context, CapacityError where the
 * KV cache is too small for the request even when nothing else runs.
 */
export function checkRequest(request: GenerateRequest, limits: RequestLimits): RequestPlan {
  const { tokens, stopTokens, topLogprobs } = request;
  const { vocabSize, contextLength, pages, routes } = limits;
  if (tokens.length === 0) throw wrong("prompt", "its tokens are none", "at least one");
  checkIds(tokens, { param: "prompt", vocabSize });
  checkIds(stopTokens, { param: "stop", vocabSize });
  checkCount(request.maxTokens, "max_tokens");
  if (topLogprobs !== undefined) checkCount(topLogprobs, "top_logprobs", MAX_TOP_LOGPROBS);
  validateSampling(request.sampling, vocabSize);
  checkInteger(request.priority, { param: "priority", least: -MAX_PRIORITY, most: MAX_PRIORITY });
  checkInteger(request.deadlineMs, { param: "deadline_ms", least: 1, most: MAX_DEADLINE_MS });
  if (request.routedExperts !== undefined && !routes) throw noRoutedExperts();
  const longest = request.maxTokens > 0 ? contextLength - 1 : contextLength;
  if (tokens.length > longest) {
    const room = request.maxTokens > 0 ? " with room for an answer" : "";
    throw new RequestError(
      `cannot generate: the prompt is ${tokens.length} tokens, must be at most ${longest} ` +
        `(the context length is ${contextLength}${room})`,
      { param: "prompt", code: "context_length_exceeded" },
    );
  }
  const totalTokens = Math.min(tokens.length + request.maxTokens, contextLength);
  if (pagesFor(totalTokens) > pages) {
    throw new CapacityError(
      `cannot generate: prompt and answer are up to ${totalTokens} tokens, must be at most ` +
        `${pages * PAGE_TOKENS} (what the KV cache holds)`,
    );
  }
  return { maxTokens: totalTokens - tokens.length, totalTokens };
}

/** The refusal of a request that asks a dense model for its routing. */
export function noRoutedExperts(): RequestError {
  return new RequestError(
    "cannot return routed experts: the model is dense, must be a mixture of experts",
    { param: "return_routed_experts", code: "no_routed_experts" },
  );
}

function checkIds(
  ids: readonly number[],
  { param, vocabSize }: { param: string; vocabSize: number },
): void {
  for (const id of ids) {
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw wrong(param, `a token id is ${id}`, `an integer from 0 to ${vocabSize - 1}`);
    }
  }
}

function checkCount(value: number, param: string, most = Number.MAX_SAFE_INTEGER): void {
  if (Number.isSafeInteger(value) && value >= 0 && value <= most) return;
  const range = most === Number.MAX_SAFE_INTEGER ? "0 or more" : `from 0 to ${most}`;
  throw wrong(param, `${param} is ${value}`, `an integer, ${range}`);
}

function checkInteger(
  value: number | undefined,
  { param, least, most }: { param: string; least: number; most: number },
): void {
  if (value === undefined) return;
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw wrong(param, `${param} is ${value}`, `an integer from ${least} to ${most}`);
}

function wrong(param: string, is: string, must: string): RequestError {
  return new RequestError(`cannot generate: ${is}, must be ${must}`, { param });
}
