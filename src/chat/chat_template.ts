/** Chat templates: messages to the prompt text that a model was trained on. */

import { Environment } from "@huggingface/jinja";
import { CapacityError, RequestError } from "../errors.ts";
import { DEFAULT_BUDGET, exceeded, MAX_LIST, type RenderBudget } from "./jinja_budget.ts";
import { BudgetedInterpreter } from "./jinja_interpreter.ts";
import { type JinjaProgram, parseTemplate } from "./jinja_program.ts";
import { strftime } from "./strftime.ts";

/** A message as templates read it: `role`, `content` and what the model's template knows besides. */
export type ChatMessage = { readonly role: string; readonly [key: string]: unknown };

/** What templates know beside the messages. */
export interface ChatTemplateOptions {
  /** For error messages: `parse the chat template of "name"`. Default "the model". */
  readonly name?: string;
  /** Texts of special tokens; null where the model has none, which leaves the variable undefined. */
  readonly bosToken?: string | null;
  readonly eosToken?: string | null;
  readonly padToken?: string | null;
  readonly unkToken?: string | null;
  /** A template to use instead when there are tools. */
  readonly toolTemplate?: string | null;
  /** Set where the file had no template and `source` is a built-in one. */
  readonly isFallback?: boolean;
  readonly budget?: Partial<RenderBudget>;
  /** The clock of `strftime_now`. */
  readonly now?: () => Date;
}

export interface RenderOptions {
  /** Tool definitions in OpenAI's form; templates see none where it is empty. */
  readonly tools?: readonly unknown[] | null;
  readonly documents?: readonly unknown[] | null;
  /** Ends the prompt where the assistant's answer begins. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** More variables, `enable_thinking` for instance; they cannot replace the ones above. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

/** Thrown by a template's `raise_exception`. */
class RaisedByTemplate extends Error {}

/** A model's template. It comes from the model's file, never from a request. */
export class ChatTemplate {
  /** The Jinja text. */
  readonly source: string;
  /** Whether the file had no template, so that prompts follow a common form (ChatML). */
  readonly isFallback: boolean;
  readonly #program: JinjaProgram;
  readonly #toolProgram: JinjaProgram;
  readonly #specialTokens: Record<string, string>;
  readonly #budget: RenderBudget;
  readonly #now: () => Date;

  /** Parses the template; FormatError where it is damaged or too large. */
  constructor(source: string, options: ChatTemplateOptions = {}) {
    const name = options.name === undefined ? "the model" : JSON.stringify(options.name);
    const action = `parse the chat template of ${name}`;
    this.source = source;
    this.isFallback = options.isFallback ?? false;
    this.#program = parseTemplate(source, { action });
    this.#toolProgram = typeof options.toolTemplate === "string"
      ? parseTemplate(options.toolTemplate, { action })
      : this.#program;
    this.#specialTokens = {};
    for (const key of ["bos", "eos", "pad", "unk"] as const) {
      const text = options[`${key}Token`];
      if (typeof text === "string") this.#specialTokens[`${key}_token`] = text;
    }
    this.#budget = { ...DEFAULT_BUDGET, ...options.budget };
    this.#now = options.now ?? (() => new Date());
  }

  /**
   * Renders a conversation. RequestError where the template refuses it (`raise_exception`) or cannot
   * handle it, CapacityError where rendering exceeds its budget.
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const tools = options.tools?.length ? options.tools : null;
    const program = tools === null ? this.#program : this.#toolProgram;
    const interpreter = new BudgetedInterpreter(
      this.#scope({
        ...options.extra,
        ...this.#specialTokens,
        messages,
        tools,
        documents: options.documents ?? null,
        add_generation_prompt: options.addGenerationPrompt ?? true,
      }),
      { program, budget: this.#budget },
    );
    try {
      return interpreter.render();
    } catch (error) {
      throw translate(error);
    }
  }

  #scope(variables: Record<string, unknown>): Environment {
    const scope = new Environment();
    const globals: Record<string, unknown> = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range: boundedRange,
      raise_exception: (message: unknown) => {
        throw new RaisedByTemplate(String(message));
      },
      strftime_now: (format: unknown) => strftime(this.#now(), String(format)),
    };
    for (const [name, value] of Object.entries({ ...variables, ...globals })) {
      // The scope has its own `namespace`; a variable of that name would be refused.
      if (name !== "namespace") scope.set(name, value);
    }
    return scope;
  }
}

function boundedRange(...limits: unknown[]): number[] {
  if (limits.length < 1 || limits.length > 3 || !limits.every(Number.isInteger)) {
    throw new TypeError("range() takes one to three integers");
  }
  const given = limits as number[];
  const [start, stop] = given.length === 1 ? [0, given[0]] : given;
  const step = given[2] ?? 1;
  if (step === 0) throw new TypeError("range() step must not be zero");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (count > MAX_LIST) throw exceeded("a range", `${MAX_LIST} elements`);
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** The error that a caller gets for whatever stopped the interpreter. */
function translate(error: unknown): Error {
  // What the interpreter throws of its own accord is an Error, a SyntaxError or a TypeError.
  if (error instanceof CapacityError || error instanceof ReferenceError) return error as Error;
  if (error instanceof RaisedByTemplate) {
    return new RequestError(error.message, { param: "messages", code: "chat_template" });
  }
  // The engine's own limits: its stack, or the length of a string.
  if (error instanceof RangeError) {
    return new CapacityError("cannot render the chat template: it recurses or grows without end");
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new RequestError(
    `the model's chat template cannot render these messages: ${reason}`,
    { param: "messages", code: "chat_template" },
  );
}
