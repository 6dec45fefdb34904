/**
 * A model and a backend that a test can predict: the logits after a history of tokens are a hash of
 * that history. The backend keeps tokens where a real one keeps keys and values, reads them back through
 * the page tables, and throws where a row, a position, an angle or a page is not what it must be.
 */

import {
  type Backend,
  type Buffer,
  type Experts,
  type ExpertTraffic,
  type KvCache,
  type KvCacheOptions,
  type LatentCache,
  type ModelCache,
  type Ops,
  PAGE_TOKENS,
  type PagePart,
  type Plan,
  type Weight,
} from "../../src/backend/backend.ts";
import { chooser } from "../../src/backend/reference/choose.ts";
import { rootKey } from "../../src/cache/chain.ts";
import type { UnitStore } from "../../src/cache/store.ts";
import { LocalEngine } from "../../src/engine/local_engine.ts";
import { pagesFor } from "../../src/engine/pages.ts";
import { StepRunner } from "../../src/engine/step_runner.ts";
import type {
  EngineEvent,
  EngineInfo,
  GenerateRequest,
  RoutedLayerInfo,
} from "../../src/engine/types.ts";
import type { ForwardOptions, Model, ModelConfig } from "../../src/model/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";

export const VOCAB = 61;
/** A history that ends with this token has NaN logits. */
export const NAN_TOKEN = 60;
/** A step that computes this token fails as a whole. */
export const FAULT_TOKEN = 59;

const HASH_BITS = 24;

/** Where the hash of a history stands after one more token; 24 bits, exact in float32. */
function extend(hash: number, token: number): number {
  const mixed = Math.imul(hash ^ (token + 0x9e37), 0x85ebca6b);
  return (mixed ^ (mixed >>> 13)) & (2 ** HASH_BITS - 1);
}

/** Logits after `tokens`, in [-4, 4). */
export function toyLogits(tokens: readonly number[]): Float32Array {
  return logitsOfHash(tokens.reduce(extend, 1), tokens[tokens.length - 1]);
}

function logitsOfHash(hash: number, lastToken: number): Float32Array {
  if (lastToken === NAN_TOKEN) return new Float32Array(VOCAB).fill(NaN);
  return Float32Array.from({ length: VOCAB }, (_, token) => {
    // Answers never contain the two tokens with a meaning.
    if (token >= FAULT_TOKEN) return -100;
    return extend(extend(hash, token), token) / 2 ** (HASH_BITS - 3) - 4;
  });
}

/** The greedy answer of the toy model. */
export function toyAnswer(prompt: readonly number[], count: number): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const logits = toyLogits(tokens);
    tokens.push(logits.indexOf(Math.max(...logits)));
  }
  return tokens.slice(prompt.length);
}

/** Two layers with routed experts, for toys that are a mixture. */
export const TOY_ROUTED_LAYERS: readonly RoutedLayerInfo[] = [
  { layer: 1, experts: 8, topK: 2 },
  { layer: 3, experts: 16, topK: 3 },
];

/** What the toy's gates choose for the last of `tokens`: first all experts, then all weights. */
export function toyRouting(tokens: readonly number[]): { experts: number[]; weights: number[] } {
  const hash = tokens.reduce(extend, 1);
  const layers = TOY_ROUTED_LAYERS.map((layer) => routingOfHash(hash, layer));
  return {
    experts: layers.flatMap(({ experts }) => experts),
    weights: layers.flatMap(({ weights }) => weights),
  };
}

function routingOfHash(
  hash: number,
  { experts, topK }: Pick<RoutedLayerInfo, "experts" | "topK">,
): { experts: number[]; weights: number[] } {
  const choices = Array.from({ length: topK }, (_, j) => j);
  return {
    experts: choices.map((j) => (hash + j) % experts),
    weights: choices.map((j) => Math.fround((hash % 97 + 1) / (100 * (j + 1)))),
  };
}

/** A prompt that differs from others of another seed. */
export function toyPrompt(length: number, seed = 0): number[] {
  return Array.from({ length }, (_, i) => (i * 7 + seed * 13 + (i >> 3)) % 50);
}

class ToyBuffer implements Buffer {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
  readonly values: Float32Array | Int32Array;

  constructor({ kind, rows, width }: { kind: "f32" | "i32"; rows: number; width: number }) {
    this.kind = kind;
    this.rows = rows;
    this.width = width;
    const length = rows * width;
    this.values = kind === "f32" ? new Float32Array(length) : new Int32Array(length);
  }
}

interface ToyKvCache extends KvCache {
  /** By page and place in the page: the token, and the position it was stored for. */
  readonly stored: { token: number; position: number }[];
}

interface ToyPlan extends Plan {
  readonly run: readonly (() => void)[];
}

const values = (buffer: Buffer) => (buffer as ToyBuffer).values;

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`toy backend: ${what}`);
}

export class ToyBackend implements Backend {
  readonly name = "toy";
  readonly threads = 1;
  readonly activations = "f32";
  readonly chooses: boolean;
  readonly numerics = "toy";
  readonly conversions: readonly string[] = [];
  /** Rows of each submitted step. */
  readonly steps: number[] = [];
  plansRecorded = 0;
  closed = false;
  /** Steps whose logits the host has read. */
  logitReads = 0;
  /** Reads of routing: of how many rows, and whether of weights. */
  readonly routingReads: { rows: number; weights: boolean }[] = [];
  traffic: readonly ExpertTraffic[] = [];
  /** Milliseconds that a step of this many rows takes. */
  stepMs: (rows: number) => number = () => 0;
  #busyUntil = 0;

  constructor({ chooses = false }: { chooses?: boolean } = {}) {
    this.chooses = chooses;
  }

  upload(): Promise<Weight> {
    throw new Error("the toy model has no weights");
  }

  uploadExperts(): Promise<Experts> {
    throw new Error("the toy model has no weights");
  }

  replaceExpert(): Promise<void> {
    throw new Error("the toy model has no weights");
  }

  createLatentCache(): LatentCache {
    throw new Error("the toy model has no latents");
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    return new ToyBuffer(options);
  }

  createKvCache(options: KvCacheOptions): ToyKvCache {
    const size = options.pages * PAGE_TOKENS;
    return { ...options, byteLength: size * 8, stored: new Array(size).fill(null) };
  }

  pageBytes(_cache: ModelCache, tokens: number): number {
    return tokens * 8;
  }

  /** Token and position of each, as 32-bit integers. */
  readPage({ cache, page, tokens }: PagePart): Promise<Uint8Array<ArrayBuffer>> {
    const { stored } = cache as ToyKvCache;
    const first = page * PAGE_TOKENS;
    const entries = stored.slice(first, first + tokens);
    must(entries.every((entry) => entry !== null), `page ${page} has fewer tokens than ${tokens}`);
    const numbers = entries.flatMap(({ token, position }) => [token, position]);
    return Promise.resolve(new Uint8Array(Int32Array.from(numbers).buffer));
  }

  writePage({ cache, page, tokens }: PagePart, bytes: Uint8Array): void {
    must(bytes.length === this.pageBytes(cache, tokens), "a page has the wrong length");
    const numbers = new Int32Array(bytes.slice().buffer);
    const { stored } = cache as ToyKvCache;
    for (let i = 0; i < tokens; i++) {
      stored[page * PAGE_TOKENS + i] = { token: numbers[2 * i], position: numbers[2 * i + 1] };
    }
  }

  copyPage({ cache, page, tokens }: PagePart, to: number): void {
    const { stored } = cache as ToyKvCache;
    for (let i = 0; i < tokens; i++) {
      stored[to * PAGE_TOKENS + i] = stored[page * PAGE_TOKENS + i];
    }
  }

  write(buffer: Buffer, data: Float32Array | Int32Array, row = 0): void {
    must(row * buffer.width + data.length <= buffer.rows * buffer.width, "a write ends outside");
    values(buffer).set(data, row * buffer.width);
  }

  record(build: (ops: Ops) => void): ToyPlan {
    this.plansRecorded++;
    const run: (() => void)[] = [];
    build(toyOps(run, (rows) => this.#noteStep(rows)));
    return { length: run.length, run };
  }

  submit(...plans: readonly Plan[]): void {
    must(!this.closed, "a plan is submitted after close");
    for (const plan of plans) for (const run of (plan as ToyPlan).run) run();
  }

  #noteStep(rows: number): void {
    this.steps.push(rows);
    this.#busyUntil = performance.now() + this.stepMs(rows);
  }

  async read(buffer: Buffer, { row = 0, rows = 0 } = {}): Promise<Float32Array> {
    const rest = this.#busyUntil - performance.now();
    if (rest > 0) await new Promise((resolve) => setTimeout(resolve, rest));
    if (buffer.width === VOCAB) this.logitReads++;
    if (buffer.width < VOCAB) this.routingReads.push({ rows, weights: true });
    return (values(buffer) as Float32Array).slice(row * buffer.width, (row + rows) * buffer.width);
  }

  readIntegers(buffer: Buffer, { row = 0, rows = 0 } = {}): Promise<Int32Array> {
    this.routingReads.push({ rows, weights: false });
    const all = values(buffer) as Int32Array;
    return Promise.resolve(all.slice(row * buffer.width, (row + rows) * buffer.width));
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return this.traffic;
  }

  memory() {
    return { weights: 1, kv: 2, workspace: 3 };
  }

  close(): void {
    this.closed = true;
  }
}

/** Ops as the toy model uses them: x holds token ids, attention makes hashes of them. */
function toyOps(run: (() => void)[], onStep: (rows: number) => void): Ops {
  const never = () => {
    throw new Error("the toy model does not use this op");
  };
  return {
    embed({ ids, out, rows }) {
      run.push(() => {
        onStep(rows);
        values(out).set(values(ids).subarray(0, rows));
      });
    },
    rotateAndCache({ k, cosSin, cache, batch, rows }) {
      run.push(() => {
        const computed = new Set<string>();
        for (let t = 0; t < rows; t++) {
          const position = values(batch.positions)[t];
          const place = placeOf(cache, batch, t);
          const key = `${values(batch.sequences)[t]} ${position}`;
          must(!computed.has(key), `position ${key} is computed twice in a step`);
          computed.add(key);
          for (const [i, value] of toyAngles(position).entries()) {
            must(values(cosSin)[t * cosSin.width + i] === value, `angle ${i} of row ${t} is wrong`);
          }
          (cache as ToyKvCache).stored[place] = { token: values(k)[t], position };
        }
      });
    },
    attention({ cache, batch, out, rows }) {
      run.push(() => {
        const { stored } = cache as ToyKvCache;
        for (let t = 0; t < rows; t++) {
          let hash = 1;
          for (let position = 0; position <= values(batch.positions)[t]; position++) {
            const entry = stored[placeOf(cache, batch, t, position)];
            must(entry?.position === position, `position ${position} is not in the cache`);
            must(entry.token !== FAULT_TOKEN, "the fault token was computed");
            hash = extend(hash, entry.token);
          }
          values(out)[t * 2] = hash;
          values(out)[t * 2 + 1] = stored[placeOf(cache, batch, t)].token;
        }
      });
    },
    gatherRows({ x, indices, out, rows }) {
      run.push(() => {
        for (let t = 0; t < rows; t++) {
          const from = values(indices)[t] * x.width;
          values(out).set(values(x).subarray(from, from + x.width), t * x.width);
        }
      });
    },
    linear({ x, outputs: [{ out }], rows }) {
      run.push(() => {
        for (let t = 0; t < rows; t++) {
          values(out).set(logitsOfHash(values(x)[t * 2], values(x)[t * 2 + 1]), t * VOCAB);
        }
      });
    },
    gate({ x, weight: { rows: experts }, topK, expertIds, weights, rows }) {
      run.push(() => {
        for (let t = 0; t < rows; t++) {
          const chosen = routingOfHash(values(x)[t * 2], { experts, topK });
          values(expertIds).set(chosen.experts, t * topK);
          values(weights).set(chosen.weights, t * topK);
        }
      });
    },
    choose(params) {
      const floats = (buffer: Buffer) => values(buffer) as Float32Array;
      const integers = (buffer: Buffer) => values(buffer) as Int32Array;
      run.push(chooser(params, { floats, integers }));
    },
    rmsNorm: never,
    add: never,
    gatedLinear: never,
    headLinear: never,
    rotateAndCacheLatent: never,
    latentAttention: never,
    experts: never,
  };
}

function asKvCache(cache: ModelCache): KvCache {
  must("keyDim" in cache, "the cache is none of the toy's");
  return cache;
}

function placeOf(
  cache: KvCache,
  batch: { positions: Buffer; sequences: Buffer; pageTables: Buffer },
  row: number,
  position: number = values(batch.positions)[row],
): number {
  const table = values(batch.sequences)[row] * batch.pageTables.width;
  const page = values(batch.pageTables)[table + Math.floor(position / PAGE_TOKENS)];
  must(page >= 0 && page < cache.pages, `position ${position} has page ${page}`);
  return page * PAGE_TOKENS + position % PAGE_TOKENS;
}

const ROPE_FREQUENCIES = Float32Array.of(1, 0.0123);
const ROPE_SCALE = 1.25;

function toyAngles(position: number): Float32Array {
  const angles = [...ROPE_FREQUENCIES].map((frequency) => Math.fround(position * frequency));
  return Float32Array.from(
    [...angles.map(Math.cos), ...angles.map(Math.sin)],
    (v) => v * ROPE_SCALE,
  );
}

export function toyConfig(contextLength: number): ModelConfig {
  return {
    architecture: "toy",
    vocabSize: VOCAB,
    hiddenSize: 1,
    layers: 1,
    heads: 1,
    kvHeads: 1,
    headDim: 4,
    intermediateSize: 1,
    rmsNormEps: 1e-5,
    contextLength,
    tiedEmbeddings: true,
    cacheShape: { kvHeads: 1, keyDim: 1, valueDim: 1 },
    rope: {
      dim: 4,
      inverseFrequencies: ROPE_FREQUENCIES,
      pairing: "halves",
      cosSinScale: ROPE_SCALE,
    },
  };
}

export function toyModel(
  backend: ToyBackend,
  { maxRows, logitRows, contextLength, routed = [] }: {
    maxRows: number;
    logitRows: number;
    contextLength: number;
    routed?: readonly RoutedLayerInfo[];
  },
): Model {
  const create = (rows: number, width: number) =>
    backend.createBuffer({ kind: "f32", rows, width });
  const x = create(maxRows, 1);
  const hashes = create(maxRows, 2);
  const gathered = create(logitRows, 2);
  const logits = create(logitRows, VOCAB);
  const routedLayers = routed.map((layer) => ({
    ...layer,
    expertIds: backend.createBuffer({ kind: "i32", rows: maxRows, width: layer.topK }),
    weights: create(maxRows, layer.topK),
  }));
  const weight: Weight = { name: "toy", type: "F32", rows: VOCAB, cols: 1, byteLength: 0 };
  return {
    config: toyConfig(contextLength),
    parameters: 10,
    activeParameters: 5,
    logits,
    routedLayers,
    hidden: [],
    createKvCache: (pages, type) =>
      backend.createKvCache({ type, layers: 1, pages, kvHeads: 1, keyDim: 1, valueDim: 1 }),
    forward(ops: Ops, { inputs, cache, rows, logitRowCount }: ForwardOptions) {
      const { batch, cosSin } = inputs;
      const kv = asKvCache(cache);
      const heads = 1;
      const layer = 0;
      ops.embed({ table: weight, ids: inputs.ids, out: x, rows });
      ops.rotateAndCache({
        q: x,
        k: x,
        v: x,
        heads,
        cosSin,
        pairing: "halves",
        cache: kv,
        layer,
        batch,
        rows,
      });
      ops.attention({ q: x, heads, scale: 1, cache: kv, layer, batch, out: hashes, rows });
      for (const { experts, topK, expertIds, weights } of routedLayers) {
        ops.gate({
          x: hashes,
          norm: { weight, eps: 1e-6 },
          normed: hashes,
          weight: { ...weight, rows: experts },
          score: "sigmoid",
          topK,
          normalise: true,
          scale: 1,
          expertIds,
          weights,
          rows,
        });
      }
      if (logitRowCount === 0) return;
      ops.gatherRows({ x: hashes, indices: inputs.logitRows, out: gathered, rows: logitRowCount });
      ops.linear({ x: gathered, outputs: [{ weight, out: logits }], rows: logitRowCount });
    },
  };
}

export interface ToyEngineOptions {
  /** Greedy tokens are chosen by the backend, several steps ahead. */
  readonly chooses?: boolean;
  readonly slots?: number;
  readonly chunkTokens?: number;
  readonly contextLength?: number;
  readonly logitRows?: number;
  /** Pages of the cache; enough for every slot's whole context where nothing is said. */
  readonly pages?: number;
  readonly maxWaiting?: number;
  /** The model's layers with routed experts; none where nothing is said. */
  readonly routed?: readonly RoutedLayerInfo[];
  readonly countRouting?: boolean;
  /** Prompt tokens beside answers; as many as without where nothing is said. */
  readonly mixedTokens?: number;
  readonly reusePrefixes?: boolean;
  readonly store?: UnitStore;
  readonly speculates?: boolean;
  readonly onStepEnd?: () => void;
  readonly onLost?: (error: Error) => void;
}

/** An engine on the toy model, and the backend it runs on. */
export function toyEngine(
  options: ToyEngineOptions = {},
): { engine: LocalEngine; backend: ToyBackend } {
  const { slots = 3, chunkTokens = 16, contextLength = 300, routed = [] } = options;
  const { logitRows = slots, pages = slots * pagesFor(contextLength) } = options;
  const backend = new ToyBackend(options);
  const maxRows = slots + chunkTokens;
  const model = toyModel(backend, { maxRows, logitRows, contextLength, routed });
  const runner = new StepRunner({
    backend,
    model,
    slots,
    maxRows,
    pages,
    contextLength,
    kvType: "f32",
  });
  const info: EngineInfo = {
    architecture: "toy",
    modelName: "toy",
    parameters: model.parameters,
    activeParameters: model.activeParameters,
    quantisation: "F32",
    vocabSize: VOCAB,
    contextLength,
    slots,
    backend: backend.name,
    threads: backend.threads,
    backendChosen: false,
    activations: backend.activations,
    memory: backend.memory(),
    conversions: [],
    warnings: [],
    routedLayers: routed,
  };
  const { mixedTokens = chunkTokens } = options;
  const rootOf = (tenant: string) =>
    rootKey({ model: "toy", numerics: "toy", kvType: "f32", tenant });
  const engine = new LocalEngine({
    ...options,
    info,
    runner,
    chunkTokens,
    mixedTokens,
    maxRows,
    logitRows,
    pages,
    rootOf,
  });
  return { engine, backend };
}

/** A greedy request. */
export function toyRequest(
  tokens: readonly number[],
  options: Partial<GenerateRequest> = {},
): GenerateRequest {
  return { tokens, sampling: NEUTRAL_SAMPLING, maxTokens: 8, stopTokens: [], ...options };
}

/** All events of a request, in order. */
export async function collect(events: AsyncIterable<EngineEvent>): Promise<EngineEvent[]> {
  const all: EngineEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

/** The tokens of a request's answer. */
export async function answerOf(events: AsyncIterable<EngineEvent>): Promise<number[]> {
  const all = await collect(events);
  return all.flatMap((event) => event.type === "token" ? [event.token] : []);
}
