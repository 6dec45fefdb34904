/** Prompts that share nothing: a hit of a prefix must be meant. */

import { Xoshiro128 } from "../../sampling/random.ts";

/** Texts of random tokens, each different from all before it; the same ones for the same seed. */
export class RandomPrompts {
  readonly #random: Xoshiro128;
  readonly #vocabSize: number;

  constructor({ vocabSize, seed }: { vocabSize: number; seed: number }) {
    this.#random = new Xoshiro128(seed);
    this.#vocabSize = vocabSize;
  }

  /** Token ids that name no special token in usual vocabularies. */
  next(length: number): number[] {
    return Array.from(
      { length },
      () => (300 + this.#random.nextUint32() % 20_000) % this.#vocabSize,
    );
  }

  /** A number of [0, 1). */
  fraction(): number {
    return this.#random.next();
  }
}

/** Code, and a wish to change one name in it: the answer repeats most of the prompt. */
const CODE = `function totalOf(items) {
  let total = 0;
  for (const item of items) {
    if (item.price === undefined) {
      throw new Error("the item " + item.name + " has no price");
    }
    total += item.price * item.count;
  }
  return total;
}

function longestName(items) {
  let longest = "";
  for (const item of items) {
    if (item.name.length > longest.length) {
      longest = item.name;
    }
  }
  return longest;
}
`;

/** A conversation for `/v1/chat/completions`. */
export interface Conversation {
  readonly kind: string;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
}

/** What speculation is tried on: an answer that repeats its prompt, and one that does not. */
export const CONVERSATIONS: readonly Conversation[] = Object.freeze([
  {
    kind: "code edit",
    messages: [{
      role: "user",
      content: "Rename the variable `items` to `goods` in this code. Answer with the whole code " +
        `and nothing else.\n\n\`\`\`js\n${CODE}\`\`\`\n`,
    }],
  },
  {
    kind: "ordinary",
    messages: [{
      role: "user",
      content: "Why do the leaves of many trees turn red and yellow in autumn? Answer in a few " +
        "paragraphs.",
    }],
  },
]);
