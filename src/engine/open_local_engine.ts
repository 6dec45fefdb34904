/** Opens a model and an engine in the present thread. */

import { type Backend, PAGE_TOKENS } from "../backend/backend.ts";
import { budgetWarnings } from "../backend/budget.ts";
import { chooseBackend, createBackend } from "../backend/create.ts";
import { rootKey } from "../cache/chain.ts";
import type { HybridPlan } from "../experts/hybrid_plan.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { loadModel, readModelConfig } from "../model/registry.ts";
import type { Model } from "../model/types.ts";
import { BackendLostError, CapacityError } from "../errors.ts";
import type { HybridBackend } from "../backend/hybrid/mod.ts";
import { checkWorthwhile, planFor } from "./hybrid_planning.ts";
import { DEFAULT_KV_TYPE, HYBRID_CHUNK_TOKENS, MIXED_TOKENS } from "./limits.ts";
import { LocalEngine } from "./local_engine.ts";
import { IdentifiedSource } from "./model_identity.ts";
import { Rebalancer } from "./rebalancer.ts";
import { chooseSizes, type Sizing } from "./sizing.ts";
import { StepRunner } from "./step_runner.ts";
import type { EngineInfo, EngineOptions } from "./types.ts";
import type { OpenHooks } from "./worker_host.ts";

/** A KV cache of fewer pages is not worth having: 512 tokens. */
const MIN_PAGES = 8;

/**
 * Opens the checkpoint, the backend and the model. Throws FormatError, UnsupportedOpError,
 * CapacityError or OptionError; nothing stays open then.
 */
export async function openLocalEngine(
  options: EngineOptions,
  hooks: OpenHooks = {},
): Promise<LocalEngine> {
  const backendChosen = options.backend === "auto" || options.backendChosen === true;
  if (!backendChosen) return await openOn(options, hooks);
  const backend = options.backend === "auto" ? await chooseBackend(options) : options.backend;
  try {
    return await openOn({ ...options, backend, backendChosen }, hooks);
  } catch (error) {
    const isGpus = error instanceof CapacityError || error instanceof BackendLostError;
    if (backend !== "webgpu" || !isGpus) throw error;
    const warnings = [`the GPU is not used: ${error.message}`];
    return await openOn({ ...options, backend: "wasm", backendChosen }, hooks, warnings);
  }
}

/** Opens an engine on the backend that the options name. */
async function openOn(
  asked: EngineOptions,
  hooks: OpenHooks,
  warnings: string[] = [],
): Promise<LocalEngine> {
  const options = asked.backend === "hybrid" ? forTurns(asked) : asked;
  const checkpoint = await openCheckpoint(options.model);
  // Only what outlives the process needs a name for the model's content.
  const identified = hooks.store === undefined ? undefined : new IdentifiedSource(checkpoint);
  const source = identified ?? checkpoint;
  let isReadLater = false;
  try {
    const sizes = chooseSizes({ ...sizesOf(options), config: readModelConfig(source) });
    const plan = await hybridPlan(source, { options, sizes });
    const backend = await createBackend({
      ...options,
      weightBytes: source.byteLength,
      placement: options.hybrid?.placement ?? plan?.placement,
    });
    try {
      if (options.speculation === "ngram" && backend.chooses) {
        warnings.push(`nothing is guessed (--speculate ngram) on the ${backend.name} backend`);
      }
      const model = await loadModel({
        source,
        backend,
        maxRows: sizes.maxRows,
        maxLogitRows: sizes.logitRows,
        expertGroups: options.expertGroups,
        onProgress: hooks.onProgress,
        onWarning: (line) => warnings.push(line),
      });
      const { runner, pages, contextLength } = createRunner({ backend, model, options, sizes });
      const rebalancer = rebalancerOf(backend, model);
      const routedLayers = model.routedLayers.length;
      warnings.push(...budgetWarnings(options, { routedLayers, memory: backend.memory() }));
      const engine = new LocalEngine({
        info: describe({ source, backend, model, contextLength, warnings, engine: options, plan }),
        runner,
        chunkTokens: options.chunkTokens,
        mixedTokens: Math.min(options.chunkTokens, MIXED_TOKENS),
        maxRows: sizes.maxRows,
        logitRows: sizes.logitRows,
        pages,
        rootOf: rootsOf({
          ...{ options, backend, model: await identified?.identity() ?? "" },
          version: () => rebalancer?.version ?? 0,
        }),
        rootVersion: () => rebalancer?.version ?? 0,
        reusePrefixes: options.reusePrefixes,
        store: hooks.store,
        speculates: options.speculation === "ngram",
        draftLength: hooks.draftLength,
        maxWaiting: options.maxWaiting,
        // Reading each step's choices would make the host wait for it.
        countRouting: options.countRouting ?? !backend.chooses,
        onRouting: rebalancer && ((routing, rows) => rebalancer.add(routing, rows)),
        onStepEnd: hooks.onStepEnd,
        onLost: hooks.onLost,
        onClosed: () => source.close(),
      });
      // Experts that move to the GPU are read when they do.
      isReadLater = rebalancer !== undefined;
      return engine;
    } catch (error) {
      backend.close();
      throw error;
    }
  } finally {
    if (!isReadLater) source.close();
  }
}

/** Steps of a GPU and the CPU in turns are to be long: their waits are not. */
function forTurns(options: EngineOptions): EngineOptions {
  return { ...options, chunkTokens: Math.max(options.chunkTokens, HYBRID_CHUNK_TOKENS) };
}

/** The GPU's memory bounds the cache that lies there. */
function sizesOf(options: EngineOptions): EngineOptions {
  const { backend, memoryBytes, gpuBytes } = options;
  return backend === "hybrid" ? { ...options, memoryBytes: memoryBytes ?? gpuBytes } : options;
}

/** The plan of a model that is to lie on the GPU and the CPU; undefined where it is not, or need not be planned. */
async function hybridPlan(
  source: TensorSource,
  { options, sizes }: { options: EngineOptions; sizes: Sizing },
): Promise<HybridPlan | undefined> {
  const { backend, hybrid = {} } = options;
  if (backend !== "hybrid" || hybrid.placement !== undefined) return undefined;
  const plan = await planFor(source, { options, sizes });
  checkWorthwhile(plan, hybrid);
  return plan;
}

/**
 * A runner with the chosen sizes, or, where nobody asked for a context length, with the largest KV
 * cache of those divided by powers of two that the backend has memory for.
 */
function createRunner(
  { backend, model, options, sizes }: {
    backend: Backend;
    model: Model;
    options: EngineOptions;
    sizes: Sizing;
  },
): { runner: StepRunner; pages: number; contextLength: number } {
  let { pages, contextLength } = sizes;
  while (true) {
    try {
      const { maxRows } = sizes;
      const { slots, kvType = DEFAULT_KV_TYPE } = options;
      const shape = { slots, maxRows, pages, contextLength, kvType };
      const runner = new StepRunner({ backend, model, ...shape });
      return { runner, pages, contextLength };
    } catch (error) {
      const mayShrink = options.contextLength === undefined && pages >= 2 * MIN_PAGES;
      if (!(error instanceof CapacityError) || !mayShrink) throw error;
      pages = Math.floor(pages / 2);
      contextLength = Math.min(contextLength, pages * PAGE_TOKENS);
    }
  }
}

function describe(
  options: {
    source: TensorSource;
    backend: Backend;
    model: Model;
    contextLength: number;
    warnings: readonly string[];
    engine: EngineOptions;
    plan: HybridPlan | undefined;
  },
): EngineInfo {
  const { source, backend, model, contextLength, warnings, engine, plan } = options;
  const name = source.metadata.get("general.name");
  const { adapter } = backend;
  return {
    architecture: model.config.architecture,
    modelName: typeof name === "string" && name !== "" ? name : source.name,
    parameters: model.parameters,
    activeParameters: model.activeParameters,
    quantisation: mainType(source),
    vocabSize: model.config.vocabSize,
    contextLength,
    slots: engine.slots,
    backend: backend.name,
    backendChosen: engine.backendChosen ?? false,
    ...(adapter !== undefined && { adapter }),
    threads: backend.threads,
    activations: backend.activations,
    memory: backend.memory(),
    conversions: [...backend.conversions],
    warnings,
    routedLayers: model.routedLayers.map(({ layer, experts, topK }) => ({ layer, experts, topK })),
    ...(plan !== undefined && { hybrid: plan }),
  };
}

/** What moves a hybrid's experts; undefined where there is nothing to move. */
function rebalancerOf(backend: Backend, { routedLayers }: Model): Rebalancer | undefined {
  if (backend.name !== "hybrid" || routedLayers.length === 0) return undefined;
  return new Rebalancer({ backend: backend as HybridBackend, layers: routedLayers });
}

/** The beginnings of tenants' chains: whatever decides the bits of the cache is in them. */
function rootsOf(
  { options, backend, model, version }: {
    options: EngineOptions;
    backend: Backend;
    model: string;
    version: () => number;
  },
): (tenant: string) => string {
  const { kvType = DEFAULT_KV_TYPE, expertGroups } = options;
  const { name, numerics, activations } = backend;
  const here = crypto.randomUUID();
  return (tenant) => {
    const bits = [name, numerics, activations, expertGroups ?? null];
    // Where experts have moved, nobody but this process knows where they lay when.
    const moved = version() === 0 ? [] : [version(), here];
    return rootKey({ model, numerics: JSON.stringify([...bits, ...moved]), kvType, tenant });
  };
}

/** The type that most bytes of the checkpoint have. */
function mainType(source: TensorSource): string {
  const bytes = new Map<string, number>();
  for (const { type, byteLength } of source.tensors.values()) {
    bytes.set(type, (bytes.get(type) ?? 0) + byteLength);
  }
  const [main] = [...bytes].sort((a, b) => b[1] - a[1]);
  return main?.[0] ?? "none";
}
