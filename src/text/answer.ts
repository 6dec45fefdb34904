/**
 * One answer as text: token ids become whole characters, thinking is told from content, stop strings
 * are held back until it is certain that they are none, and scores come with the text they belong to.
 */

import { ReasoningSplitter, StopMatcher } from "../chat/mod.ts";
import type { CachedTokens, Engine, EngineEvent, Timings, TokenRouting } from "../engine/types.ts";
import type { StreamDecoder } from "../tokenizer/stream_decoder.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { codePointsOf, promptScores, scoredPiece, ScoreQueue } from "./scores.ts";
import type { Prompt, TextEvent, TextOptions, TokenScore, Usage } from "./types.ts";

/** What an answer needs of its model. */
export interface AnswerParts {
  readonly engine: Pick<Engine, "generate" | "info">;
  readonly tokenizer: Pick<Tokenizer, "decoder" | "idToBytes" | "idToPiece" | "eosTokens">;
}

type TokenEvent = Extract<EngineEvent, { type: "token" }>;
type Delta = Extract<TextEvent, { type: "delta" }>;

/** Turns the tokens of one answer into deltas. */
class AnswerText {
  /** The stop string that has ended the content, once one has. */
  stopString: string | undefined;
  readonly #promptTokens: number;
  readonly #tokenizer: AnswerParts["tokenizer"];
  readonly #decoder: StreamDecoder;
  readonly #splitter: ReasoningSplitter | null;
  readonly #stops: StopMatcher;
  readonly #scores = new ScoreQueue();
  /** Of tokens whose deltas have gone out already. */
  #routing: TokenRouting[] = [];
  #thinking: boolean;
  #tokens = 0;
  #reasoningTokens = 0;
  /** UTF-16 units of content that went into the stop matcher, and came out of it. */
  #contentIn = 0;
  #contentOut = 0;
  /** Code points of content and of thinking so far. */
  readonly #points = { content: 0, reasoning: 0 };

  constructor(
    tokenizer: AnswerParts["tokenizer"],
    { prompt: { reasoning, tokens }, stop }: { prompt: Prompt; stop: readonly string[] },
  ) {
    this.#promptTokens = tokens.length;
    this.#tokenizer = tokenizer;
    this.#decoder = tokenizer.decoder({ skipSpecial: true });
    this.#thinking = reasoning === "inside";
    this.#splitter = reasoning === "none"
      ? null
      : new ReasoningSplitter({ inReasoning: reasoning === "inside" });
    this.#stops = new StopMatcher(stop);
  }

  usage(): Usage {
    return {
      promptTokens: this.#promptTokens,
      completionTokens: this.#tokens,
      reasoningTokens: this.#reasoningTokens,
    };
  }

  /** Keeps a routing for the next delta, since it comes with the next token. */
  route(routing: TokenRouting): void {
    this.#routing.push(routing);
  }

  push(event: TokenEvent): Delta {
    this.#tokens++;
    const start = this.#contentIn;
    const offsets = { ...this.#points };
    const { content, reasoning } = this.#take(this.#decoder.push(event.token));
    // A token that shows nothing (yet) counts as what came before it.
    if (this.#thinking) this.#reasoningTokens++;
    if (event.logprob !== undefined) {
      const score: TokenScore = {
        chosen: scoredPiece(this.#tokenizer, { token: event.token, logprob: event.logprob }),
        top: (event.top ?? []).map((entry) => scoredPiece(this.#tokenizer, entry)),
        offset: this.#thinking ? offsets.reasoning : offsets.content,
        reasoning: this.#thinking,
      };
      this.#scores.push({ score, start, end: this.#contentIn });
    }
    return this.#delta({ content, reasoning });
  }

  /** What was held back, once no token follows. */
  flush(): Delta {
    const last = this.#take(this.#decoder.flush());
    const rest = this.#splitter?.flush() ?? { content: "", reasoning: "" };
    const content = last.content + this.#stop(rest.content);
    const held = this.stopString === undefined ? this.#stops.flush() : "";
    this.#contentOut += held.length;
    return this.#delta({ content: content + held, reasoning: last.reasoning + rest.reasoning });
  }

  /** Splits decoded text and puts its content through the stop matcher. */
  #take(text: string): { content: string; reasoning: string } {
    const split = this.#splitter?.push(text) ?? { content: text, reasoning: "" };
    if (split.content !== "") this.#thinking = false;
    else if (split.reasoning !== "") this.#thinking = true;
    this.#points.reasoning += codePointsOf(split.reasoning);
    return { content: this.#stop(split.content), reasoning: split.reasoning };
  }

  #stop(content: string): string {
    if (content === "" || this.stopString !== undefined) return "";
    this.#contentIn += content.length;
    this.#points.content += codePointsOf(content);
    const matched = this.#stops.push(content);
    if (matched.matched !== null) this.stopString = matched.matched;
    this.#contentOut += matched.text.length;
    return matched.text;
  }

  #delta(texts: { content: string; reasoning: string }): Delta {
    const scores = this.stopString === undefined
      ? this.#scores.take(this.#contentOut)
      : this.#scores.takeUntil(this.#contentOut);
    const routing = this.#routing;
    this.#routing = [];
    const usage = this.usage();
    return { type: "delta", ...texts, scores, usage, ...(routing.length > 0 && { routing }) };
  }
}

function isEmpty({ content, reasoning, scores, routing }: Delta): boolean {
  return content === "" && reasoning === "" && scores.length === 0 && routing === undefined;
}

/** When the engine reached which part of a request, for answers that end before it says so itself. */
class Stopwatch {
  readonly #submitted = performance.now();
  #started = this.#submitted;
  #evaluated = this.#submitted;

  started(): void {
    this.#started = this.#evaluated = performance.now();
  }

  evaluated(): void {
    this.#evaluated = performance.now();
  }

  timings(): Timings {
    return {
      queueMs: this.#started - this.#submitted,
      restoreMs: 0,
      prefillMs: this.#evaluated - this.#started,
      decodeMs: performance.now() - this.#evaluated,
    };
  }
}

const NOTHING_CACHED: CachedTokens = Object.freeze({ memory: 0, store: 0 });

/** Runs one request of the engine and gives its answer as text. See `TextModel.answer`. */
export async function* answer(
  { engine, tokenizer }: AnswerParts,
  { prompt, options }: { prompt: Prompt; options: TextOptions },
): AsyncGenerator<TextEvent> {
  const { signal, topLogprobs } = options;
  const promptTokens = prompt.tokens.length;
  const text = new AnswerText(tokenizer, { prompt, stop: options.stop ?? [] });
  const stopwatch = new Stopwatch();
  let cached = NOTHING_CACHED;
  const events = engine.generate({
    tokens: prompt.tokens,
    sampling: options.sampling,
    maxTokens: options.maxTokens ?? engine.info.contextLength - promptTokens,
    stopTokens: options.ignoreEos === true ? [] : tokenizer.eosTokens,
    topLogprobs,
    promptLogprobs: options.scorePrompt,
    routedExperts: options.routedExperts,
    client: options.client,
    priority: options.priority,
    deadlineMs: options.deadlineMs,
    tenant: options.tenant,
  }, { signal });
  for await (const event of events) {
    if (event.type === "started") {
      stopwatch.started();
      ({ cached } = event);
      yield event;
    } else if (event.type === "prompt") {
      stopwatch.evaluated();
      const scored = event.promptLogprobs !== undefined;
      yield {
        type: "prompt",
        ...(scored && { scores: promptScores(tokenizer, { prompt, event }) }),
        ...(event.routing !== undefined && { routing: event.routing }),
      };
    } else if (event.type === "routing") {
      text.route(event.routing);
    } else if (event.type === "token") {
      const delta = text.push(event);
      if (!isEmpty(delta)) yield delta;
      // Leaving the loop ends the request.
      if (text.stopString !== undefined) break;
    } else {
      if (event.reason === "abort") {
        throw signal?.aborted ? signal.reason : new Error("the engine gave the request up");
      }
      const rest = text.flush();
      if (!isEmpty(rest)) yield rest;
      const { stopString } = text;
      yield {
        type: "done",
        reason: stopString === undefined ? event.reason : "stop",
        ...(stopString !== undefined && { stopString }),
        usage: text.usage(),
        cached: event.cached,
        speculation: event.speculation,
        timings: event.timings,
      };
      return;
    }
  }
  const { stopString } = text;
  if (stopString === undefined) throw new Error("the engine ended without saying why");
  yield {
    type: "done",
    reason: "stop",
    stopString,
    usage: text.usage(),
    cached,
    speculation: { drafted: 0, accepted: 0 },
    timings: stopwatch.timings(),
  };
}
