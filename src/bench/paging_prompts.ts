/**
 * What a model is asked while its experts are paged. Which experts a token gets depends on what it is
 * about, so that sums and running text are kept apart.
 */

import { loadChatTemplate } from "../chat/mod.ts";
import { OptionError } from "../errors.ts";
import { openCheckpoint } from "../formats/open.ts";
import { loadTokenizer } from "../tokenizer/mod.ts";
import type { Request } from "./wire.ts";

/** Prompts of one kind. */
export interface PromptKind {
  readonly kind: string;
  readonly requests: readonly Request[];
}

/** Sums of two-digit numbers, put to the model as a user would. */
const SUMS: readonly (readonly [number, number])[] = Object.freeze([
  [47, 38],
  [12, 65],
  [29, 54],
  [83, 16],
  [71, 90],
  [36, 36],
  [58, 27],
  [94, 49],
]);
/** A sum's answer ends by itself, reasoning and all. */
const MOST_ANSWER_TOKENS = 128;

/** Pieces of the text, and tokens of each. */
const PIECES = 4;
const PIECE_TOKENS = 64;

/** Continued where no other text is given. */
const TEXT = `MILLER:
Good morrow, neighbour. Did the river rise
As high as you had feared it in the night?

FERRYMAN:
It came up to the door and there it stopped,
As if a stranger thought of knocking twice
And went away again. My boat is safe,
The rope held fast, the lantern never failed.

MILLER:
Then we are both the richer for the rain:
My wheel has turned since midnight on its own,
And all the flour that I owed the town
Lies in the loft in sacks, and none is wet.

FERRYMAN:
I'll carry them across when it is noon,
If you will lend your grandson for the oar.
My shoulder has grown older than my head,
And neither of the two will take advice.

MILLER:
He shall be there. But tell him, as you row,
The story of the winter and the wolf,
For he believes that I have made it up
And will not sleep until he hears the end.
`;

/** Tokens that all prompts and answers of a kind need at most. */
export function contextOf(kinds: readonly PromptKind[]): number {
  const requests = kinds.flatMap(({ requests }) => requests);
  return Math.max(...requests.map(({ prompt, generate }) => prompt.length + generate));
}

/**
 * The prompts as the model's tokenizer has them. `text` is continued by `decode` tokens from several
 * places. Throws OptionError for a text without tokens, and the loader's errors.
 */
export async function pagingPrompts(
  model: string,
  { text = TEXT, decode }: { text?: string; decode: number },
): Promise<PromptKind[]> {
  const source = await openCheckpoint(model);
  try {
    const tokenizer = await loadTokenizer(source);
    const template = await loadChatTemplate(source, { tokenizer });
    const sums: Request[] = [];
    for (const [a, b] of SUMS) {
      const prompt = await tokenizer.encodeAsync(
        template.render([{ role: "user", content: `What is ${a} + ${b}?` }]),
        { addSpecial: false, parseSpecial: true },
      );
      sums.push({ prompt, generate: MOST_ANSWER_TOKENS, stopTokens: tokenizer.eosTokens });
    }
    const ids = await tokenizer.encodeAsync(text, { addSpecial: false, parseSpecial: false });
    if (ids.length === 0) {
      throw new OptionError("cannot bench: the text is empty, must be one to be continued");
    }
    const count = Math.min(PIECES, Math.ceil(ids.length / PIECE_TOKENS));
    const pieces = Array.from({ length: count }, (_, i): Request => {
      const last = Math.max(0, ids.length - PIECE_TOKENS);
      const start = Math.floor(i * last / Math.max(1, count - 1));
      const piece = ids.slice(start, start + PIECE_TOKENS);
      return { prompt: [...tokenizer.prefix, ...piece], generate: decode + 1 };
    });
    return [{ kind: "sums", requests: sums }, { kind: "text", requests: pieces }];
  } finally {
    source.close();
  }
}
