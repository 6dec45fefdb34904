/**
 * Routed experts that are paged: an arena of slots holds the resident ones, a policy says which to give
 * up, and readers bring in what a step's gates choose and what the next layer is expected to. The
 * thread that runs plans reads too while it waits, where the experts come from a file.
 */

import { ExpertReadError } from "../../../errors.ts";
import { isWebUrl } from "../../../formats/web_request.ts";
import { type ExpertTraffic, NO_EXPERT } from "../../backend.ts";
import type { Bank } from "../bank.ts";
import { EXPERT_BYTES, moveExpert } from "../expert_table.ts";
import type { SharedModule } from "../kernels.ts";
import type { WasmBuffer } from "../memory.ts";
import type { ExpertDemand } from "../plan.ts";
import { aligned, type Arena, type ArenaOptions, makeArenas } from "./arenas.ts";
import { type ExpertLoad, LoadTable, type MatrixLoad, STATE } from "./load_table.ts";
import type { PagedExperts, PagedMatrix } from "./paged_experts.ts";
import type { ExpertPager } from "./pager.ts";
import type { Readers } from "./readers.ts";
import { failureText, FileReader } from "./reading.ts";

/** Rows from which on a step counts as prefill. */
const PREFILL_ROWS = 8;
/** Missing experts of a step and layer up to which the thread that waits reads a file's alone. */
const MOST_READ_HERE = 4;

export interface ExpertStoreOptions extends ArenaOptions {
  readonly shared: SharedModule;
  readonly readers: Readers;
}

interface Counts {
  hits: number;
  prefetched: number;
  misses: number;
  readonly predictions: { made: number; right: number };
  bytesRead: number;
}

export class ExpertStore implements ExpertPager {
  readonly #layers: readonly PagedExperts[];
  readonly #experts: number;
  readonly #table: LoadTable;
  readonly #reader: FileReader | null;
  readonly #readers: Readers;
  readonly #arenas: readonly Arena[];
  readonly #arenaOf: readonly Arena[];
  /** The slot of each expert, -1 for none, and the expert of each slot. */
  readonly #slots: Int32Array;
  readonly #keys: Int32Array;
  /** Experts fetched ahead that nobody has used yet. */
  readonly #ahead = new Set<number>();
  readonly #counts: Counts[];
  readonly #places: readonly (readonly PagedMatrix[])[];
  /** The layer that ran last; a step begins where it does not grow. */
  #layer = Infinity;
  /** What a layer still to run is expected to choose, whether resident or not. */
  #prediction: { readonly layer: number; readonly experts: ReadonlySet<number> } | null = null;

  /** Allocates the slots. Throws CapacityError where there is not room for a single expert. */
  constructor(options: ExpertStoreOptions) {
    const { layers } = options;
    this.#layers = layers;
    this.#experts = Math.max(...layers.map(({ count }) => count));
    const { arenas, arenaOf, slots } = makeArenas(options);
    this.#arenas = arenas;
    this.#arenaOf = arenaOf;
    this.#slots = new Int32Array(layers.length * this.#experts).fill(-1);
    this.#keys = new Int32Array(slots).fill(-1);
    this.#counts = layers.map(() => ({
      ...{ hits: 0, prefetched: 0, misses: 0, bytesRead: 0 },
      predictions: { made: 0, right: 0 },
    }));
    this.#table = new LoadTable({ slots });
    const files = new Map<string, number>();
    this.#places = layers.map((layer) => layer.matrices(this.#table, files));
    const remote = layers.some(({ location }) => isWebUrl(location.file));
    this.#reader = remote ? null : new FileReader(this.#table);
    this.#readers = options.readers;
    this.#readers.start({ shared: options.shared, table: this.#table.memory, remote });
    for (const [i, layer] of layers.entries()) {
      const { bank } = this.#arenaOf[i];
      const address = bank.arena.allocate(layer.count * EXPERT_BYTES, "experts");
      layer.settle({ bank, address }, this);
    }
  }

  *turns(demand: ExpertDemand, predict: (() => void) | null): Generator<void> {
    const { rows, topK } = demand;
    const experts = demand.experts as PagedExperts;
    const layer = this.#layers.indexOf(experts);
    const arena = this.#arenaOf[layer];
    if (layer <= this.#layer) {
      for (const { policy } of this.#arenas) policy.beginStep({ prefill: rows > PREFILL_ROWS });
      // A step that failed leaves one behind.
      this.#prediction = null;
    }
    this.#layer = layer;
    arena.policy.enterLayer(layer);
    const chosen = idsIn(demand.expertIds as WasmBuffer, { bank: arena.bank, count: rows * topK });
    this.#comparePrediction(layer, chosen);
    for (let done = 0; done < chosen.length; done += arena.count) {
      const turn = chosen.slice(done, done + arena.count);
      const asked = this.#ask(turn, { layer, arena });
      if (predict !== null && chosen.length <= arena.count) {
        predict();
        this.#lookAhead(demand);
      }
      this.#await(turn, { layer, asked });
      const table = experts.tables[0];
      for (const index of turn) {
        const slot = this.#slots[layer * this.#experts + index];
        moveExpert(table, { index, addresses: this.#addresses(layer, slot) });
      }
      yield;
      for (const index of turn) moveExpert(table, { index, addresses: [0, 0, 0] });
      // What was foreseen may lie in another arena.
      for (const { pinned } of this.#arenas) pinned.clear();
    }
  }

  /** Bytes of all slots. */
  get byteLength(): number {
    return this.#arenas.reduce((sum, { count, slotBytes }) => sum + count * slotBytes, 0);
  }

  traffic(): ExpertTraffic[] {
    return this.#layers.map(({ layer, count }, i) => {
      const keys = this.#slots.subarray(i * this.#experts, i * this.#experts + count);
      const resident = keys.reduce(
        (sum, slot) => sum + (slot >= 0 && this.#table.state(slot) === STATE.done ? 1 : 0),
        0,
      );
      const { predictions, ...counts } = this.#counts[i];
      return { layer, resident, ...counts, predictions: { ...predictions } };
    });
  }

  close(): void {
    this.#table.stop();
    this.#reader?.close();
    this.#readers.close();
  }

  /** Sees to it that each of a layer's experts is resident or being read; returns what it asked for. */
  #ask(
    experts: readonly number[],
    { layer, arena }: { layer: number; arena: Arena },
  ): ReadonlySet<number> {
    const counts = this.#counts[layer];
    const missing: number[] = [];
    for (const index of experts) {
      const key = layer * this.#experts + index;
      const slot = this.#slots[key];
      if (slot < 0 || this.#failed(key)) {
        missing.push(key);
        continue;
      }
      arena.pinned.add(slot);
      this.#table.hurry(slot);
      if (this.#ahead.delete(key)) counts.prefetched += 1;
      else counts.hits += 1;
      arena.policy.use(key);
    }
    // Waking a reader for a few experts of a file takes longer than to read them.
    const few = this.#reader !== null && missing.length <= MOST_READ_HERE;
    const urgency = few ? "here" : "now";
    for (const key of missing) {
      counts.misses += 1;
      const slot = this.#takeSlot(arena);
      if (slot === undefined) throw new Error("all slots are pinned");
      this.#load(key, { slot, urgency });
      arena.pinned.add(slot);
      arena.policy.admit(key);
      arena.policy.use(key);
    }
    return new Set(missing);
  }

  /** Asks for the experts that the next layer is expected to choose. */
  #lookAhead({ ahead, rows, topK }: ExpertDemand): void {
    const { experts, expertIds } = ahead!;
    const layer = this.#layers.indexOf(experts as PagedExperts);
    const arena = this.#arenaOf[layer];
    const expected = idsIn(expertIds, { bank: arena.bank, count: rows * topK });
    this.#prediction = { layer, experts: new Set(expected) };
    for (const index of expected) {
      const key = layer * this.#experts + index;
      const held = this.#slots[key];
      if (held >= 0) {
        // What is about to be used is not given up for its neighbours.
        arena.pinned.add(held);
        continue;
      }
      const slot = this.#takeSlot(arena);
      if (slot === undefined) return;
      this.#load(key, { slot, urgency: "ahead" });
      arena.pinned.add(slot);
      arena.policy.admit(key);
      this.#ahead.add(key);
    }
  }

  /** Counts how much of what a layer was expected to choose it has chosen. */
  #comparePrediction(layer: number, chosen: readonly number[]): void {
    if (this.#prediction?.layer !== layer) return;
    const { experts } = this.#prediction;
    this.#prediction = null;
    const { predictions } = this.#counts[layer];
    predictions.made += experts.size;
    predictions.right += chosen.reduce((sum, index) => sum + (experts.has(index) ? 1 : 0), 0);
  }

  /**
   * Waits until a layer's experts have been read; reads what nobody has begun. A read that was asked
   * for before and has failed is no news of the source as it is now, and is done again.
   */
  #await(
    experts: readonly number[],
    { layer, asked }: { layer: number; asked: ReadonlySet<number> },
  ): void {
    const keys = experts.map((index) => layer * this.#experts + index);
    for (const key of keys) this.#readUnclaimed(this.#slots[key]);
    for (const key of keys) {
      const slot = this.#slots[key];
      let state = this.#table.settled(slot);
      if (state === STATE.failed && !asked.has(key)) {
        this.#load(key, { slot, urgency: "now" });
        this.#readUnclaimed(slot);
        state = this.#table.settled(slot);
      }
      if (state !== STATE.failed) continue;
      const message = this.#table.failure;
      this.#drop(key);
      for (const { pinned } of this.#arenas) pinned.clear();
      throw new ExpertReadError(message);
    }
  }

  #readUnclaimed(slot: number): void {
    if (this.#reader !== null && this.#table.claim(slot)) this.#readHere(slot);
  }

  #readHere(slot: number): void {
    const load = this.#table.load(slot);
    const bank = this.#arenas.find((arena) => arena.bank.index === load.bank)!.bank;
    try {
      this.#reader!.read(load, bank);
      this.#table.setState(slot, STATE.done);
    } catch (error) {
      this.#table.fail(slot, failureText(load, { table: this.#table, error }));
    }
  }

  /** A slot for another expert, or undefined where none can be given up. */
  #takeSlot(arena: Arena): number | undefined {
    const free = arena.free.pop();
    if (free !== undefined) return free;
    const slotOf = (key: number) => this.#slots[key];
    const key = arena.policy.victim((key) =>
      arena.pinned.has(slotOf(key)) || this.#table.state(slotOf(key)) === STATE.taken
    );
    if (key !== undefined) {
      const slot = slotOf(key);
      // Nobody may begin to read into it now; a reader that has begun since is waited for.
      if (this.#table.claim(slot, STATE.idle)) this.#countRead(key, -1);
      else this.#table.settled(slot);
      this.#forget(key);
      return slot;
    }
    return this.#takeBusySlot(arena);
  }

  /**
   * As the last resort the slot of a read under way that nobody waits for: one ahead of need, or one of
   * a step that has failed meanwhile.
   */
  #takeBusySlot({ first, count, pinned }: Arena): number | undefined {
    for (let slot = first; slot < first + count; slot++) {
      if (this.#keys[slot] < 0 || pinned.has(slot)) continue;
      this.#table.settled(slot);
      this.#forget(this.#keys[slot]);
      return slot;
    }
    return undefined;
  }

  #load(key: number, { slot, urgency }: { slot: number; urgency: "here" | "now" | "ahead" }): void {
    const layer = Math.floor(key / this.#experts);
    const load = this.#describe(layer, { index: key % this.#experts, slot });
    this.#slots[key] = slot;
    this.#keys[slot] = key;
    this.#countRead(key, 1);
    this.#table.publish(slot, load, urgency);
  }

  /** Counts the bytes of an expert as read, or, with -1, as not read after all. */
  #countRead(key: number, sign: 1 | -1): void {
    const layer = Math.floor(key / this.#experts);
    const matrices = this.#places[layer].map((matrix) => matrix.at(key % this.#experts));
    this.#counts[layer].bytesRead += sign * matrices.reduce((sum, m) => sum + m.byteLength, 0);
  }

  #describe(layer: number, { index, slot }: { index: number; slot: number }): ExpertLoad {
    const addresses = this.#addresses(layer, slot);
    const matrices = this.#places[layer].map((matrix, i): MatrixLoad => ({
      ...matrix.at(index),
      address: addresses[i],
    }));
    return { bank: this.#arenaOf[layer].bank.index, matrices };
  }

  /** Where gate, up and down of a layer's expert lie in a slot. */
  #addresses(layer: number, slot: number): number[] {
    const { first, address, slotBytes } = this.#arenaOf[layer];
    let at = address + (slot - first) * slotBytes;
    return this.#layers[layer].packedBytes.map((bytes) => {
      const here = at;
      at += aligned(bytes);
      return here;
    });
  }

  /** Whether the last read of an expert has failed; it holds no slot then. */
  #failed(key: number): boolean {
    if (this.#table.state(this.#slots[key]) !== STATE.failed) return false;
    this.#drop(key);
    return true;
  }

  #drop(key: number): void {
    const slot = this.#slots[key];
    this.#forget(key);
    this.#arenaOf[Math.floor(key / this.#experts)].free.push(slot);
  }

  #forget(key: number): void {
    const slot = this.#slots[key];
    this.#table.setState(slot, STATE.idle);
    this.#slots[key] = -1;
    this.#keys[slot] = -1;
    this.#ahead.delete(key);
    this.#arenaOf[Math.floor(key / this.#experts)].policy.remove(key);
  }
}

/** The distinct experts of a step's choices, ascending. */
function idsIn(buffer: WasmBuffer, { bank, count }: { bank: Bank; count: number }): number[] {
  const ids = new Int32Array(bank.memory.buffer, buffer.in(bank), count);
  return [...new Set(ids)].filter((id) => id !== NO_EXPERT).sort((a, b) => a - b);
}
