/** The chat template that belongs to a checkpoint. */

import { FormatError } from "../errors.ts";
import type { MetadataValue, TensorSource } from "../formats/tensor_source.ts";
import type { Tokenizer } from "../tokenizer/mod.ts";
import { ChatTemplate, type ChatTemplateOptions } from "./chat_template.ts";

/** ChatML, the form most models without a template were trained on. */
const CHATML = "{% for message in messages %}" +
  "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** A file's templates by name; published names are `default` and `tool_use`. */
type Templates = ReadonlyMap<string, string>;

/**
 * Reads a checkpoint's template: the `tokenizer.chat_template` keys of GGUF, or a Hugging Face
 * folder's chat_template.jinja or tokenizer_config.json. Without any it is ChatML, which
 * `isFallback` tells. FormatError where a template is damaged.
 */
export async function loadChatTemplate(
  source: Pick<TensorSource, "format" | "name" | "metadata" | "sidecar">,
  options: { tokenizer: Tokenizer } & Pick<ChatTemplateOptions, "budget" | "now">,
): Promise<ChatTemplate> {
  const { tokenizer, ...rest } = options;
  const action = `read the chat template of ${JSON.stringify(source.name)}`;
  const templates = source.format === "gguf"
    ? ggufTemplates(source.metadata, action)
    : await folderTemplates(source, action);
  const first = templates.get("default") ?? templates.values().next().value;
  const text = (id: number | null) => id === null ? null : tokenizer.idToPiece(id);
  return new ChatTemplate(first ?? CHATML, {
    ...rest,
    name: source.name,
    bosToken: text(tokenizer.bosToken),
    eosToken: text(tokenizer.eosToken),
    padToken: text(tokenizer.padToken),
    toolTemplate: templates.get("tool_use") ?? null,
    isFallback: first === undefined,
  });
}

const GGUF_KEY = "tokenizer.chat_template";

function ggufTemplates(metadata: ReadonlyMap<string, MetadataValue>, action: string): Templates {
  const templates = new Map<string, string>();
  for (const [key, value] of metadata) {
    if (key !== GGUF_KEY && !key.startsWith(`${GGUF_KEY}.`)) continue;
    if (typeof value !== "string") throw FormatError.of(action, key, typeof value, "a string");
    const name = key === GGUF_KEY ? "default" : key.slice(GGUF_KEY.length + 1);
    templates.set(name, value);
  }
  return templates;
}

async function folderTemplates(
  source: Pick<TensorSource, "sidecar">,
  action: string,
): Promise<Templates> {
  const file = await source.sidecar("chat_template.jinja");
  if (file !== null) return new Map([["default", file]]);
  const config = await source.sidecar("tokenizer_config.json");
  if (config === null) return new Map();
  const value = parseConfig(config, action).chat_template;
  if (value === undefined || value === null) return new Map();
  if (typeof value === "string") return new Map([["default", value]]);
  const wrong = () =>
    FormatError.of(action, "chat_template", typeof value, "a string or a list of named templates");
  if (!Array.isArray(value)) throw wrong();
  return new Map(value.map((entry) => {
    const { name, template } = (entry ?? {}) as Record<string, unknown>;
    if (typeof name !== "string" || typeof template !== "string") throw wrong();
    return [name, template];
  }));
}

function parseConfig(text: string, action: string): Record<string, unknown> {
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch {
    throw FormatError.of(action, "tokenizer_config.json", "not JSON", "JSON");
  }
  if (typeof config !== "object" || config === null) {
    throw FormatError.of(action, "tokenizer_config.json", String(config), "an object");
  }
  return config as Record<string, unknown>;
}
