/** Problems that answers are sampled for, and judged by. */

import { type ChatDraft, type Row, withReasoning } from "../data/rows.ts";
import type { SampleEncoder } from "../data/packing/encode.ts";
import { Draws } from "../data/draws.ts";
import { shareOf } from "../data/hash.ts";
import type { Reference, Sample } from "../reward/types.ts";

export interface Prompt {
  readonly id: string;
  readonly family: string;
  /** The question as text, and as the token ids in front of its answer. */
  readonly text: string;
  readonly ids: readonly number[];
  /** Whether the ids end within an opened `<think>`. */
  readonly opened: boolean;
  readonly reference: Reference;
}

/** The prompt of a conversation that can be judged; null where it is none. */
export function promptOfRow(row: Row, encoder: SampleEncoder): Prompt | null {
  if (row.kind !== "chat" || (row.answer === undefined && row.family === undefined)) return null;
  const given = row.messages.slice(0, -1);
  if (given.at(-1)?.role !== "user") return null;
  const { ids, opensReasoning } = encoder.promptIds(given);
  const reasoning = reasoningOf(row);
  return {
    id: row.id,
    family: row.family ?? row.source,
    text: given.map(({ content }) => content).join("\n"),
    ids,
    opened: opensReasoning,
    reference: {
      ...(row.answer !== undefined && { answer: row.answer }),
      ...(row.family !== undefined && { family: row.family }),
      ...(reasoning !== null && { solution: reasoning }),
    },
  };
}

function reasoningOf({ messages }: ChatDraft): string | null {
  const match = /^<think>\n(.*?)\n<\/think>/s.exec(messages.at(-1)!.content);
  return match === null ? null : match[1];
}

/** What a reward judges. */
export function sampleOf(prompt: Prompt, completion: string): Sample {
  const { text, reference, opened } = prompt;
  return { prompt: text, completion, reference, opened };
}

/** An answer as the conversation's last message, as it would stand in a corpus. */
export function messageOf(prompt: Prompt, completion: string): string {
  if (!prompt.opened) return completion;
  const match = /^(.*?)\n<\/think>\n*(.*)$/s.exec(completion);
  return match === null ? `<think>\n${completion}` : withReasoning(match[1], match[2]);
}

/** At most about `limit` of the rows, chosen by their ids and the seed, the same ones each time. */
export function chosenRows(
  rows: readonly Row[],
  { limit, seed }: { limit: number; seed: number },
): Row[] {
  return rows.map((row) => ({ row, share: shareOf(row.id, seed) }))
    .sort((a, b) => a.share - b.share || (a.row.id < b.row.id ? -1 : 1))
    .slice(0, limit).map(({ row }) => row);
}

/** The list in an order named by text. */
export function shuffled<T>(list: readonly T[], name: string): T[] {
  const draws = new Draws(name);
  const order = [...list];
  for (let i = order.length - 1; i > 0; i--) {
    const j = draws.integer(0, i);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
