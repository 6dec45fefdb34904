/** Multiple choice: what is offered, and which of it a text takes. */

import type { Choice } from "../types.ts";

/** `A. text`, `(B) text`, `3) text`, a line each. */
const OFFER = /^\(?([A-Ja-j]|[1-9])[.):]\s+(\S.*)$/gm;
const MAX_PROMPT = 20_000;

/** The choices that a prompt's lines offer; none where fewer than two do, or labels come twice. */
export function choicesIn(prompt: string): Choice[] {
  const choices = [...prompt.slice(-MAX_PROMPT).matchAll(OFFER)]
    .map(([, label, text]) => ({ label: label.toUpperCase(), text: text.trim() }));
  const labels = new Set(choices.map(({ label }) => label));
  return choices.length < 2 || labels.size < choices.length ? [] : choices;
}

function plain(text: string): string {
  return text.trim().toLowerCase().replace(/[\s.]+/g, " ").trim();
}

/** The label that a text takes: alone, with its own text, or by that text; null where it is not clear. */
export function takenChoice(text: string, choices: readonly Choice[]): string | null {
  const match = /^\(?([A-Ja-j]|[1-9])(?:[.):]+|(?=\s)|$)\s*(.*)$/s.exec(text.trim());
  if (match !== null) {
    const label = match[1].toUpperCase();
    const choice = choices.find((choice) => choice.label.toUpperCase() === label);
    const rest = plain(match[2]);
    if (choice !== undefined && (rest === "" || rest === plain(choice.text))) return choice.label;
  }
  const named = choices.filter((choice) => plain(choice.text) === plain(text));
  return named.length === 1 ? named[0].label : null;
}
