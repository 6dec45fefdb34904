/** What the wasm backend's handles hold besides what the seam promises: banks and addresses. */

import type { Buffer, Experts, KvCache, LatentCache, Weight } from "../backend.ts";
import type { PageLayout } from "../kv_layout.ts";
import type { Bank } from "./bank.ts";
import type { ExpertPager } from "./paging/pager.ts";

/** A buffer has a place in each bank whose ops use it; one of them holds what was written last. */
export class WasmBuffer implements Buffer {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
  /** The bank whose copy is valid. */
  home: Bank;
  readonly #addresses = new Map<Bank, number>();

  constructor(shape: Buffer, home: Bank) {
    this.kind = shape.kind;
    this.rows = shape.rows;
    this.width = shape.width;
    this.home = home;
    this.in(home);
  }

  /** Its address in a bank. */
  in(bank: Bank): number {
    let address = this.#addresses.get(bank);
    if (address === undefined) {
      address = bank.arena.allocate(this.rows * this.width * 4, "a buffer");
      this.#addresses.set(bank, address);
    }
    return address;
  }
}

export interface WasmWeight extends Weight {
  readonly bank: Bank;
  /** Number of the packed type in the kernels. */
  readonly kind: number;
  /** Address of the kernels' description of the matrix; 0 for vectors. */
  readonly descriptor: number;
  /** A vector's values; copied into each bank that uses it. */
  readonly vector: SmallVector | null;
}

/** A vector of a model, kept in every bank whose ops read it. */
export class SmallVector {
  readonly values: Float32Array;
  readonly name: string;
  readonly #addresses = new Map<Bank, number>();

  constructor(name: string, values: Float32Array) {
    this.name = name;
    this.values = values;
  }

  in(bank: Bank): number {
    let address = this.#addresses.get(bank);
    if (address === undefined) {
      address = bank.arena.allocate(this.values.byteLength, this.name);
      new Float32Array(bank.memory.buffer, address, this.values.length).set(this.values);
      this.#addresses.set(bank, address);
    }
    return address;
  }
}

/** The experts of a layer that a bank holds, as the kernels' table of all of them. */
export interface ExpertTable {
  readonly bank: Bank;
  /** Address of `count` entries; those of experts that are elsewhere are zeros. */
  readonly address: number;
}

export interface WasmExperts extends Experts {
  /** Numbers of the packed types. */
  readonly kinds: { readonly gate: number; readonly up: number; readonly down: number };
  /** By ascending expert; one for paged experts. */
  readonly tables: readonly ExpertTable[];
  /** What brings experts in before they run; null where all are resident. */
  readonly pager: ExpertPager | null;
}

/** Where each layer's part of a cache lies. */
export interface LayerPlace {
  readonly bank: Bank;
  readonly address: number;
}

/** What a cache of either kind has in the banks. */
interface CachePlaces {
  readonly places: readonly LayerPlace[];
  readonly layout: PageLayout;
}

export interface WasmKvCache extends KvCache, CachePlaces {}

export interface WasmLatentCache extends LatentCache, CachePlaces {}

export type WasmCache = WasmKvCache | WasmLatentCache;
