/**
 * A backend whose models can be trained: it wraps one that trains, takes down what a model's forward pass
 * records, and writes the backward pass behind it. A model loaded on it runs without the tape as well,
 * over the same weights: rollouts and evaluation are plain plans of the inner backend.
 */

import type {
  ActivationPrecision,
  Backend,
  BackendMemory,
  Buffer,
  ExpertReplacement,
  Experts,
  ExpertTensors,
  ExpertTraffic,
  KvCache,
  KvCacheOptions,
  LatentCache,
  LatentCacheOptions,
  Ops,
  PagePart,
  Plan,
  TensorData,
  UploadOptions,
  Weight,
} from "../../backend/backend.ts";
import { foreign } from "../../backend/op_checks.ts";
import { UnsupportedOpError } from "../../errors.ts";
import type { TrainingBackend } from "../../backend/training.ts";
import { Gradients } from "./gradients.ts";
import { located, TapeBuffer, TapeKvCache, TapeLatentCache } from "./handles.ts";
import { LocatedOps } from "./located_ops.ts";
import { layersOf, type Range } from "./layers.ts";
import type { Node, TracedGate, Uses } from "./node.ts";
import { BufferPool } from "./pool.ts";
import { type ActivationUse, recordProgram } from "./program.ts";
import type { GateTraining } from "./rules/mixture.ts";
import { partOf, type RecordedStage, recordStage, type StagePlace, stageRange } from "./stage.ts";
import { Trace } from "./trace.ts";
import { TracingOps } from "./tracing_ops.ts";
import type { Step, Value } from "./value.ts";

/** What turns a model's logits into a loss. */
export interface Loss {
  /**
   * Steps that compute the loss of `logits` and the gradient, which is returned. They may change the logits
   * in place.
   */
  write(logits: Value, steps: Step[]): Value;
}

export interface TapeOptions {
  /** Records the model's forward pass. */
  forward(ops: Ops): void;
  /** The buffer that holds the logits then. */
  readonly logits: Buffer;
  readonly loss: Loss;
  /**
   * Keep the residual stream before each layer and nothing within it, and run the layer again for its
   * backward pass (Chen et al. 2016).
   */
  readonly checkpoint?: boolean;
  /** What is to be done about the gate that comes `index`-th. */
  gate?(index: number): GateTraining;
}

export interface TapedPlan {
  readonly plan: Plan;
  readonly activations: ActivationUse;
}

/** What a model's forward pass reads. */
export interface Survey {
  /** In the order of first use, without correction biases. */
  readonly weights: readonly Weight[];
  readonly experts: readonly Experts[];
  readonly gates: readonly TracedGate[];
}

/** What of a model a tape has, and how it takes part in the rest; all of it by default. */
export interface TapeBackendOptions {
  /** Of which tensors, by name, the inner backend gets the numbers. */
  readonly holds?: (name: string) => boolean;
  /** Which of so many equal parts of each layer's experts it gets. */
  readonly experts?: StagePlace;
  /** Stands before the tape's ops, and has them exchange what they compute with others. */
  readonly share?: (ops: TracingOps) => Ops;
}

export class TapeBackend implements Backend {
  readonly inner: TrainingBackend;
  readonly name: string;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly chooses: boolean;
  readonly numerics: string;
  readonly #options: TapeBackendOptions;
  readonly #pool: BufferPool;
  /** For each buffer of ids, its rows sorted by id. */
  readonly #orders = new Map<Buffer, Buffer>();

  constructor(inner: TrainingBackend, options: TapeBackendOptions = {}) {
    this.inner = inner;
    this.#options = options;
    this.name = inner.name;
    this.threads = inner.threads;
    this.activations = inner.activations;
    this.chooses = inner.chooses;
    this.numerics = inner.numerics;
    this.#pool = new BufferPool(inner);
  }

  /** Takes the forward pass down and records it with the loss and the backward pass behind it. */
  recordStep(options: TapeOptions): TapedPlan {
    const { forward, logits, loss, checkpoint = false, gate = () => ({}) } = options;
    const trace = this.#trace(forward, gate);
    const steps: Step[] = trace.nodes.map((node) => node.forward);
    const logitsValue = trace.read(logits);
    const logitsGradient = loss.write(logitsValue, steps);
    const backwardFrom = steps.length;
    const gradients = new Gradients();
    gradients.set(logitsValue, logitsGradient);
    const layers = checkpoint ? layersOf(trace.nodes) : [];
    writeBackward(trace.nodes, { gradients, layers });
    steps.push(...gradients.steps);
    const context = { pool: this.#pool, backend: this.inner };
    const { forward: [plan], use } = recordProgram({ steps, backwardFrom }, context);
    return { plan: plan as Plan, activations: use };
  }

  /**
   * As `recordStep`, for one of several parts of the layers. Each call has buffers of its own for what lies
   * between the forward and the backward plan.
   */
  recordStage(options: TapeOptions & { place: StagePlace }): RecordedStage {
    const { forward, logits, loss, checkpoint = false, gate = () => ({}), place } = options;
    const trace = this.#trace(forward, gate);
    return recordStage({
      ...{ backend: this.inner, nodes: trace.nodes, place, loss, checkpoint },
      logits: trace.read(logits),
    });
  }

  /** What one of several parts of the layers reads. */
  surveyStage(forward: (ops: Ops) => void, place: StagePlace): Survey {
    const { nodes, uses } = this.#trace(forward, () => ({}));
    const { start, end } = stageRange(nodes, place);
    return surveyOf(uses.slice(start, end));
  }

  /** Takes a forward pass down only to see what it reads. */
  survey(forward: (ops: Ops) => void): Survey {
    return surveyOf(this.#trace(forward, () => ({})).uses);
  }

  /** The inner backend's buffer that a handle stands for. */
  located(buffer: Buffer): Buffer {
    return locatedBuffer(buffer);
  }

  get conversions(): readonly string[] {
    return this.inner.conversions;
  }

  upload(tensor: TensorData, options?: UploadOptions): Promise<Weight> {
    if (this.#holds(tensor.name)) return this.inner.upload(tensor, options);
    const { name, type, rows, cols } = tensor;
    return Promise.resolve({ name, type, rows, cols, byteLength: 0 });
  }

  uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    const { layer, gate, up, down } = tensors;
    const [{ name, rows: intermediate, cols: hidden }] = gate;
    if (this.#holds(name)) {
      const { experts } = this.#options;
      if (experts === undefined) return this.inner.uploadExperts(tensors);
      const [from, to] = partOf(gate.length, experts);
      const own = <T>(list: readonly T[]) => list.slice(from, to);
      return this.inner.uploadExperts({
        ...{ ...tensors, gate: own(gate), up: own(up), down: own(down) },
      });
    }
    return Promise.resolve({ layer, count: gate.length, hidden, intermediate, byteLength: 0 });
  }

  replaceExpert(experts: Experts, replacement: ExpertReplacement): Promise<void> {
    return this.inner.replaceExpert(experts, replacement);
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    return new TapeBuffer(options, this.inner);
  }

  createKvCache(options: KvCacheOptions): KvCache {
    return new TapeKvCache(options, this.inner);
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    return new TapeLatentCache(options, this.inner);
  }

  pageBytes(cache: PagePart["cache"], tokens: number): number {
    return this.inner.pageBytes(located({ cache }).cache, tokens);
  }

  readPage(part: PagePart): Promise<Uint8Array<ArrayBuffer>> {
    return this.inner.readPage(located(part));
  }

  writePage(part: PagePart, bytes: Uint8Array): void {
    this.inner.writePage(located(part), bytes);
  }

  copyPage(part: PagePart, to: number): void {
    this.inner.copyPage(located(part), to);
  }

  write(buffer: Buffer, data: Float32Array | Int32Array, row = 0): void {
    this.inner.write(locatedBuffer(buffer), data, row);
    const order = this.#orders.get(buffer);
    if (order === undefined || !(data instanceof Int32Array)) return;
    if (row !== 0) {
      throw new RangeError(
        `cannot write token ids of a training step: they begin at row ${row}, must at row 0`,
      );
    }
    this.inner.write(order, sortedRows(data));
  }

  record(build: (ops: Ops) => void): Plan {
    if (this.#options.share !== undefined) {
      throw new UnsupportedOpError(
        "cannot record a plan of a part of a model: it must be a training step, or the whole model",
      );
    }
    return this.inner.record((ops) => build(new LocatedOps(ops)));
  }

  submit(...plans: readonly Plan[]): void {
    this.inner.submit(...plans);
  }

  read(
    buffer: Buffer,
    options?: { row?: number; rows?: number; into?: Float32Array },
  ): Promise<Float32Array> {
    return this.inner.read(locatedBuffer(buffer), options);
  }

  readIntegers(
    buffer: Buffer,
    options?: { row?: number; rows?: number },
  ): Promise<Int32Array> {
    return this.inner.readIntegers(locatedBuffer(buffer), options);
  }

  memory(): BackendMemory {
    return this.inner.memory();
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return this.inner.expertTraffic();
  }

  close(): void {
    this.inner.close();
  }

  #trace(forward: (ops: Ops) => void, gate: (index: number) => GateTraining): Trace {
    const trace = new Trace({
      located: locatedBuffer,
      orderOf: (ids) => this.#orderOf(ids),
      kvCache: (cache) => tapeCache(cache, TapeKvCache).single,
      latentCache: (cache) => tapeCache(cache, TapeLatentCache).single,
      gate,
    });
    const ops = new TracingOps(trace);
    forward(this.#options.share?.(ops) ?? ops);
    return trace;
  }

  #holds(name: string): boolean {
    return this.#options.holds?.(name) ?? true;
  }

  #orderOf(ids: Buffer): Buffer {
    let order = this.#orders.get(ids);
    if (order === undefined) {
      order = this.inner.createBuffer({ kind: "i32", rows: ids.rows, width: 1 });
      this.#orders.set(ids, order);
    }
    return order;
  }
}

/** What nodes read, each once. */
export function surveyOf(uses: readonly Uses[]): Survey {
  return {
    weights: [...new Set(uses.flatMap(({ weights }) => weights))],
    experts: [...new Set(uses.flatMap(({ experts }) => experts ? [experts] : []))],
    gates: uses.flatMap(({ gate }) => gate ? [gate] : []),
  };
}

/** Writes the backward passes of nodes, last to first; layers are run again before theirs. */
function writeBackward(
  nodes: readonly Node[],
  { gradients, layers }: { gradients: Gradients; layers: readonly Range[] },
): void {
  for (let i = nodes.length - 1; i >= 0; i--) {
    const layer = layers.find(({ end }) => end === i + 1);
    if (layer !== undefined) {
      gradients.again(nodes.slice(layer.start, layer.end).map(({ forward }) => forward));
    }
    nodes[i].backward(gradients);
  }
}

function locatedBuffer(buffer: Buffer): Buffer {
  return buffer instanceof TapeBuffer ? buffer.located : buffer;
}

function tapeCache<T extends object>(cache: object, kind: new (...args: never[]) => T): T {
  if (cache instanceof kind) return cache;
  throw foreign("cache");
}

/** The places of ids, which aren't negative, in ascending order; of one id ascending. */
function sortedRows(ids: Int32Array): Int32Array {
  const most = ids.reduce((most, id) => Math.max(most, id), 0);
  // Of each id, the place of its next row.
  const places = new Int32Array(most + 2);
  for (const id of ids) places[id + 1]++;
  for (let id = 0; id <= most; id++) places[id + 1] += places[id];
  const rows = new Int32Array(ids.length);
  for (const [row, id] of ids.entries()) rows[places[id]++] = row;
  return rows;
}
