/**
 * The CPU backend: Rust kernels in WebAssembly, one instance per thread and bank over shared memories.
 *
 * Ops are recorded as words; `submit` copies them into the shared memory and runs them in Rust on all
 * threads, without JavaScript or messages in between. The thread that calls `submit` computes too.
 */

import { BackendLostError, CapacityError, UnsupportedOpError } from "../../errors.ts";
import type { Faults } from "../../faults.ts";
import type {
  ActivationPrecision,
  Backend,
  BackendMemory,
  Buffer,
  ExpertReplacement,
  Experts,
  ExpertTensors,
  ExpertTraffic,
  GateParams,
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
import { kvPageLayout, latentPageLayout, layerPageBytes, type PageLayout } from "../kv_layout.ts";
import { MEMORY_BYTES } from "./arena.ts";
import { Bank } from "./bank.ts";
import { CrashChoice, withCrash } from "./crash.ts";
import { Placer } from "./placer.ts";
import {
  chooseVariant,
  instantiate,
  LEAVE,
  loadModule,
  numericsOf,
  type SharedModule,
  type Variant,
} from "./kernels.ts";
import {
  WasmBuffer,
  type WasmCache,
  type WasmExperts,
  type WasmKvCache,
  type WasmLatentCache,
} from "./memory.ts";
import { copyPage, packedPageBytes, readPage, writePage } from "./pages.ts";
import type { Segment, WasmPlan } from "./plan.ts";
import { LookAheadChoice } from "./paging/look_ahead.ts";
import type { PagingOptions } from "./paging/options.ts";
import { LOOK_AHEAD_ROWS, PlanRecorder, type RecorderOptions } from "./recorder.ts";
import type { ThreadStart } from "./thread.ts";
import { StreamChoice } from "./stream_choice.ts";

type LookAheadBuffers = ReturnType<RecorderOptions["lookAheadBuffers"]>;

const MAX_THREADS = 64;
const MAX_BANKS = 512;
/** The threads stay in the bank where they are. */
const STAY = 0xffffffff;

export interface WasmBackendOptions {
  /** Threads that compute, the calling one included; 1 to 64. */
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Don't wait for the threads: a worker's own workers take a second to come up in Deno 2.9. */
  readonly joinLate?: boolean;
  /** The build to use; by default the best one that the machine runs. */
  readonly variant?: Variant;
  /** Memories that the model may be spread over; 1 by default. */
  readonly banks?: number;
  /** Bytes after which the next bank is filled, an eighth of them left to caches and workspace; 4 GiB by default. */
  readonly bankBytes?: number;
  /** Leave routed experts in their file and keep some of them in memory; all are, by default. */
  readonly paging?: PagingOptions;
  /** What is to fail on purpose. */
  readonly faults?: Faults;
}

/**
 * Starts the threads and makes an empty backend. Throws CapacityError where threads or banks are too
 * many and BackendLostError where a thread doesn't start. With `joinLate` it returns at once: plans run
 * on the threads that have come by then, with the same results.
 */
export async function createWasmBackend(options: WasmBackendOptions): Promise<Backend> {
  return await startWasmBackend(options, (parts) => new WasmBackend(parts));
}

/** What a backend is made of. */
export interface WasmParts {
  readonly shared: SharedModule;
  readonly banks: readonly Bank[];
  readonly workers: readonly Worker[];
  readonly options: WasmBackendOptions;
}

/** As `createWasmBackend`, for a backend that does more. */
export async function startWasmBackend<Started extends WasmBackend>(
  options: WasmBackendOptions,
  make: (parts: WasmParts) => Started,
): Promise<Started> {
  const { threads, banks: bankCount = 1, faults } = options;
  checkCount("start compute threads", { what: "threads", is: threads, max: MAX_THREADS });
  checkCount("make memories", { what: "banks", is: bankCount, max: MAX_BANKS });
  const shared = await loadModule(options.variant ?? chooseVariant(), { banks: bankCount });
  const banks: Bank[] = [];
  for (const [index, memory] of shared.memories.entries()) {
    const kernels = await instantiate(shared, index);
    banks.push(new Bank({ index, memory, kernels, threads, faults }));
  }
  const workers = Array.from(
    { length: threads - 1 },
    () => new Worker(new URL("./thread.ts", import.meta.url), { type: "module" }),
  );
  const backend = make({ shared, banks, workers, options });
  const start: ThreadStart = { shared, contexts: banks.map(({ context }) => context) };
  for (const worker of workers) {
    worker.onerror = (event) => {
      event.preventDefault();
      backend.lose(`cannot compute: a compute thread failed (${event.message})`);
    };
    // Only when it is up: a message that nobody takes keeps the memories for good.
    worker.onmessage = () => worker.postMessage(start);
  }
  if (!options.joinLate) await backend.allJoined();
  return backend;
}

function checkCount(action: string, count: { what: string; is: number; max: number }): void {
  const { what, is, max } = count;
  if (Number.isInteger(is) && is >= 1 && is <= max) return;
  throw new CapacityError(`cannot ${action}: ${what} is ${is}, must be 1 to ${max}`);
}

export class WasmBackend implements Backend {
  readonly name: string = "wasm";
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly chooses = false;
  readonly numerics: string;
  readonly #banks: readonly Bank[];
  /** Where the threads wait, and where the host's values are. */
  protected readonly first: Bank;
  readonly #workers: readonly Worker[];
  readonly #placer: Placer;
  readonly #streams: StreamChoice;
  readonly #lookAhead: LookAheadChoice;
  readonly #crashes: CrashChoice;
  /** By width of the hidden state and experts a token. */
  readonly #aheadBuffers = new Map<string, LookAheadBuffers>();
  /** Bytes of each cache made so far; one that was too large is followed by a smaller one. */
  readonly #cacheBytes: number[] = [];
  #lost: BackendLostError | null = null;

  constructor({ shared, banks, workers, options }: WasmParts) {
    const { threads, activations, bankBytes = MEMORY_BYTES, paging } = options;
    this.threads = threads;
    this.activations = activations;
    this.numerics = numericsOf(shared, banks[0]);
    this.#banks = banks;
    this.first = banks[0];
    this.#workers = workers;
    this.#placer = new Placer({ shared, banks, bankBytes, activations, paging });
    this.#lookAhead = new LookAheadChoice(paging?.lookAhead);
    this.#crashes = new CrashChoice(options);
    this.#streams = new StreamChoice((streams) => {
      for (const { kernels, context } of banks) kernels.set_streams(context, streams);
    });
  }

  get conversions(): readonly string[] {
    return this.#placer.conversions;
  }

  upload(tensor: TensorData, options: UploadOptions = {}): Promise<Weight> {
    return this.#placer.upload(tensor, options);
  }

  uploadExperts(tensors: ExpertTensors): Promise<WasmExperts> {
    return this.#placer.uploadExperts(tensors);
  }

  replaceExpert(experts: Experts, replacement: ExpertReplacement): Promise<void> {
    return this.#placer.replaceExpert(experts as WasmExperts, replacement);
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    return new WasmBuffer(options, this.first);
  }

  createKvCache(options: KvCacheOptions): KvCache {
    const cached = Math.max(options.keyDim, options.valueDim);
    const layout = kvPageLayout(options);
    const cache: WasmKvCache = { ...options, ...this.#placeCache(options, { layout, cached }) };
    return cache;
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    const { latentDim, ropeDim } = options;
    if (latentDim % 4 !== 0 || ropeDim % 4 !== 0) {
      throw new UnsupportedOpError(
        `cannot cache latents: their widths are ${latentDim} and ${ropeDim}, must be multiples of 4`,
      );
    }
    const layout = latentPageLayout(options);
    const cached = latentDim + ropeDim;
    const cache: WasmLatentCache = { ...options, ...this.#placeCache(options, { layout, cached }) };
    return cache;
  }

  pageBytes(cache: ModelCache, tokens: number): number {
    return packedPageBytes(cache as WasmCache, tokens);
  }

  // deno-lint-ignore require-await -- as `read`
  async readPage(part: PagePart): Promise<Uint8Array<ArrayBuffer>> {
    return readPage(part);
  }

  writePage(part: PagePart, bytes: Uint8Array): void {
    writePage(part, bytes);
  }

  copyPage(part: PagePart, to: number): void {
    copyPage(part, to);
  }

  write(of: Buffer, data: Float32Array | Int32Array, row = 0): void {
    const buffer = of as WasmBuffer;
    const { width, rows, kind } = buffer;
    const offset = row * width;
    if (offset + data.length > rows * width) {
      throw new UnsupportedOpError(
        `cannot write ${data.length} values at row ${row}: the buffer is ${rows} x ${width}`,
      );
    }
    // The rows that are not written stay as they are.
    this.#bringHome(buffer);
    const start = buffer.in(this.first) + offset * 4;
    const memory = this.first.memory.buffer;
    if (kind === "f32") new Float32Array(memory, start, data.length).set(data);
    else new Int32Array(memory, start, data.length).set(data);
  }

  record(build: (ops: Ops) => void): Plan {
    return this.recordBy(new PlanRecorder(this.recorderOptions()), build);
  }

  protected recorderOptions(): RecorderOptions {
    return {
      first: this.first,
      activations: this.activations,
      lookAheadBuffers: (gate, bank) => this.#lookAheadBuffers(gate, bank),
    };
  }

  /** Makes a plan of what is built on a recorder. */
  protected recordBy<Recorder extends PlanRecorder>(
    recorder: Recorder,
    build: (ops: Recorder) => void,
  ): Plan {
    this.#placer.settlePaged({ kvBytes: this.#cacheBytes.at(-1) ?? 0 });
    build(recorder);
    const plan = recorder.finish();
    // A plan that has begun must not run out of memory: its threads would wait in another bank.
    for (const segment of plan.segments) {
      reserveWords(segment);
      const ahead = segment.demand?.ahead ?? null;
      if (ahead !== null) reserveWords(ahead.segment);
    }
    return plan;
  }

  submit(...plans: readonly Plan[]): void {
    for (const plan of plans) this.#runPlan(plan as WasmPlan);
  }

  #runPlan(plan: WasmPlan): void {
    if (this.#lost !== null) throw this.#lost;
    for (const buffer of plan.expected) this.#bringHome(buffer);
    const start = performance.now();
    const threads = 1 + this.first.kernels.joined(this.first.context);
    const { segments } = plan;
    const crash = this.#crashes.next(threads);
    const placeAfter = (i: number) => (segments[i + 1]?.bank ?? this.first).index;
    if (segments.length > 0 && segments[0].bank !== this.first) {
      this.#run(this.first, { plan: 0, ops: 0, threads, next: segments[0].bank.index });
    }
    for (const [i, segment] of segments.entries()) {
      const after = placeAfter(i);
      const next = after === segment.bank.index ? STAY : after;
      const crashes = crash !== null && i === segments.length >> 1;
      this.#runSegment(crashes ? withCrash(segment, crash) : segment, { threads, next });
    }
    for (const [buffer, bank] of plan.homes) buffer.home = bank;
    if (!plan.decodes) return;
    const milliseconds = performance.now() - start;
    this.#streams.measured(milliseconds);
    if (segments.some(({ demand }) => demand !== null)) this.#lookAhead.measured(milliseconds);
  }

  // deno-lint-ignore require-await -- a method of the seam: other backends do wait
  async read(
    of: Buffer,
    options: { row?: number; rows?: number; into?: Float32Array } = {},
  ): Promise<Float32Array> {
    const { address, length } = rangeOf(of as WasmBuffer, options);
    const into = options.into?.subarray(0, length) ?? new Float32Array(length);
    into.set(new Float32Array((of as WasmBuffer).home.memory.buffer, address, length));
    return into;
  }

  // deno-lint-ignore require-await -- as above
  async readIntegers(
    of: Buffer,
    options: { row?: number; rows?: number } = {},
  ): Promise<Int32Array> {
    const { address, length } = rangeOf(of as WasmBuffer, options);
    return new Int32Array((of as WasmBuffer).home.memory.buffer, address, length).slice();
  }

  /** Waits until all threads take part. */
  async allJoined(): Promise<void> {
    const { kernels, context } = this.first;
    while (kernels.joined(context) < this.#workers.length) {
      if (this.#lost !== null) throw this.#lost;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** Ends the threads and makes every later submit fail with this message. */
  lose(message: string): void {
    this.#lost ??= new BackendLostError(message);
    this.#dismiss();
  }

  memory(): BackendMemory {
    const { weightBytes: weights } = this.#placer;
    const used = this.#banks.reduce((sum, { arena }) => sum + arena.used, 0);
    const caches = this.#cacheBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { weights, kv: this.#cacheBytes.at(-1) ?? 0, workspace: used - weights - caches };
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return this.#placer.expertTraffic();
  }

  close(): void {
    this.#dismiss();
    this.#placer.close();
  }

  /** Ends the threads, in whichever bank they are: Deno does not end one that sleeps. */
  #dismiss(): void {
    for (const { kernels, context } of this.#banks) kernels.dismiss(context, LEAVE);
    for (const worker of this.#workers) worker.terminate();
  }

  #runSegment(segment: Segment, { threads, next }: { threads: number; next: number }): void {
    const { bank, transfers, words, ops, demand } = segment;
    for (const { from, to, bytes } of transfers) {
      const source = new Uint8Array(from.bank.memory.buffer, from.address, bytes);
      new Uint8Array(to.bank.memory.buffer, to.address, bytes).set(source);
    }
    const plan = reserveWords(segment);
    new Uint32Array(bank.memory.buffer, plan, words.length).set(words);
    if (demand === null) {
      this.#run(bank, { plan, ops, threads, next });
      return;
    }
    const { ahead } = demand;
    const predict = ahead === null || !this.#lookAhead.on ? null : () => {
      this.#runSegment(ahead.segment, { threads, next: STAY });
      new Uint32Array(bank.memory.buffer, plan, words.length).set(words);
    };
    try {
      for (const _turn of demand.experts.pager!.turns(demand, predict)) {
        this.#run(bank, { plan, ops, threads, next: STAY });
      }
    } catch (error) {
      // The next plan expects the threads where they wait between plans.
      if (bank !== this.first && this.#lost === null) {
        this.#run(bank, { plan, ops: 0, threads, next: this.first.index });
      }
      throw error;
    }
    if (next !== STAY) this.#run(bank, { plan, ops: 0, threads, next });
  }

  /** Runs ops in a bank; after a trap the threads and what they share are lost. */
  #run(
    { kernels, context }: Bank,
    run: { plan: number; ops: number; threads: number; next: number },
  ): void {
    if (this.#lost !== null) throw this.#lost;
    try {
      kernels.run_plan(context, run.plan, run.ops, run.threads, run.next);
    } catch (error) {
      // Those who wait for this thread are to end as well.
      kernels.fail(context);
      this.lose(`cannot compute: a kernel failed (${error})`);
      throw this.#lost;
    }
  }

  #placeCache(
    { layers, pages }: { layers: number; pages: number },
    { layout, cached }: { layout: PageLayout; cached: number },
  ) {
    const layerBytes = pages * layerPageBytes(layout);
    const places = this.#placer.placeCache({ layers, layerBytes });
    for (const bank of new Set(places.map(({ bank }) => bank))) bank.reserveScratch({ cached });
    const byteLength = layers * layerBytes;
    this.#cacheBytes.push(byteLength);
    return { byteLength, places, layout };
  }

  #lookAheadBuffers(gate: GateParams, bank: Bank): LookAheadBuffers {
    const key = `${bank.index} ${gate.x.width} ${gate.topK}`;
    let buffers = this.#aheadBuffers.get(key);
    if (buffers === undefined) {
      const create = (kind: Buffer["kind"], width: number) =>
        new WasmBuffer({ kind, rows: LOOK_AHEAD_ROWS, width }, bank);
      buffers = {
        normed: create("f32", gate.x.width),
        expertIds: create("i32", gate.topK),
        weights: create("f32", gate.topK),
      };
      this.#aheadBuffers.set(key, buffers);
    }
    return buffers;
  }

  /** Makes the first bank's copy of a buffer the valid one. */
  #bringHome(buffer: WasmBuffer): void {
    const { home, rows, width } = buffer;
    if (home === this.first) return;
    const bytes = rows * width * 4;
    const source = new Uint8Array(home.memory.buffer, buffer.in(home), bytes);
    new Uint8Array(this.first.memory.buffer, buffer.in(this.first), bytes).set(source);
    buffer.home = this.first;
  }
}

/** Address of the place where a segment's words are put to run them. */
function reserveWords({ bank, words }: Segment): number {
  return bank.area("plan", Math.max(words.byteLength, 1 << 16));
}

function rangeOf(
  buffer: WasmBuffer,
  options: { row?: number; rows?: number },
): { address: number; length: number } {
  const { rows, width, home } = buffer;
  const row = options.row ?? 0;
  const count = options.rows ?? rows - row;
  if (row < 0 || row + count > rows) {
    throw new UnsupportedOpError(
      `cannot read rows ${row}..${row + count}: the buffer has ${rows}`,
    );
  }
  return { address: buffer.in(home) + row * width * 4, length: count * width };
}
