/** The question within a prompt that a chat template has rendered. */

import { promptOpensReasoning } from "../../chat/reasoning.ts";

/** How templates mark a user's turn and its end. */
const TURNS: readonly (readonly [begin: string, end: string])[] = [
  ["<｜User｜>", "<｜Assistant｜>"],
  ["<|im_start|>user\n", "<|im_end|>"],
  ["<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"],
];

/** The last turn of a user; the prompt as it is where it has no such marks. */
function questionOf(prompt: string): string {
  for (const [begin, end] of TURNS) {
    const at = prompt.lastIndexOf(begin);
    if (at < 0) continue;
    const start = at + begin.length;
    const stop = prompt.indexOf(end, start);
    return prompt.slice(start, stop < 0 ? undefined : stop).trim();
  }
  return prompt;
}

/** The question of a prompt, and whether the prompt has opened the reasoning behind it. */
export function promptQuestion(prompt: string): { question: string; opened: boolean } {
  const opened = promptOpensReasoning(prompt);
  return {
    question: questionOf(opened ? prompt.replace(/\s*<think>\s*$/, "") : prompt),
    opened,
  };
}
