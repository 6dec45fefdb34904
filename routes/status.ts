/** `GET /health` and `GET /v1/models`: what is served, and whether it can be asked yet. */

import type { Context } from "hono";
import { RequestError } from "../src/errors.ts";
import type { ServedName } from "./chat.ts";
import type { Serving } from "./serving.ts";

/** 200 once the model answers, 503 before, after a failed load and while shutting down. */
export function health(context: Context, { serving }: { serving: Serving }): Response {
  const state = serving.state();
  if (state !== "ready") {
    context.header("retry-after", "1");
    return context.json({ status: state }, 503);
  }
  const { running, waiting } = serving.model().stats();
  return context.json({ status: "ok", running, waiting });
}

interface ModelsOptions {
  readonly serving: Serving;
  readonly name: ServedName;
  readonly created: number;
}

function describeModel({ serving, name, created }: ModelsOptions) {
  const info = serving.state() === "ready" ? serving.model().info : undefined;
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
