/**
 * `GET /health`, `GET /metrics` and `GET /v1/models`: what is served, how it fares, and whether it can
 * be asked yet.
 */

import type { Context } from "hono";
import { RequestError } from "../src/errors.ts";
import type { ServedName } from "./chat.ts";
import { METRICS_CONTENT_TYPE } from "../src/server/metrics.ts";
import type { Serving } from "./serving.ts";
import type { ServingMetrics } from "./serving_metrics.ts";

/** 200 once the model answers, 503 before, after a failed load, while draining and when stopping. */
export function health(context: Context, { serving }: { serving: Serving }): Response {
  const state = serving.state();
  if (state !== "ready") {
    context.header("retry-after", "1");
    return context.json({ status: state }, 503);
  }
  const { running, waiting } = serving.model().stats();
  return context.json({ status: "ok", running, waiting });
}

/** Also while the model loads or drains; an engine that has ended leaves what was counted here. */
export async function metrics(
  context: Context,
  { serving, counted }: { serving: Serving; counted: ServingMetrics },
): Promise<Response> {
  const model = serving.loaded();
  const routing = await model?.routingStats().catch(() => undefined);
  const engine = model === undefined ? undefined : {
    stats: model.stats(),
    routing: routing ?? { counting: false, tokens: 0, layers: [] },
  };
  return context.body(counted.page(engine), 200, { "content-type": METRICS_CONTENT_TYPE });
}

interface ModelsOptions {
  readonly serving: Serving;
  readonly name: ServedName;
  readonly created: number;
}

function describeModel({ serving, name, created }: ModelsOptions) {
  const info = serving.loaded()?.info;
  return {
    id: name.modelId,
    object: "model",
    created,
    owned_by: "sluice",
    ...(info !== undefined && {
      max_model_len: info.contextLength,
      architecture: info.architecture,
      parameters: info.parameters,
      active_parameters: info.activeParameters,
      quantization: info.quantisation,
    }),
  };
}

export function listModels(context: Context, options: ModelsOptions): Response {
  return context.json({ object: "list", data: [describeModel(options)] });
}

export function showModel(
  context: Context,
  options: ModelsOptions & { readonly id: string },
): Response {
  if (options.id !== options.name.modelId) {
    throw new RequestError(
      `there is no model ${JSON.stringify(options.id.slice(0, 80))}, only ` +
        JSON.stringify(options.name.modelId),
      { status: 404, param: "model", code: "model_not_found" },
    );
  }
  return context.json(describeModel(options));
}
