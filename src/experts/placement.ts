/**
 * Where weights live: which bank, which layer, which experts, and whether they stay there. One WASM
 * memory holds at most 4 GiB, so that larger models take several banks; layers stay together as far as
 * they fit, since between banks only the hidden state has to cross. Plain data in, plain data out.
 */

import { CapacityError, OptionError } from "../errors.ts";

/** What one WASM memory can hold: 2^16 pages of 64 KiB. */
export const MAX_BANK_BYTES = 2 ** 32;

/** The share of a bank that weights take; the rest is for caches, activations and threads. */
const WEIGHT_SHARE = 7 / 8;

/** What a bank takes of weights before the next one is filled. */
export const BANK_WEIGHT_BYTES = MAX_BANK_BYTES * WEIGHT_SHARE;

/** What of a bank of `bankBytes` weights take. */
export const weightShare = (bankBytes: number): number => Math.floor(bankBytes * WEIGHT_SHARE);

/** A run of one layer's weights in one place. */
export interface PlacementEntry {
  readonly layer: number;
  /** Experts `first` to `first + count - 1`; null for what every token needs (attention, norms, ...). */
  readonly experts: { readonly first: number; readonly count: number } | null;
  readonly bytes: number;
  /** Index of the bank it stays in; null where it is read from its file when it is chosen. */
  readonly bank: number | null;
}

export interface BankUse {
  /** Bytes of the weights that stay here. */
  readonly resident: number;
  /** Places for experts that come and go, `Placement.slotBytes` each. */
  readonly slots: number;
}

export interface Placement {
  readonly bankBytes: number;
  readonly banks: readonly BankUse[];
  /** By layer, within it what every token needs first, then experts by their number. */
  readonly entries: readonly PlacementEntry[];
  /** Bytes of the largest paged expert; 0 where all stay. */
  readonly slotBytes: number;
}

/** One thing to place: a matrix, or all matrices of a routed expert. */
export interface PlacementItem {
  /** The layer it belongs to; -1 for what belongs to none. */
  readonly layer: number;
  /** The routed expert's number; undefined for what every token needs. */
  readonly expert?: number;
  readonly bytes: number;
}

/**
 * Decides item by item in the order in which they come, and keeps what was decided: what a planner
 * foresees for a whole model, and what a backend follows while it loads one.
 */
export class PlacementBuilder {
  readonly #banks: Banks;
  readonly #bankBytes: number;
  readonly #entries: PlacementEntry[] = [];
  readonly #homes = new Map<number, number>();
  #slotBytes = 0;

  /**
   * `maxBanks`: where there are only so many, the last one takes what is left, and an item larger than a
   * bank gets one that is empty; otherwise such an item is a CapacityError.
   */
  constructor(options: { bankBytes: number; maxBanks?: number }) {
    this.#bankBytes = options.bankBytes;
    this.#banks = new Banks(options);
  }

  /** The bank that the item stays in. */
  place({ layer, expert, bytes }: PlacementItem): number {
    const bank = this.#banks.place(bytes);
    const experts = expert === undefined ? null : { first: expert, count: 1 };
    append(this.#entries, { layer, experts, bytes, bank });
    if (!this.#homes.has(layer)) this.#homes.set(layer, bank);
    return bank;
  }

  /** Leaves an expert in its file until it is chosen. */
  page({ layer, expert, bytes }: Required<PlacementItem>): void {
    append(this.#entries, { layer, experts: { first: expert, count: 1 }, bytes, bank: null });
    this.#slotBytes = Math.max(this.#slotBytes, bytes);
  }

  /** The bank of a layer's first item, where its cache belongs; undefined for a layer without any. */
  homeOf(layer: number): number | undefined {
    return this.#homes.get(layer);
  }

  /** Places for paged experts in what `room` bytes hold, at most one for each. */
  addSlots({ room }: { room: number }): void {
    const paged = this.#entries.filter(({ bank }) => bank === null);
    const most = paged.reduce((count, { experts }) => count + (experts?.count ?? 0), 0);
    this.#banks.addSlots({ slotBytes: this.#slotBytes, room, most });
  }

  /** What has been decided so far. */
  get placement(): Placement {
    return {
      bankBytes: this.#bankBytes,
      banks: this.#banks.uses,
      entries: this.#entries,
      slotBytes: this.#slotBytes,
    };
  }
}

export interface PlacementRequest {
  readonly bankBytes: number;
  /** What every token needs; several items of a layer may lie in different banks, one item may not. */
  readonly fixed: readonly { readonly layer: number; readonly bytes: number }[];
  /** Routed experts, all matrices of one expert together. */
  readonly experts: readonly {
    readonly layer: number;
    readonly expert: number;
    readonly bytes: number;
  }[];
  /** What all banks together may spend; unlimited where absent. */
  readonly memoryBytes?: number;
}

/**
 * Fills banks layer by layer. Everything stays where that fits into `memoryBytes`; otherwise no routed
 * expert has a place of its own, and what `fixed` leaves becomes slots that all of them share.
 * Throws OptionError for sizes that are none, CapacityError where an item exceeds a bank, or `fixed`
 * and one slot the memory.
 */
export function placeWeights(request: PlacementRequest): Placement {
  const { bankBytes, memoryBytes = Infinity } = request;
  check(request);
  const fixed = [...request.fixed].sort((a, b) => a.layer - b.layer);
  const experts = [...request.experts].sort((a, b) => a.layer - b.layer || a.expert - b.expert);
  const fixedBytes = sum(fixed);
  const builder = new PlacementBuilder({ bankBytes });
  const all = fixedBytes + sum(experts) <= memoryBytes;
  const layers = [...new Set([...fixed, ...experts].map(({ layer }) => layer))];
  const fixedOf = Map.groupBy(fixed, ({ layer }) => layer);
  const expertsOf = Map.groupBy(experts, ({ layer }) => layer);
  for (const layer of layers.sort((a, b) => a - b)) {
    for (const { bytes } of fixedOf.get(layer) ?? []) builder.place({ layer, bytes });
    for (const item of expertsOf.get(layer) ?? []) {
      if (all) builder.place(item);
      else builder.page(item);
    }
  }
  if (!all) builder.addSlots({ room: memoryBytes - fixedBytes });
  return builder.placement;
}

function check({ bankBytes, memoryBytes, fixed, experts }: PlacementRequest): void {
  const whole = (bytes: number) => Number.isSafeInteger(bytes) && bytes >= 0;
  if (!whole(bankBytes) || bankBytes < 1 || bankBytes > MAX_BANK_BYTES) {
    throw new OptionError(
      `cannot place weights: a bank is ${bankBytes} bytes, must be 1 to ${MAX_BANK_BYTES}`,
    );
  }
  const bad = [...fixed, ...experts].find(({ bytes }) => !whole(bytes));
  if (bad !== undefined) {
    throw new OptionError(
      `cannot place weights: an item of layer ${bad.layer} is ${bad.bytes} bytes, ` +
        "must be a whole number",
    );
  }
  const needed = sum(fixed);
  if (memoryBytes !== undefined && needed > memoryBytes) {
    throw new CapacityError(
      `cannot place weights: what every token needs is ${needed} bytes, ` +
        `must be at most the memory's ${memoryBytes}`,
    );
  }
}

/** Adds an item, to the entry before where it continues that one. */
function append(entries: PlacementEntry[], item: PlacementEntry): void {
  const last = entries[entries.length - 1];
  const beside = last !== undefined && last.layer === item.layer && last.bank === item.bank;
  if (beside && last.experts === null && item.experts === null) {
    entries[entries.length - 1] = { ...last, bytes: last.bytes + item.bytes };
    return;
  }
  if (beside && last.experts !== null && item.experts !== null) {
    const { first, count } = last.experts;
    if (first + count === item.experts.first) {
      const experts = { first, count: count + 1 };
      entries[entries.length - 1] = { ...last, experts, bytes: last.bytes + item.bytes };
      return;
    }
  }
  entries.push(item);
}

class Banks {
  readonly uses: { resident: number; slots: number }[] = [];
  readonly #bankBytes: number;
  readonly #maxBanks: number;

  constructor({ bankBytes, maxBanks = Infinity }: { bankBytes: number; maxBanks?: number }) {
    this.#bankBytes = bankBytes;
    this.#maxBanks = maxBanks;
  }

  /** The last bank where there is room for the item, else a new one. */
  place(bytes: number): number {
    if (bytes > this.#bankBytes && this.#maxBanks === Infinity) {
      throw new CapacityError(
        `cannot place weights: an item is ${bytes} bytes, ` +
          `must be at most a bank's ${this.#bankBytes}`,
      );
    }
    const last = this.uses[this.uses.length - 1];
    const full = last === undefined || last.resident + bytes > this.#bankBytes;
    if (full && this.uses.length < this.#maxBanks) {
      this.uses.push({ resident: bytes, slots: 0 });
    } else last!.resident += bytes;
    return this.uses.length - 1;
  }

  /** Up to `most` slots into the last bank's rest, then into new ones. */
  addSlots(options: { slotBytes: number; room: number; most: number }): void {
    const { slotBytes, room, most } = options;
    const each = Math.floor(this.#bankBytes / slotBytes);
    let left = Math.min(most, Math.floor(room / slotBytes));
    if (each < 1 || left < 1) {
      throw new CapacityError(
        `cannot place weights: the largest expert is ${slotBytes} bytes, must be at most ` +
          `a bank's ${this.#bankBytes} and the ${room} that the memory has left`,
      );
    }
    const last = this.uses[this.uses.length - 1];
    if (last !== undefined) {
      last.slots = Math.min(left, Math.floor((this.#bankBytes - last.resident) / slotBytes));
      left -= last.slots;
    }
    for (; left > 0; left -= each) this.uses.push({ resident: 0, slots: Math.min(left, each) });
  }
}

function sum(items: readonly { readonly bytes: number }[]): number {
  return items.reduce((total, { bytes }) => total + bytes, 0);
}
