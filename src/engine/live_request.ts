/** A request from its submission to its last event: what is known of it, and its events. */

import { CHOSEN_NONE, CHOSEN_NOT_FINITE } from "../backend/backend.ts";
import { type Candidates, noneLeft, notFinite } from "../sampling/candidates.ts";
import { tokenLogprobs } from "../sampling/logprobs.ts";
import { Sampler } from "../sampling/sampler.ts";
import type { Choices } from "./choosing.ts";
import type { EventSink } from "./event_stream.ts";
import { PairIndex } from "./lookup.ts";
import { RoutingRows, type StepRouting } from "./routing.ts";
import type { StepRow } from "./schedule.ts";
import { Acceptance } from "./speculation.ts";
import type {
  CachedTokens,
  EngineInfo,
  FinishReason,
  GenerateRequest,
  SpeculationCounts,
  Timings,
  TokenLogprob,
} from "./types.ts";

type PromptLogprob = { chosen: TokenLogprob; top: TokenLogprob[] } | null;

export interface LiveRequestOptions {
  readonly id: number;
  readonly request: GenerateRequest;
  /** Tokens to generate at most, within the context. */
  readonly maxTokens: number;
  readonly sink: EventSink;
  readonly candidates: Candidates;
  readonly info: EngineInfo;
  /** Keep an index of its tokens to guess by. */
  readonly speculates: boolean;
  /** Called once when the request has ended, however. */
  readonly release: () => void;
}

/** What a computed row brought. */
export interface RowResult {
  readonly row: StepRow;
  /** The row's place in the step. */
  readonly index: number;
  /** Null for a row that wanted none. */
  readonly logits: Float32Array | null;
  /** The token that the backend has chosen behind the row, in a burst. */
  readonly chosen?: number;
  readonly routing: StepRouting | null;
}

export class LiveRequest {
  readonly id: number;
  readonly request: GenerateRequest;
  readonly acceptance = new Acceptance();
  readonly release: () => void;
  /** Tokens of the answer so far. */
  generated = 0;
  restoreMs = 0;
  readonly #options: LiveRequestOptions;
  readonly #stopTokens: ReadonlySet<number>;
  readonly #sampler: Sampler;
  readonly #pairs: PairIndex | null;
  readonly #promptLogprobs: PromptLogprob[] | null;
  readonly #promptRouting: RoutingRows | null;
  readonly #submittedAt = performance.now();
  /** Rows that have been taken; a sequence that gave way has some of them computed again. */
  #rowsTaken = 0;
  #cached: CachedTokens = { memory: 0, store: 0 };
  #speculation: SpeculationCounts = { drafted: 0, accepted: 0 };
  #startedAt: number | null = null;
  #promptAt: number | null = null;

  constructor(options: LiveRequestOptions) {
    const { request, candidates, info } = options;
    this.#options = options;
    this.id = options.id;
    this.request = request;
    this.release = options.release;
    this.#stopTokens = new Set(request.stopTokens);
    this.#sampler = new Sampler({ params: request.sampling, prompt: request.tokens, candidates });
    this.#pairs = options.speculates ? new PairIndex(request.tokens, info) : null;
    this.#promptLogprobs = scoresPrompt(request) ? [null] : null;
    this.#promptRouting = request.routedExperts === "all"
      ? new RoutingRows(info.routedLayers, request.tokens.length)
      : null;
  }

  /** Tokens that may still be generated. */
  get tokensLeft(): number {
    return this.#options.maxTokens - this.generated;
  }

  /** What its tokens are chosen by. */
  get choices(): Choices {
    return this.#sampler;
  }

  /** Guesses for the next tokens. */
  guess(most: number): number[] {
    return this.#pairs?.guess(most) ?? [];
  }

  fail(error: unknown): void {
    this.#options.sink.fail(error);
  }

  /** The first step that works on the request begins. */
  start(cached: CachedTokens): void {
    this.#startedAt = performance.now();
    this.#cached = cached;
    this.#rowsTaken = cached.memory + cached.store;
    this.#options.sink.push({ type: "started", cached });
  }

  /** Counts the guesses of a step of which the first `accepted` were right. */
  countDraft({ drafted, accepted }: SpeculationCounts): void {
    this.acceptance.add({ drafted, accepted });
    this.#speculation = {
      drafted: this.#speculation.drafted + drafted,
      accepted: this.#speculation.accepted + accepted,
    };
  }

  /**
   * Does what follows from a computed row: a prompt token's score, a token's routing, the end of the
   * prompt, a token. Returns the chosen token, or why the answer ends here; null where it goes on without.
   */
  takeRow({ row, index, logits, chosen, routing }: RowResult): RowOutcome | null {
    if (row.position < this.#rowsTaken) return null;
    this.#rowsTaken++;
    if (routing !== null && wantsRouting(this.request, row.position)) {
      this.#takeRouting({ row, index, routing });
    }
    const { tokens, topLogprobs: top = 0 } = this.request;
    const lastOfPrompt = tokens.length - 1;
    if (row.position < lastOfPrompt) {
      if (logits !== null) {
        const token = tokens[row.position + 1];
        this.#promptLogprobs?.push(tokenLogprobs(logits, { token, top }));
      }
      return null;
    }
    if (row.position === lastOfPrompt) this.#endPrompt();
    if (chosen !== undefined) return this.#takeChosen(chosen);
    return logits === null ? { ends: "length" } : this.#chooseToken(logits);
  }

  finish(reason: FinishReason, stopToken?: number): void {
    this.#options.sink.push({
      type: "done",
      reason,
      ...(stopToken === undefined ? {} : { stopToken }),
      promptTokens: this.request.tokens.length,
      completionTokens: this.generated,
      cached: this.#cached,
      speculation: this.#speculation,
      timings: this.#timings(),
    });
  }

  #takeRouting(
    { row, index, routing }: { row: StepRow; index: number; routing: StepRouting },
  ): void {
    if (row.position < this.request.tokens.length) {
      this.#promptRouting?.push(routing, index);
      return;
    }
    const one = new RoutingRows(this.#options.info.routedLayers, 1);
    one.push(routing, index);
    this.#options.sink.push({ type: "routing", routing: one.take() });
  }

  #endPrompt(): void {
    this.#promptAt = performance.now();
    this.#options.sink.push({
      type: "prompt",
      ...(this.#promptLogprobs !== null && { promptLogprobs: this.#promptLogprobs }),
      ...(this.#promptRouting !== null && { routing: this.#promptRouting.take() }),
    });
  }

  #chooseToken(logits: Float32Array): RowOutcome {
    const { topLogprobs } = this.request;
    // The sampler overwrites what it is given; log-probabilities are those of the raw logits.
    const token = this.#sampler.sample(topLogprobs === undefined ? logits : logits.slice());
    if (topLogprobs === undefined) return this.#giveToken(token);
    const { chosen, top } = tokenLogprobs(logits, { token, top: topLogprobs });
    return this.#giveToken(token, { logprob: chosen.logprob, top });
  }

  /** Takes a token, or what `Ops.choose` gives instead of one. */
  #takeChosen(token: number): RowOutcome {
    if (token === CHOSEN_NOT_FINITE) throw notFinite();
    if (token === CHOSEN_NONE) throw noneLeft();
    this.#sampler.take(token);
    return this.#giveToken(token);
  }

  #giveToken(
    token: number,
    scores: { logprob?: number; top?: readonly TokenLogprob[] } = {},
  ): RowOutcome {
    if (this.#stopTokens.has(token)) return { ends: "stop", stopToken: token };
    this.generated++;
    this.#pairs?.push(token);
    this.#options.sink.push({ type: "token", token, ...scores });
    return this.tokensLeft === 0 ? { token, ends: "length" } : { token };
  }

  #timings(): Timings {
    const now = performance.now();
    const started = this.#startedAt ?? now;
    const evaluated = this.#promptAt ?? now;
    return {
      queueMs: started - this.#submittedAt,
      restoreMs: this.restoreMs,
      prefillMs: evaluated - started,
      decodeMs: now - evaluated,
    };
  }
}

/** What a row led to: a token, an end, or both. */
export interface RowOutcome {
  readonly token?: number;
  readonly ends?: Exclude<FinishReason, "abort">;
  readonly stopToken?: number;
}

/** Whether the request asked for scores of its prompt's tokens. */
export function scoresPrompt({ promptLogprobs, topLogprobs }: GenerateRequest): boolean {
  return promptLogprobs === true && topLogprobs !== undefined;
}

/** Whether the request asked for the routing of the token at this position. */
export function wantsRouting(
  { routedExperts, tokens }: GenerateRequest,
  position: number,
): boolean {
  return routedExperts === "all" ||
    (routedExperts === "completion" && position >= tokens.length);
}
