/**
 * Multiple choice by likelihood: ARC (Clark et al. 2018) and any file of its kind, which is how text
 * classification and inference between sentences (NLI) are asked as well. `acc` takes the likeliest choice,
 * `acc_norm` the likeliest for its length in characters, as lm-eval has them.
 */

import type { DataRow } from "./rows.ts";
import type { ChoiceItem, Shot } from "./types.ts";
import { QUESTION_FORM } from "./word_problems.ts";

/**
 * A row with `choices` (texts, or ARC's `{text, label}`), which of them is right in `answerKey`, `answer`,
 * `label` or `gold` (a label, a text, or a place from 0 on), and `question`, or `context` in its place where
 * the prompt is to stand as it is.
 */
export function choiceItem(row: DataRow): ChoiceItem {
  const { texts, labels } = choicesOf(row);
  const context = row.get("context") === undefined
    ? QUESTION_FORM.render(row.text("question"))
    : row.text("context");
  const group = row.get("group");
  return {
    kind: "choice",
    id: row.id,
    ...(typeof group === "string" && { group }),
    context,
    choices: texts,
    gold: goldOf(row, { texts, labels }),
  };
}

/** A row as an example in front of others. */
export function choiceShot(row: DataRow): Shot {
  const { choices, gold, context } = choiceItem(row);
  return { question: context, answer: choices[gold] };
}

interface Choices {
  readonly texts: readonly string[];
  readonly labels: readonly string[];
}

function choicesOf(row: DataRow): Choices {
  const value = row.get("choices") as unknown;
  const [texts, labels] = Array.isArray(value) || typeof value !== "object" || value === null
    ? [value, undefined]
    : [(value as Record<string, unknown>).text, (value as Record<string, unknown>).label];
  const areTexts = (list: unknown): list is string[] =>
    Array.isArray(list) && list.every((item) => typeof item === "string" && item !== "");
  if (!areTexts(texts) || texts.length < 2) {
    throw row.error("choices", value, "two texts or more, or {text, label}");
  }
  if (labels === undefined) return { texts, labels: [] };
  if (areTexts(labels) && labels.length === texts.length) return { texts, labels };
  throw row.error("choices", value, "as many labels as texts");
}

const GOLD_FIELDS = ["answerKey", "answer", "label", "gold"];

function goldOf(row: DataRow, { texts, labels }: Choices): number {
  const key = GOLD_FIELDS.find((name) => row.get(name) !== undefined) ?? GOLD_FIELDS[0];
  const value = row.get(key);
  const place = typeof value === "number"
    ? value
    : typeof value === "string"
    ? Math.max(labels.indexOf(value), texts.indexOf(value))
    : -1;
  if (Number.isInteger(place) && place >= 0 && place < texts.length) return place;
  throw row.error(key, value, "a label, a text, or a place from 0 on of a choice");
}

/** What a guess gets right. */
export function chanceOf(items: readonly ChoiceItem[]): number {
  return items.reduce((sum, { choices }) => sum + 1 / choices.length, 0) / items.length;
}
