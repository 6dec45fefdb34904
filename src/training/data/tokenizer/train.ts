/** Trains a tokenizer on the rows of a corpus. */

import { FormatError } from "../../../errors.ts";
import { preTokenizerOf } from "../../../tokenizer/pre_tokenizers.ts";
import type { TokenizerRecipe } from "../recipe/recipe.ts";
import { type Draft, textOf } from "../rows.ts";
import { trainMerges } from "./bpe_trainer.ts";
import {
  ADDED_TOKENS,
  byteIds,
  FIRST_MERGE_ID,
  preTokenizerJson,
  type TokenizerFiles,
  tokenizerFiles,
} from "./files.ts";
import { PieceCounter } from "./pieces.ts";

export interface TokenizerProgress {
  /** Rows counted, then merges learnt. */
  readonly stage: "rows" | "merges";
  readonly done: number;
  readonly of: number;
}

/** Rows between two reports. */
const ROWS_PER_REPORT = 1000;

/**
 * Counts the words of the first rows and learns merges from them: the texts of two tokenizer files.
 * FormatError where there is too little text for the vocabulary that is asked for.
 */
export async function trainTokenizer(
  rows: AsyncIterable<Draft>,
  options: { recipe: TokenizerRecipe; onProgress?: (progress: TokenizerProgress) => void },
): Promise<TokenizerFiles> {
  const { recipe, onProgress } = options;
  const { digits, contextLength, minCount } = recipe;
  const scanners = preTokenizerOf(preTokenizerJson(digits), { action: "train a tokenizer" });
  const counter = new PieceCounter(scanners, ADDED_TOKENS);
  let read = 0;
  for await (const row of rows) {
    if (read === recipe.rows) break;
    counter.add(textOf(row));
    if (++read % ROWS_PER_REPORT === 0) {
      onProgress?.({ stage: "rows", done: read, of: recipe.rows });
    }
  }
  const count = recipe.vocabulary - FIRST_MERGE_ID;
  const merges = trainMerges(counter.counts, {
    byteIds: byteIds(),
    firstId: FIRST_MERGE_ID,
    count,
    minCount,
    onProgress: (done) => onProgress?.({ stage: "merges", done, of: count }),
  });
  const size = merges.reduce((most, { id }) => Math.max(most, id + 1), FIRST_MERGE_ID);
  if (size < recipe.vocabulary) {
    throw FormatError.of(
      "train a tokenizer",
      "the vocabulary",
      `${size} at most (${read} rows have no more pairs that occur ` +
        `${minCount} times)`,
      `${recipe.vocabulary}: ask for fewer ids, or give more text`,
    );
  }
  return tokenizerFiles(merges, { digits, contextLength });
}
