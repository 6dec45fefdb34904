/** JSONL records of published data sets and of other trainers as drafts. */

import { chatDraft, type Draft, type Message } from "../rows.ts";

export type Fields = Readonly<Record<string, unknown>>;

/** A draft, or why there is none: reasons are counted, so they name a kind and no row. */
export type Reading = Draft | { readonly refused: string };

export interface RecordOptions {
  /** The least reward of a sampled answer that is taken. */
  readonly minReward: number;
  /** The field that holds the text of text records. */
  readonly textField: string;
}

type RecordReader = (record: Fields, options: RecordOptions) => Reading;

function refused(reason: string): { refused: string } {
  return { refused: reason };
}

function text(record: Fields, key: string): string | null {
  const value = record[key];
  return typeof value === "string" && value.trim() !== "" ? value : null;
}

/** GSM8K: `answer` is the solution with calculator marks and ends with `#### N`. */
function gsm8k(record: Fields): Reading {
  const [question, solution] = [text(record, "question"), text(record, "answer")];
  if (question === null || solution === null) return refused("no question and answer");
  const match = /^([\s\S]*)\n?#### *(\S.*?)\s*$/.exec(solution);
  if (match === null) return refused("no #### answer");
  const answer = match[2].replaceAll(",", "");
  return chatDraft({
    prompt: question.trim(),
    reasoning: match[1].replace(/<<.*?>>/g, "").trim(),
    reply: `The answer is ${answer}.`,
    answer,
  });
}

/** `( 76.0 - 25.0 )` -> `76 - 25`. */
function plainEquation(equation: string): string {
  return equation.trim().replace(/^\((.*)\)$/s, (whole, inner) => {
    // The outer parentheses are one pair only where none inside closes them.
    let depth = 0;
    for (const char of inner) {
      if (char === "(") depth++;
      if (char === ")" && --depth < 0) return whole;
    }
    return inner;
  }).replace(/(\d)\.0\b/g, "$1").replace(/\( /g, "(").replace(/ \)/g, ")").trim();
}

/** MATH and its like: a problem, its solution in LaTeX, and the bare answer. */
function math(record: Fields): Reading {
  const [problem, solution] = [text(record, "problem"), text(record, "solution")];
  const answer = text(record, "answer");
  if (problem === null || solution === null) return refused("no problem and solution");
  return chatDraft({
    prompt: problem.trim(),
    reasoning: solution.trim(),
    reply: answer === null ? solution.trim() : `The answer is ${answer}.`,
    ...(answer !== null && { answer }),
  });
}

/** SVAMP: one-step word problems with an equation and a number. */
function svamp(record: Fields): Reading {
  const [question, equation] = [text(record, "question"), text(record, "equation")];
  const value = record.answer;
  if (question === null || equation === null) return refused("no question and equation");
  if (typeof value !== "number" || !Number.isFinite(value)) return refused("no number as answer");
  const answer = String(value);
  return chatDraft({
    prompt: question.trim(),
    reasoning: `${plainEquation(equation)} = ${answer}`,
    reply: `The answer is ${answer}.`,
    answer,
  });
}

/** ARC: a question with choices {text, label} and the label that is right. */
function arc(record: Fields): Reading {
  const question = text(record, "question");
  const choices = record.choices as { text?: unknown; label?: unknown } | null | undefined;
  const [texts, labels] = [choices?.text, choices?.label];
  if (question === null || !Array.isArray(texts) || !Array.isArray(labels)) {
    return refused("no question with choices");
  }
  const at = labels.indexOf(record.answerKey);
  if (at < 0 || labels.length !== texts.length) return refused("no choice for the answer key");
  const list = labels.map((label, i) => `${label}. ${texts[i]}`).join("\n");
  return chatDraft({
    prompt: `${question.trim()}\n${list}`,
    reply: `${labels[at]}. ${texts[at]}`,
    answer: String(labels[at]),
  });
}

const ROLES: readonly unknown[] = ["system", "user", "assistant"];

function isMessage(value: unknown): value is Message {
  const message = value as Message | null;
  return typeof message === "object" && ROLES.includes(message?.role) &&
    typeof message?.content === "string";
}

/** `messages` in OpenAI's form, as TRL and most published chat sets have them. */
function chat(record: Fields): Reading {
  const { messages } = record;
  if (!Array.isArray(messages) || !messages.every(isMessage)) return refused("no list of messages");
  const plain = messages.map(({ role, content }) => ({ role, content }));
  if (plain.at(-1)?.role !== "assistant") return refused("the assistant has not the last word");
  if (!plain.some(({ role }) => role === "user")) return refused("no message of a user");
  return { kind: "chat", messages: plain, ...knownFields(record) };
}

/** What rows of our own corpora, and samples, carry beside the conversation. */
function knownFields(
  record: Fields,
): Pick<Draft & { kind: "chat" }, "answer" | "family" | "reward"> {
  return {
    ...(typeof record.answer === "string" && { answer: record.answer }),
    ...(typeof record.family === "string" && { family: record.family }),
    ...(typeof record.reward === "number" && { reward: record.reward }),
  };
}

/** `prompt` and `completion`, as texts or as lists of messages. */
function completion(record: Fields): Reading {
  const { prompt, completion } = record;
  if (Array.isArray(prompt) && Array.isArray(completion)) {
    return chat({ ...record, messages: [...prompt, ...completion] });
  }
  if (text(record, "prompt") === null || text(record, "completion") === null) {
    return refused("no prompt and completion");
  }
  return {
    kind: "chat",
    messages: [
      { role: "user", content: prompt as string },
      { role: "assistant", content: (completion as string).trim() },
    ],
    ...knownFields(record),
  };
}

/** Samples of an earlier phase: `prompt`, `completion` and the `reward` that it got. */
function samples(record: Fields, { minReward }: RecordOptions): Reading {
  if (typeof record.reward !== "number") return refused("no reward");
  if (!(record.reward >= minReward)) return refused("reward too low");
  return completion(record);
}

/** Web dumps: a text a line. */
function web(record: Fields, { textField }: RecordOptions): Reading {
  const value = text(record, textField);
  return value === null ? refused("no text") : { kind: "text", text: value };
}

export const RECORD_FORMATS: Readonly<Record<string, RecordReader>> = Object.freeze({
  gsm8k,
  math,
  svamp,
  arc,
  chat,
  completion,
  samples,
  web,
});

/** Reads one line of JSONL. */
export function readRecord(
  line: string,
  options: RecordOptions & { format: string },
): Reading {
  let record: unknown;
  try {
    record = JSON.parse(line);
  } catch {
    return refused("not JSON");
  }
  if (typeof record !== "object" || record === null || Array.isArray(record)) {
    return refused("not a JSON object");
  }
  return RECORD_FORMATS[options.format](record as Fields, options);
}
