/**
 * The hybrid backend: two backends behind one seam. The device has everything but those routed experts that
 * don't fit on it, which the host computes meanwhile. Plans run behind `submit`, since they wait for the
 * device in between; what is asked for in the meantime is done afterwards, in order.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";
import { BackendLostError } from "../../errors.ts";
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
  ModelCache,
  Ops,
  PagePart,
  Plan,
  TensorData,
  UploadOptions,
  Weight,
} from "../backend.ts";
import { residentTraffic } from "../expert_tensors.ts";
import { foreign } from "../op_checks.ts";
import { Exchanges } from "./exchange.ts";
import { type HybridExperts, hybridExpertsOf, type Sides, uploadHybridExperts } from "./experts.ts";
import { Lane } from "./lane.ts";
import type { HybridPlacement } from "./placement.ts";
import { HybridPlan } from "./plan.ts";
import { HybridRecorder } from "./recorder.ts";
import { runPlan } from "./run.ts";
import { type HybridTraffic, noTraffic } from "./traffic.ts";

export interface HybridBackendOptions extends Sides {
  readonly placement: HybridPlacement;
}

/** An expert that is to lie in one of its layer's slots on the device. */
export interface ExpertPlace {
  readonly layer: number;
  readonly slot: number;
  readonly expert: number;
}

export interface HybridBackend extends Backend {
  /**
   * Moves an expert to a slot of its layer, while plans run and one after the other: it is read first,
   * then the expert that lay there is the host's, and the new one is the device's when it has been
   * uploaded. Where reading fails nothing has changed; where the upload fails, the slot stays empty until
   * the move is tried again. Rejects with RangeError for a place or an expert that is none, with what
   * reading it rejects with, and as `replaceExpert`.
   */
  place(move: ExpertPlace): Promise<void>;
  /** Where experts lie now, or are on their way to. */
  placement(): HybridPlacement;
  traffic(): HybridTraffic;
}

/**
 * Makes one backend of two, which it closes. `device` gets whatever isn't a routed expert; of those it
 * gets the ones that `placement` names.
 */
export function createHybridBackend(options: HybridBackendOptions): HybridBackend {
  return new TwoBackends(options);
}

class TwoBackends implements HybridBackend {
  readonly name = "hybrid";
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly chooses = false;
  readonly #device: Backend;
  readonly #host: Backend;
  readonly #placement: HybridPlacement;
  readonly #exchanges: Exchanges;
  readonly #experts: HybridExperts[] = [];
  readonly #lane = new Lane();
  readonly #counts = noTraffic();
  /** Resolves when all moves so far have ended, in whichever way. */
  #moved: Promise<void> = Promise.resolve();
  /** What a plan has failed with, until a read has told it and something new is submitted. */
  #failure: { readonly error: unknown; told: boolean } | null = null;
  #lost: BackendLostError | null = null;
  #closed = false;

  constructor({ device, host, placement }: HybridBackendOptions) {
    this.threads = host.threads;
    this.activations = coarser(device.activations, host.activations);
    this.#device = device;
    this.#host = host;
    this.#placement = placement;
    this.#exchanges = new Exchanges({ device, host });
  }

  /** Which experts lie where decides how sums are rounded. */
  get numerics(): string {
    const where = bytesToHex(sha256(utf8ToBytes(JSON.stringify(this.#placement.layers))));
    const [device, host] = [this.#device.numerics, this.#host.numerics];
    return `hybrid of ${device} and ${host}, experts ${where.slice(0, 16)}`;
  }

  get adapter(): string | undefined {
    return this.#device.adapter;
  }

  get conversions(): readonly string[] {
    return [...new Set([...this.#device.conversions, ...this.#host.conversions])];
  }

  async upload(tensor: TensorData, options?: UploadOptions): Promise<Weight> {
    this.#checkAlive();
    return await this.#device.upload(tensor, options);
  }

  async uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    this.#checkAlive();
    const own = this.#placement.layers.find(({ layer }) => layer === tensors.layer);
    const sides = { device: this.#device, host: this.#host };
    const resident = own?.resident ?? [];
    const experts = await uploadHybridExperts(sides, { tensors, resident });
    this.#experts.push(experts);
    return experts;
  }

  async replaceExpert(of: Experts, replacement: ExpertReplacement): Promise<void> {
    await hybridExpertsOf(of).replace(this.#host, replacement);
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    return this.#device.createBuffer(options);
  }

  createKvCache(options: KvCacheOptions): KvCache {
    return this.#device.createKvCache(options);
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    return this.#device.createLatentCache(options);
  }

  pageBytes(cache: ModelCache, tokens: number): number {
    return this.#device.pageBytes(cache, tokens);
  }

  async readPage(part: PagePart): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#read(() => this.#device.readPage(part));
  }

  writePage(part: PagePart, bytes: Uint8Array): void {
    const kept = this.#lane.idle ? bytes : bytes.slice();
    this.#inOrder(() => this.#device.writePage(part, kept));
  }

  copyPage(part: PagePart, to: number): void {
    this.#inOrder(() => this.#device.copyPage(part, to));
  }

  write(buffer: Buffer, data: Float32Array | Int32Array, row?: number): void {
    const kept = this.#lane.idle ? data : data.slice();
    this.#inOrder(() => this.#device.write(buffer, kept, row));
  }

  record(build: (ops: Ops) => void): Plan {
    this.#checkAlive();
    const sides = { device: this.#device, host: this.#host };
    const recorder = new HybridRecorder(sides, this.#exchanges);
    build(recorder);
    return recorder.finish();
  }

  submit(...plans: readonly Plan[]): void {
    for (const plan of plans) this.#submit(plan);
  }

  #submit(plan: Plan): void {
    if (!(plan instanceof HybridPlan)) throw foreign("plan");
    this.#checkAlive();
    if (this.#failure?.told) this.#failure = null;
    this.#lane.run(async () => {
      // What a plan has failed to leave behind, the next one may build upon.
      if (this.#failure !== null) return;
      this.#checkAlive();
      await runPlan(plan, {
        device: this.#device,
        host: this.#host,
        counts: this.#counts,
        checkAlive: () => this.#checkAlive(),
      });
    }).catch((error) => this.#fail(error));
  }

  async read(
    buffer: Buffer,
    options?: { row?: number; rows?: number; into?: Float32Array },
  ): Promise<Float32Array> {
    return await this.#read(() => this.#device.read(buffer, options));
  }

  async readIntegers(
    buffer: Buffer,
    options?: { row?: number; rows?: number },
  ): Promise<Int32Array> {
    return await this.#read(() => this.#device.readIntegers(buffer, options));
  }

  memory(): BackendMemory {
    const [device, host] = [this.#device.memory(), this.#host.memory()];
    return {
      weights: device.weights + host.weights,
      kv: device.kv + host.kv,
      workspace: device.workspace + host.workspace,
    };
  }

  expertTraffic(): readonly ExpertTraffic[] {
    const paged = new Map(this.#host.expertTraffic().map((traffic) => [traffic.layer, traffic]));
    return this.#experts.map((experts) =>
      paged.get(experts.layer) ?? residentTraffic([experts])[0]
    );
  }

  traffic(): HybridTraffic {
    return { ...this.#counts };
  }

  placement(): HybridPlacement {
    return {
      layers: this.#experts.map(({ layer, resident }) => ({ layer, resident })),
    };
  }

  place(move: ExpertPlace): Promise<void> {
    const moving = this.#moved.then(() => this.#move(move));
    this.#moved = moving.catch((error) => this.#noteLoss(error));
    return moving;
  }

  close(): void {
    this.#lose(new BackendLostError("cannot compute: the hybrid backend has been closed"));
  }

  async #move({ layer, slot, expert }: ExpertPlace): Promise<void> {
    const experts = this.#experts.find((experts) => experts.layer === layer);
    if (experts === undefined) {
      throw new RangeError(
        `cannot place expert ${expert}: layer ${layer} has no experts, must be one that has`,
      );
    }
    experts.checkMove({ slot, expert });
    if (experts.has(expert)) return;
    const between = (change: () => void) =>
      this.#lane.run(() => {
        this.#checkAlive();
        change();
      });
    const tensors = await experts.fetch(expert);
    await between(() => experts.assign(slot, expert));
    await experts.fill(slot, tensors);
    await between(() => experts.settle(slot));
    this.#counts.moves += 1;
  }

  /** Reads after everything before; what comes later need not wait until it has been read. */
  async #read<T>(read: () => Promise<T>): Promise<T> {
    try {
      const { reading } = await this.#lane.run(() => {
        this.#checkAlive();
        if (this.#failure !== null) {
          this.#failure.told = true;
          throw this.#failure.error;
        }
        return { reading: read() };
      });
      return await reading;
    } catch (error) {
      this.#noteLoss(error);
      throw error;
    }
  }

  /** Does something now where no plan runs, and says at once what is wrong with it; else later. */
  #inOrder(task: () => void): void {
    this.#checkAlive();
    if (this.#lane.idle) task();
    else this.#lane.run(task).catch((error) => this.#fail(error));
  }

  #fail(error: unknown): void {
    if (error instanceof BackendLostError) this.#lose(error);
    else this.#failure ??= { error, told: false };
  }

  #noteLoss(error: unknown): void {
    if (error instanceof BackendLostError) this.#lose(error);
  }

  /** Ends both sides: one alone computes nothing. */
  #lose(error: BackendLostError): void {
    this.#lost ??= error;
    if (this.#closed) return;
    this.#closed = true;
    this.#device.close();
    this.#host.close();
  }

  #checkAlive(): void {
    if (this.#lost !== null) throw this.#lost;
  }
}

/** The one that loses more. */
function coarser(a: ActivationPrecision, b: ActivationPrecision): ActivationPrecision {
  return (["q8", "q16", "f32"] as const).find((precision) => precision === a || precision === b)!;
}
