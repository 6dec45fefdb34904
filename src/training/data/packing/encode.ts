/**
 * Rows as token ids with what counts towards the loss. Conversations are rendered and encoded as the
 * server does it for a prompt, so that a model is asked what it was trained on.
 */

import type { ChatTemplate } from "../../../chat/chat_template.ts";
import { promptOpensReasoning } from "../../../chat/reasoning.ts";
import { controlTokenPattern, Disarmed } from "../../../text/chat_prompt.ts";
import type { Tokenizer } from "../../../tokenizer/mod.ts";
import type { ChatDraft, Draft, Message } from "../rows.ts";

/** One training sample: nothing in it sees another. */
export interface Sample {
  readonly ids: Int32Array;
  /** 1 where the token is one that the model is to predict, 0 where it is given. */
  readonly targets: Uint8Array;
  /** Longer ones may be cut in pieces, or have to be left out. */
  readonly kind: Draft["kind"];
}

export class SampleEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #template: ChatTemplate;
  readonly #control: RegExp | null;
  readonly #bos: readonly number[];
  readonly #eos: readonly number[];

  constructor(tokenizer: Tokenizer, template: ChatTemplate) {
    this.#tokenizer = tokenizer;
    this.#template = template;
    this.#control = controlTokenPattern(tokenizer, template.source);
    this.#bos = tokenizer.bosToken === null ? [] : [tokenizer.bosToken];
    this.#eos = tokenizer.eosToken === null ? [] : [tokenizer.eosToken];
  }

  /**
   * The samples of a row. Of a conversation, one for each answer, since the template leaves the reasoning
   * of earlier answers out: the answer's tokens count, with the end of sequence. Of a text, all count.
   */
  encode(draft: Draft): Sample[] {
    if (draft.kind === "text") {
      const text = this.#tokenizer.encode(draft.text, { addSpecial: false, parseSpecial: false });
      return [sampleOf({ given: this.#bos, wanted: [...text, ...this.#eos], kind: "text" })];
    }
    return draft.messages.flatMap(({ role }, i) =>
      role === "assistant" ? [this.#answer(draft, i)] : []
    );
  }

  /** The ids in front of the answer to a conversation that ends with its user. */
  promptIds(messages: readonly Message[]): { ids: number[]; opensReasoning: boolean } {
    const disarmed = new Disarmed(messages, this.#control);
    const rendered = this.#template.render(disarmed.messages.map((message) => ({ ...message })));
    const ids = disarmed.parts(rendered, this.#control).flatMap(({ text, parseSpecial }) =>
      this.#tokenizer.encode(text, { addSpecial: false, parseSpecial })
    );
    return { ids, opensReasoning: promptOpensReasoning(rendered) };
  }

  #answer({ messages }: ChatDraft, at: number): Sample {
    const prompt = this.promptIds(messages.slice(0, at));
    const text = completionOf(messages[at].content, prompt);
    const answer = this.#tokenizer.encode(text, { addSpecial: false, parseSpecial: false });
    return sampleOf({ given: prompt.ids, wanted: [...answer, ...this.#eos], kind: "chat" });
  }
}

const OPEN = "<think>\n";
/** What follows an opened `<think>` where there is nothing to think. */
const NO_REASONING = "\n</think>\n\n";

/** What the model writes itself of an assistant's message. */
function completionOf(content: string, prompt: { opensReasoning: boolean }): string {
  if (!prompt.opensReasoning) return content;
  return content.startsWith(OPEN) ? content.slice(OPEN.length) : NO_REASONING + content;
}

function sampleOf(
  parts: { given: readonly number[]; wanted: readonly number[]; kind: Draft["kind"] },
): Sample {
  const { given, wanted, kind } = parts;
  const ids = Int32Array.from([...given, ...wanted]);
  const targets = new Uint8Array(ids.length).fill(1, given.length);
  // Nothing comes before the first token that it could be predicted from.
  targets[0] = 0;
  return { ids, targets, kind };
}
