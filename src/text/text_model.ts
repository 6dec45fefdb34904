/** Makes a TextModel of an engine, a tokenizer and a chat template. */

import { type ChatTemplate, promptOpensReasoning } from "../chat/mod.ts";
import type { Engine } from "../engine/types.ts";
import { CapacityError, RequestError } from "../errors.ts";
import type { SamplingParams } from "../sampling/types.ts";
import type { Tokenizer } from "../tokenizer/mod.ts";
import { answer } from "./answer.ts";
import { controlTokenPattern, Disarmed } from "./chat_prompt.ts";
import type {
  Prompt,
  TextEvent,
  TextMessage,
  TextModel,
  TextOptions,
  TextPromptOptions,
  TokenizerFacts,
} from "./types.ts";

export interface TextModelParts {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** What the model's file says about sampling; nothing where absent. */
  readonly defaultSampling?: Partial<SamplingParams>;
}

/** The engine, the tokenizer and the template as one. `close` closes the engine. */
export function createTextModel(parts: TextModelParts): TextModel {
  return new EngineTextModel(parts);
}

class EngineTextModel implements TextModel {
  readonly tokenizerFacts: TokenizerFacts;
  readonly hasTemplate: boolean;
  readonly defaultSampling: Partial<SamplingParams>;
  readonly #parts: TextModelParts;
  /** Texts that messages may hold as plain text only. */
  readonly #control: RegExp | null;

  constructor(parts: TextModelParts) {
    this.#parts = parts;
    const { tokenizer, template } = parts;
    const text = (id: number | null) => id === null ? null : tokenizer.idToPiece(id);
    this.tokenizerFacts = {
      bosToken: text(tokenizer.bosToken),
      eosToken: text(tokenizer.eosToken),
      padToken: text(tokenizer.padToken),
      chatTemplate: template.isFallback ? null : template.source,
    };
    this.hasTemplate = !template.isFallback;
    this.defaultSampling = parts.defaultSampling ?? {};
    this.#control = controlTokenPattern(tokenizer, template.source);
  }

  get info() {
    return this.#parts.engine.info;
  }

  async textPrompt(
    prompt: string | readonly number[],
    options: TextPromptOptions = {},
  ): Promise<Prompt> {
    const { tokenizer } = this.#parts;
    const isText = typeof prompt === "string";
    const tokens = isText ? await this.encode(prompt, options) : prompt;
    if (tokens.length === 0) {
      throw new RequestError("cannot read the prompt: it has no tokens, must have one", {
        param: "prompt",
      });
    }
    return {
      tokens,
      text: isText ? prompt : tokenizer.decode(tokens),
      prefixTokens: isText && (options.addSpecial ?? true) ? tokenizer.prefix.length : 0,
      reasoning: "none",
    };
  }

  async chatPrompt(messages: readonly TextMessage[]): Promise<Prompt> {
    const { tokenizer, template } = this.#parts;
    const disarmed = new Disarmed(messages, this.#control);
    const rendered = renderMessages(template, disarmed.messages);
    const tokens: number[] = [];
    for (const { text, parseSpecial } of disarmed.parts(rendered, this.#control)) {
      // Templates write BOS themselves where the model wants one.
      for (const id of await tokenizer.encodeAsync(text, { addSpecial: false, parseSpecial })) {
        tokens.push(id);
      }
    }
    if (tokens.length === 0) {
      throw new RequestError("cannot read the messages: they render to no tokens", {
        param: "messages",
      });
    }
    const thinks = template.source.includes("</think>");
    const reasoning = promptOpensReasoning(rendered) ? "inside" : thinks ? "outside" : "none";
    return { tokens, text: rendered, prefixTokens: 0, reasoning };
  }

  checkLength(
    prompt: Prompt,
    { maxTokens, param }: { maxTokens?: number; param: string },
  ): void {
    const { contextLength } = this.info;
    const length = prompt.tokens.length;
    const wanted = maxTokens ?? 1;
    if (length + wanted <= contextLength) return;
    const asked = maxTokens === undefined
      ? `cannot answer: the prompt is ${length} tokens long, must be fewer than ${contextLength}`
      : `cannot answer: the prompt is ${length} tokens long and ${maxTokens} more are asked for, ` +
        `must be at most ${contextLength} together`;
    throw new RequestError(`${asked} (the context length)`, {
      param,
      code: "context_length_exceeded",
    });
  }

  answer(prompt: Prompt, options: TextOptions): AsyncIterable<TextEvent> {
    return answer(this.#parts, { prompt, options });
  }

  async encode(text: string, options: TextPromptOptions = {}): Promise<number[]> {
    const { addSpecial = true, parseSpecial = false } = options;
    return await this.#parts.tokenizer.encodeAsync(text, { addSpecial, parseSpecial });
  }

  decode(tokens: readonly number[]): string {
    return this.#parts.tokenizer.decode(tokens);
  }

  stats() {
    return this.#parts.engine.stats();
  }

  async routingStats() {
    return await this.#parts.engine.routingStats();
  }

  async close(): Promise<void> {
    await this.#parts.engine.close();
  }
}

/** Renders; a conversation that is too much for the template is the request's error. */
function renderMessages(template: ChatTemplate, messages: readonly TextMessage[]): string {
  try {
    return template.render(messages.map(({ role, content, reasoning, name, toolCallId }) => ({
      // Templates know one word for instructions.
      role: role === "developer" ? "system" : role,
      content,
      ...(reasoning !== undefined && { reasoning_content: reasoning }),
      ...(name !== undefined && { name }),
      ...(toolCallId !== undefined && { tool_call_id: toolCallId }),
    })));
  } catch (error) {
    if (!(error instanceof CapacityError)) throw error;
    throw new RequestError(error.message, { param: "messages" });
  }
}
