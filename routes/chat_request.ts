/** `POST /v1/chat/completions`: from the wire to a conversation and its options. */

import type { TextMessage } from "../src/text/types.ts";
import { fieldError, Fields, unsupportedField } from "./fields.ts";
import {
  type GenerationFields,
  MAX_TOP_LOGPROBS,
  type ModelFacts,
  readGenerationFields,
  readMaxTokens,
} from "./generation_fields.ts";
import { refuseUnsupported } from "./unsupported.ts";

export interface ChatRequest extends GenerationFields {
  readonly messages: readonly TextMessage[];
  readonly maxTokens: number | undefined;
  /** Undefined: no log-probabilities. */
  readonly topLogprobs: number | undefined;
}

export const MAX_MESSAGES = 4_096;

const ROLES = ["system", "developer", "user", "assistant", "tool"] as const;

function readRole(message: Fields): TextMessage["role"] {
  const given = message.string("role");
  const role = ROLES.find((role) => role === given);
  if (role === undefined) {
    throw fieldError(message.path("role"), given ?? null, `one of ${ROLES.join(", ")}`);
  }
  return role;
}

/** A string, or a list of text parts, which are joined; null is an empty assistant message. */
function readContent(message: Fields, role: TextMessage["role"]): string {
  const path = message.path("content");
  const value = message.raw("content");
  if (typeof value === "string") return value;
  if (value === undefined && role === "assistant") return "";
  if (!Array.isArray(value)) {
    throw fieldError(path, value ?? null, "a string or a list of text parts");
  }
  return value.map((part, i) => {
    if (typeof part === "string") return part;
    if (typeof part !== "object" || part === null) {
      throw fieldError(`${path}[${i}]`, part, "a text part");
    }
    const { type, text } = part as { type?: unknown; text?: unknown };
    if (type !== "text" && typeof type === "string") {
      throw unsupportedField(`${path}[${i}]`, 'only parts of type "text" are');
    }
    if (type !== "text" || typeof text !== "string") {
      throw fieldError(`${path}[${i}]`, part, 'an object like {"type":"text","text":"..."}');
    }
    return text;
  }).join("");
}

function readMessage(message: Fields): TextMessage {
  const role = readRole(message);
  const toolCalls = message.raw("tool_calls");
  if (toolCalls !== undefined && !(Array.isArray(toolCalls) && toolCalls.length === 0)) {
    throw unsupportedField(message.path("tool_calls"));
  }
  for (const name of ["function_call", "audio"]) {
    if (message.raw(name) !== undefined) throw unsupportedField(message.path(name));
  }
  if (message.boolean("prefix") === true) throw unsupportedField(message.path("prefix"));
  const name = message.string("name");
  const toolCallId = message.string("tool_call_id");
  const reasoning = message.string("reasoning_content");
  return {
    role,
    content: readContent(message, role),
    ...(name !== undefined && { name }),
    ...(toolCallId !== undefined && { toolCallId }),
    ...(reasoning !== undefined && { reasoning }),
  };
}

function readMessages(fields: Fields): TextMessage[] {
  const list = fields.list("messages");
  if (list === undefined || list.length === 0 || list.length > MAX_MESSAGES) {
    throw fieldError("messages", list ?? null, `a list of 1 to ${MAX_MESSAGES} messages`);
  }
  return list.map((message, i) => {
    const path = `messages[${i}]`;
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw fieldError(path, message, "an object with role and content");
    }
    return readMessage(new Fields(message as Record<string, unknown>, `${path}.`));
  });
}

/** Throws RequestError naming the field that is wrong or not supported. */
export function readChatRequest(
  body: Readonly<Record<string, unknown>>,
  model: ModelFacts,
): ChatRequest {
  const fields = new Fields(body);
  const messages = readMessages(fields);
  const generation = readGenerationFields(fields, model);
  const logprobs = fields.boolean("logprobs") ?? false;
  const topLogprobs = fields.integer("top_logprobs", { min: 0, max: MAX_TOP_LOGPROBS });
  if (topLogprobs !== undefined && topLogprobs > 0 && !logprobs) {
    throw fieldError("top_logprobs", topLogprobs, "left out where logprobs is not true");
  }
  if (fields.boolean("echo") === true) throw unsupportedField("echo");
  refuseUnsupported(fields);
  return {
    ...generation,
    messages,
    maxTokens: readMaxTokens(fields, { names: ["max_completion_tokens", "max_tokens"], min: 1 }),
    topLogprobs: logprobs ? topLogprobs ?? 0 : undefined,
  };
}
