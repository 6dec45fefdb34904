/** Rows of a corpus: what readers and generators give, and what is written as JSONL. */

import type { Problem } from "./problem.ts";

export interface Message {
  readonly role: "system" | "user" | "assistant";
  /** An assistant's reasoning stands in front, between `<think>` and `</think>`. */
  readonly content: string;
}

/** A conversation that ends with the assistant. */
export interface ChatDraft {
  readonly kind: "chat";
  readonly messages: readonly Message[];
  /** The bare answer, where it is known. */
  readonly answer?: string;
  /** Who can check it: a family of generated problems. */
  readonly family?: string;
  readonly difficulty?: number;
  /** Of a sampled answer. */
  readonly reward?: number;
}

export interface TextDraft {
  readonly kind: "text";
  readonly text: string;
}

export type Draft = ChatDraft | TextDraft;

/** A draft with its place. */
export type Row = Draft & {
  /** Unique in the corpus: source and row. */
  readonly id: string;
  readonly source: string;
};

/** DeepSeek-R1's form: reasoning, then the reply. */
export function withReasoning(reasoning: string, reply: string): string {
  return `<think>\n${reasoning}\n</think>\n\n${reply}`;
}

/** A question with its answer; without reasoning the assistant's message is the reply alone. */
export function chatDraft(
  parts: { prompt: string; reasoning?: string; reply: string; answer?: string },
): ChatDraft {
  const { prompt, reasoning = "", reply, answer } = parts;
  const content = reasoning === "" ? reply : withReasoning(reasoning, reply);
  return {
    kind: "chat",
    messages: [{ role: "user", content: prompt }, { role: "assistant", content }],
    ...(answer !== undefined && { answer }),
  };
}

export function problemDraft(problem: Problem): ChatDraft {
  const { prompt, steps, reply, answer, family, difficulty } = problem;
  return {
    ...chatDraft({ prompt, reasoning: steps.join("\n"), reply, answer }),
    family,
    difficulty,
  };
}

/** What a row asks: its user's messages; "" for plain text. */
export function promptOf(draft: Draft): string {
  if (draft.kind === "text") return "";
  return draft.messages.filter(({ role }) => role === "user").map(({ content }) => content)
    .join("\n");
}

/** All of a row's words. */
export function textOf(draft: Draft): string {
  if (draft.kind === "text") return draft.text;
  return draft.messages.map(({ content }) => content).join("\n");
}

/** A row as its line of JSONL. */
export function rowLine(row: Row): string {
  const { id, source, ...draft } = row;
  return `${JSON.stringify({ id, source, ...draft })}\n`;
}
