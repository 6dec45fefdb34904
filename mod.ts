/**
 * Serves DeepSeek-style language models: load one, ask it in this process, or serve it over HTTP.
 *
 * ```ts
 * import { createApp, loadModel } from "./mod.ts";
 *
 * const model = await loadModel({ model: "model.gguf" });
 * const app = createApp({ model, modelId: "my-model" });
 * Deno.serve(app.fetch);
 * ```
 *
 * `loadModel` gives text in, text out; `openEngine` gives token ids in, token ids out. The computing
 * happens in a worker, so the thread that calls stays free. See `examples/embed.ts`.
 *
 * @module
 */

export { type AppOptions, createApp } from "./routes/mod.ts";
export { loadModel, type LoadModelOptions } from "./src/text/load.ts";
export { createTextModel, type TextModelParts } from "./src/text/text_model.ts";
export type {
  Prompt,
  PromptScore,
  ScoredPiece,
  TextEvent,
  TextMessage,
  TextModel,
  TextOptions,
  TextPromptOptions,
  TokenPiece,
  TokenScore,
  Usage,
} from "./src/text/types.ts";
export { openEngine } from "./src/engine/open_engine.ts";
export type {
  Engine,
  EngineEvent,
  EngineInfo,
  EngineOptions,
  EngineStats,
  ExpertGroups,
  FinishReason,
  GenerateRequest,
  LayerRoutingStats,
  LoadProgress,
  RoutedLayerInfo,
  RoutingStats,
  Timings,
  TokenLogprob,
  TokenRouting,
} from "./src/engine/types.ts";
export { NEUTRAL_SAMPLING, type SamplingParams } from "./src/sampling/types.ts";
export {
  CapacityError,
  ExpertReadError,
  FormatError,
  OptionError,
  RequestError,
  UnsupportedOpError,
} from "./src/errors.ts";
export { serve, type ServeOptions, type Server } from "./src/server/serve.ts";
