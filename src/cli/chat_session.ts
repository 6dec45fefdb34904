/** A conversation in a terminal: plain text in and out, so that tests can hold it. */

import { RequestError } from "../errors.ts";
import type { SamplingParams } from "../sampling/types.ts";
import type { TextMessage, TextModel } from "../text/types.ts";
import { printable } from "./terminal.ts";

export interface ChatOptions {
  readonly model: Pick<TextModel, "chatPrompt" | "checkLength" | "answer">;
  readonly sampling: SamplingParams;
  readonly maxTokens?: number;
  readonly system?: string;
  /** What the user types, line by line. */
  readonly lines: AsyncIterable<string>;
  readonly write: (text: string) => void;
  /** Runs the work with a signal that is aborted where the user interrupts it. */
  readonly interruptible: <T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>;
  /** Terminal escapes for thinking; empty where the output is no terminal. */
  readonly dim: readonly [on: string, off: string];
  /** Milliseconds, for the rate. */
  readonly now: () => number;
}

export const PROMPT = "> ";
const HELP = "/new begins a new conversation, /exit leaves; Ctrl-C stops an answer.";

/** Streams one answer and returns its content, as far as it came. */
async function answerOnce(
  options: ChatOptions,
  { messages, signal }: { messages: readonly TextMessage[]; signal: AbortSignal },
): Promise<string> {
  const { model, write, dim, now } = options;
  const prompt = await model.chatPrompt(messages);
  model.checkLength(prompt, { maxTokens: options.maxTokens, param: "messages" });
  const { sampling, maxTokens } = options;
  let content = "";
  let thinking = false;
  let tokens = 0;
  let firstAt: number | undefined;
  let lastAt = now();
  let ending = "";
  try {
    for await (const event of model.answer(prompt, { sampling, maxTokens, signal })) {
      if (event.type === "prompt") firstAt = now();
      if (event.type === "delta") {
        if (event.reasoning !== "") {
          if (!thinking) write(dim[0]);
          thinking = true;
          write(printable(event.reasoning));
        }
        if (event.content !== "") {
          if (thinking) write(`${dim[1]}\n`);
          thinking = false;
          content += event.content;
          write(printable(event.content));
        }
      }
      if (event.type === "done") {
        tokens = event.usage.completionTokens;
        lastAt = now();
        if (event.reason === "length") ending = ", cut off at the token limit";
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    ending = "stopped";
  } finally {
    if (thinking) write(dim[1]);
  }
  const seconds = (lastAt - (firstAt ?? lastAt)) / 1000;
  const rate = seconds > 0 ? `, ${(tokens / seconds).toFixed(1)} tokens/s` : "";
  const note = ending === "stopped" ? "stopped" : `${tokens} tokens${rate}${ending}`;
  write(`\n${dim[0]}[${note}]${dim[1]}\n`);
  return content;
}

/** Answers line after line until /exit or the end of the input. */
export async function chatSession(options: ChatOptions): Promise<void> {
  const { write } = options;
  const start: TextMessage[] = options.system === undefined
    ? []
    : [{ role: "system", content: options.system }];
  let history = start;
  write(`${HELP}\n${PROMPT}`);
  for await (const line of options.lines) {
    const text = line.trim();
    if (text === "/exit") return;
    if (text === "/new") history = start;
    else if (text.startsWith("/")) write(`${HELP}\n`);
    else if (text !== "") {
      const asked: TextMessage[] = [...history, { role: "user", content: text }];
      try {
        const content = await options.interruptible((signal) =>
          answerOnce(options, { messages: asked, signal })
        );
        history = [...asked, { role: "assistant", content }];
      } catch (error) {
        if (!(error instanceof RequestError)) throw error;
        write(`${error.message}\n`);
      }
    }
    write(PROMPT);
  }
}
