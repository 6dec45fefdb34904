/** `deno task bench --serving`: servers under load. */

import type { KvType } from "../backend/backend.ts";
import { describeMachine, loadAverage } from "../bench/machine.ts";
import { formatServing, measureServing, type ServingFigures } from "../bench/serving/mod.ts";
import { readWorkload } from "../bench/workload.ts";
import { DEFAULT_KV_TYPE } from "../engine/limits.ts";
import { cachePageBytes } from "../engine/sizing.ts";
import { openCheckpoint } from "../formats/open.ts";
import { readModelConfig } from "../model/registry.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../text/load.ts";
import {
  baseName,
  defaultModel,
  precisions,
  quietness,
  threadCounts,
  type Values,
  withWarning,
} from "./bench_values.ts";

/** `failed` where a part did; the figures of the others stand. */
export async function benchServing(values: Values, onProgress: (line: string) => void) {
  const model = values.model ?? defaultModel();
  const workload = await readWorkload(model);
  const serverFlags = values["server-flags"];
  const kvType = (serverFlags["kv-type"] ?? DEFAULT_KV_TYPE) as KvType;
  const { runs, streams, prompt, answer, prefix, requests, idle, burst } = values;
  const { warning, ...before } = quietness(onProgress);
  const serving: ServingFigures[] = [];
  for (const threads of threadCounts(values)) {
    for (const activations of precisions(values, [DEFAULT_ENGINE_OPTIONS.activations])) {
      serving.push(
        await measureServing(values.serving, {
          ...{ model, workload, unitBytes: await pageBytesOf(model, kvType) },
          ...{ threads, activations, serverFlags, runs, streams, prompt, answer, prefix },
          ...{ requests, idle, burst, onProgress },
          llamaPython: values.peers ? values["llama-python"] : undefined,
        }),
      );
    }
  }
  const json = {
    ...{ model: baseName(model), workload, machine: describeMachine() },
    ...{ ...before, loadAfter: loadAverage(), serverFlags, serving },
  };
  const failed = serving.some((figures) => figures.failed.length > 0);
  return { text: withWarning(formatServing(serving), warning), json, failed };
}

/** Bytes of a page of the KV cache; throws FormatError as loading does. */
async function pageBytesOf(model: string, kvType: KvType): Promise<number> {
  const source = await openCheckpoint(model);
  try {
    return cachePageBytes(readModelConfig(source), kvType);
  } finally {
    source.close();
  }
}
