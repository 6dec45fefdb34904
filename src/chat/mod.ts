/** What lies between messages and text: chat templates, reasoning, stop strings. */

export {
  type ChatMessage,
  ChatTemplate,
  type ChatTemplateOptions,
  type RenderOptions,
} from "./chat_template.ts";
export { type RenderBudget } from "./jinja_budget.ts";
export { loadChatTemplate } from "./load.ts";
export { promptOpensReasoning, type ReasoningDelta, ReasoningSplitter } from "./reasoning.ts";
export { StopMatcher, type StopResult } from "./stop_strings.ts";
