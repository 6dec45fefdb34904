/** Asks a server for a streamed answer and notes when its pieces arrive. */

import type { Stream } from "./streams.ts";

/**
 * How a request ended: whole; with a status other than 200; by an error event within the stream; cut
 * without one; by our own leaving; or without any response.
 */
export type Outcome = "whole" | "refused" | "error" | "cut" | "left" | "unreachable";

export interface Answer {
  readonly outcome: Outcome;
  /** Of the response; 0 without one. */
  readonly status: number;
  /** `performance.now()` in seconds, as all moments here. */
  readonly submitted: number;
  /** When it had ended. */
  readonly ended: number;
  /** When pieces with text arrived. */
  readonly arrivals: readonly number[];
  readonly text: string;
  /** The API's, where the answer came to its end. */
  readonly usage: { readonly completion_tokens: number } | undefined;
  readonly timings: ServerTimings | undefined;
  /** What went wrong, in a few words. */
  readonly error?: string;
}

/** Of the server's `timings`, what the benchmark uses. */
export interface ServerTimings {
  readonly restore_ms: number;
  /** Prompt tokens that were not computed. */
  readonly cache_n: number;
  readonly draft_n: number;
  readonly draft_n_accepted: number;
}

export interface AskOptions {
  /** `/v1/completions` where nothing is said. */
  readonly path?: string;
  readonly signal?: AbortSignal;
  /** Hears of each piece with text; false: leave. */
  readonly onPiece?: (pieces: number) => boolean;
}

/** A body for `/v1/completions`: exactly `tokens` tokens of answer, greedily chosen. */
export function completionOf(prompt: readonly number[] | string, tokens: number) {
  return { prompt, max_tokens: tokens, temperature: 0, ignore_eos: true };
}

/** Never rejects: whatever happens is the answer's outcome. */
export async function ask(
  { url }: { readonly url: string },
  { body, path = "/v1/completions", signal, onPiece }: AskOptions & { readonly body: object },
): Promise<Answer> {
  const submitted = performance.now() / 1000;
  const arrivals: number[] = [];
  let text = "";
  let status = 0;
  let usage: Answer["usage"];
  let timings: Answer["timings"];
  const end = (outcome: Outcome, error?: string): Answer => ({
    ...{ outcome, status, submitted, ended: performance.now() / 1000 },
    ...{ arrivals, text, usage, timings },
    ...(error !== undefined && { error: error.slice(0, 200) }),
  });
  const leaving = new AbortController();
  const signals = signal === undefined ? [leaving.signal] : [leaving.signal, signal];
  const left = AbortSignal.any(signals);
  try {
    const response = await fetch(`${url}${path}`, {
      method: "POST",
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal: left,
    });
    status = response.status;
    if (status !== 200) return end("refused", await response.text());
    for await (const data of eventsOf(response.body!)) {
      if (data === "[DONE]") return end("whole");
      const event = JSON.parse(data);
      if (event.error !== undefined) return end("error", String(event.error.message));
      usage = event.usage ?? usage;
      timings = event.timings ?? timings;
      const piece = pieceOf(event);
      if (piece === "") continue;
      text += piece;
      arrivals.push(performance.now() / 1000);
      if (onPiece?.(arrivals.length) === false) leaving.abort();
    }
    return end(left.aborted ? "left" : "cut");
  } catch (error) {
    if (left.aborted) return end("left");
    return end(status === 0 ? "unreachable" : "cut", String(error));
  }
}

/** The text of a chunk, of either API; thinking included. */
function pieceOf({ choices: [choice] }: { choices: readonly Record<string, unknown>[] }): string {
  if (choice === undefined) return "";
  const delta = choice.delta as { content?: string; reasoning_content?: string } | undefined;
  if (delta === undefined) return choice.text as string;
  return (delta.reasoning_content ?? "") + (delta.content ?? "");
}

/** The data of server-sent events, comments left out. */
async function* eventsOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of stream) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

/**
 * Whole answers to requests that were made together, as streams. Throws Error where one is not whole:
 * its figures would be no figures.
 */
export function streamsOf(answers: readonly Answer[]): Stream[] {
  const first = Math.min(...answers.map(({ submitted }) => submitted));
  return answers.map((answer) => {
    const { outcome, status, submitted, arrivals, usage, error } = answer;
    if (outcome !== "whole" || usage === undefined || arrivals.length === 0) {
      throw new Error(
        `an answer is ${outcome} (status ${status}, ${arrivals.length} pieces), ` +
          `must be whole${error === undefined ? "" : `: ${error}`}`,
      );
    }
    return {
      submitted: submitted - first,
      arrivals: arrivals.map((at) => at - first),
      tokens: usage.completion_tokens,
    };
  });
}
