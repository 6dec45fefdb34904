/** Texts by which published tokenizers mark the end of an answer, whatever the file's keys say. */

const END_TEXTS: ReadonlySet<string> = new Set([
  "<|eot_id|>",
  "<|eom_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|EOT|>",
  "<end_of_turn>",
  "[EOT]",
  "[EOS]",
  "<｜end▁of▁sentence｜>",
]);

/** Texts by which published tokenizers mark the parts of fill-in-the-middle prompts. */
const FILL_IN_TEXTS: ReadonlySet<string> = new Set([
  ...["prefix", "suffix", "middle", "pad", "repo"].flatMap((part) => [
    `<|fim_${part}|>`,
    `<fim-${part}>`,
    `<fim_${part}>`,
  ]),
  "<｜fim▁begin｜>",
  "<｜fim▁hole｜>",
  "<｜fim▁end｜>",
  "<|repo_name|>",
  "<reponame>",
  "<|file_sep|>",
]);

/**
 * Whether a GGUF file's token controls the model though the file says that it is user-defined, which
 * converters often do; llama.cpp corrects it in the same way.
 */
export function isControlText(text: string): boolean {
  return END_TEXTS.has(text) || FILL_IN_TEXTS.has(text);
}

/** Ids that end an answer: those the file names, then special tokens known by their text. */
export function endTokens(
  named: readonly (number | null)[],
  tokens: Iterable<{ readonly id: number; readonly content: string; readonly special: boolean }>,
): number[] {
  const ids = new Set<number>();
  for (const id of named) {
    if (id !== null) ids.add(id);
  }
  for (const token of tokens) {
    if (token.special && END_TEXTS.has(token.content)) ids.add(token.id);
  }
  return [...ids];
}
