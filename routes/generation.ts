/**
 * The account of one generating request: how far its choices are, what was cached, how long it took.
 * Usage, timings and the cache header come from here, and so do metrics, spans and logs.
 */

import type { CachedTokens, SpeculationCounts, Timings } from "../src/engine/types.ts";
import type { TextEvent, Usage } from "../src/text/types.ts";
import type { Tagged } from "./merge.ts";

/** One choice: one request of the engine. */
export interface ChoiceAccount {
  readonly promptTokens: number;
  /** Undefined until it has a slot. */
  cached?: CachedTokens;
  usage?: Usage;
  timings?: Timings;
  speculation?: SpeculationCounts;
  /** Undefined until it has ended by itself. */
  finish?: "stop" | "length";
  /** Milliseconds since the request came, to the first token and to the last one so far. */
  firstMs?: number;
  lastMs?: number;
}

/** Hears of choices as they go on; times in milliseconds since the request came. */
export interface GenerationListener {
  started(choice: ChoiceAccount): void;
  firstToken(ms: number): void;
  /** So many tokens after the first came, each `gapMs` behind the one before. */
  tokens(count: number, gapMs: number): void;
  done(choice: ChoiceAccount): void;
}

export interface GenerationOptions {
  readonly operation: "chat" | "text_completion";
  /** The tokens of each prompt. */
  readonly prompts: readonly number[];
  /** Choices for each prompt. */
  readonly n: number;
  /** Milliseconds since the request came. */
  readonly elapsedMs: () => number;
  readonly listener: GenerationListener;
}

/** Sums of what several choices or prompts took. */
export interface PromptCounts {
  readonly tokens: number;
  /** Each prompt counts once, with what its first choice found: the others share what that computed. */
  readonly memory: number;
  readonly store: number;
}

export class Generation {
  readonly operation: GenerationOptions["operation"];
  readonly choices: readonly ChoiceAccount[];
  /** Resolves once a choice has a slot, so that it is known what was cached. */
  readonly started: Promise<void>;
  readonly #options: GenerationOptions;
  readonly #onStarted: () => void;

  constructor(options: GenerationOptions) {
    const { operation, prompts, n } = options;
    this.#options = options;
    this.operation = operation;
    this.choices = prompts.flatMap((promptTokens) =>
      Array.from({ length: n }, (): ChoiceAccount => ({ promptTokens }))
    );
    const { promise, resolve } = Promise.withResolvers<void>();
    this.started = promise;
    this.#onStarted = resolve;
  }

  /** Passes the events of all choices on and keeps the account. */
  async *follow(events: AsyncIterable<Tagged<TextEvent>>): AsyncGenerator<Tagged<TextEvent>> {
    for await (const tagged of events) {
      this.#note(this.choices[tagged.index], tagged.event);
      yield tagged;
    }
  }

  /** All choices have ended by themselves. */
  complete(): boolean {
    return this.choices.every(({ finish }) => finish !== undefined);
  }

  completionTokens(): number {
    return this.choices.reduce((sum, { usage }) => sum + (usage?.completionTokens ?? 0), 0);
  }

  reasoningTokens(): number {
    return this.choices.reduce((sum, { usage }) => sum + (usage?.reasoningTokens ?? 0), 0);
  }

  /** What the prompts took; undefined until a choice has started. */
  promptCounts(): PromptCounts | undefined {
    const { prompts, n } = this.#options;
    if (this.choices.every(({ cached }) => cached === undefined)) return undefined;
    let memory = 0;
    let store = 0;
    for (let i = 0; i < this.choices.length; i += n) {
      const found = this.choices.slice(i, i + n).flatMap(({ cached }) => cached ?? []);
      const least = found.reduce<CachedTokens | undefined>(
        (least, cached) => least !== undefined && total(least) <= total(cached) ? least : cached,
        undefined,
      );
      memory += least?.memory ?? 0;
      store += least?.store ?? 0;
    }
    return { tokens: prompts.reduce((sum, tokens) => sum + tokens, 0), memory, store };
  }

  promptTokens(): number {
    return this.#options.prompts.reduce((sum, tokens) => sum + tokens, 0);
  }

  #note(choice: ChoiceAccount, event: TextEvent): void {
    const { listener, elapsedMs } = this.#options;
    if (event.type === "started") {
      choice.cached = event.cached;
      listener.started(choice);
      this.#onStarted();
    } else if (event.type === "delta") {
      this.#noteTokens(choice, event.usage);
    } else if (event.type === "done") {
      this.#noteTokens(choice, event.usage);
      choice.cached = event.cached;
      choice.timings = event.timings;
      choice.speculation = event.speculation;
      choice.finish = event.reason;
      choice.lastMs = elapsedMs();
      listener.done(choice);
    }
  }

  #noteTokens(choice: ChoiceAccount, usage: Usage): void {
    const { listener, elapsedMs } = this.#options;
    const before = choice.usage?.completionTokens ?? 0;
    choice.usage = usage;
    let count = usage.completionTokens - before;
    if (count === 0) return;
    const now = elapsedMs();
    if (choice.firstMs === undefined) {
      choice.firstMs = choice.lastMs = now;
      listener.firstToken(now);
      count--;
    }
    if (count > 0) listener.tokens(count, (now - choice.lastMs!) / count);
    choice.lastMs = now;
  }
}

function total({ memory, store }: CachedTokens): number {
  return memory + store;
}
