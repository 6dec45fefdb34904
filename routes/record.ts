/** The record of one request, from its arrival to the last byte of its answer. */

import type { Context } from "hono";
import type { ApiKey } from "../src/server/api_keys.ts";
import type { RequestSpan } from "../src/server/tracing.ts";
import { Generation, type GenerationListener, type GenerationOptions } from "./generation.ts";

export interface RecordOptions {
  readonly id: string;
  readonly method: string;
  readonly span: RequestSpan;
  /** Hears of choices, besides the span. */
  readonly listener?: GenerationListener;
}

export class RequestRecord {
  readonly id: string;
  readonly method: string;
  readonly span: RequestSpan;
  /** The pattern of the route, and whether it says how the server fares and is asked all the time. */
  route: { readonly pattern: string; readonly probe: boolean } | undefined;
  key: ApiKey | undefined;
  generation: Generation | undefined;
  /** 0 until there is an answer. */
  status = 0;
  /** What went wrong, on the way or behind a status that had been sent. */
  failure: unknown;
  /** The client left before the answer's end. */
  left = false;
  readonly #arrived = performance.now();
  readonly #listener: GenerationListener | undefined;
  readonly #endings: (() => void)[] = [];
  #held = false;
  #ended = false;

  constructor({ id, method, span, listener }: RecordOptions) {
    this.id = id;
    this.method = method;
    this.span = span;
    this.#listener = listener;
  }

  /** Milliseconds since the request came. */
  elapsedMs(): number {
    return performance.now() - this.#arrived;
  }

  /** Calls `ending` when the answer is over, in whatever way. */
  onEnd(ending: () => void): void {
    this.#endings.push(ending);
  }

  /** Begins the account of what is generated. */
  generate(options: Pick<GenerationOptions, "operation" | "prompts" | "n">): Generation {
    const { span } = this;
    const listener = this.#listener;
    let first = true;
    this.generation = new Generation({
      ...options,
      elapsedMs: () => this.elapsedMs(),
      listener: {
        started: (choice) => {
          span.event("started", { "sluice.cached.memory": choice.cached?.memory ?? 0 });
          listener?.started(choice);
        },
        firstToken: (ms) => {
          if (first) span.event("first_token");
          first = false;
          listener?.firstToken(ms);
        },
        tokens: (count, gapMs) => listener?.tokens(count, gapMs),
        done: (choice) => listener?.done(choice),
      },
    });
    return this.generation;
  }

  /** The answer has a body that goes on: `end` says when it is over. */
  hold(): void {
    this.#held = true;
  }

  /** There is an answer, which is its end unless its body goes on. */
  answered(status: number): void {
    this.status = status;
    if (!this.#held) this.#end();
  }

  /** A held body is over, or there will be none. */
  end({ left = false }: { left?: boolean } = {}): void {
    this.left ||= left;
    this.#held = false;
    if (this.status !== 0) this.#end();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const ending of this.#endings) ending();
  }
}

const NAME = "record";

export function setRecord(context: Context, record: RequestRecord): void {
  context.set(NAME, record);
}

/** The record of the request that is being answered. */
export function recordOf(context: Context): RequestRecord {
  return context.get(NAME);
}
