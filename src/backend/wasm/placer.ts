/**
 * Decides in which bank each weight and each layer's cache lies, and uploads there. Weights fill one
 * bank after the other in the order in which a step reads them; a layer's experts may be spread over
 * several banks, its cache lies where its first matrix does.
 */

import { CapacityError, FormatError, OptionError, UnsupportedOpError } from "../../errors.ts";
import { PlacementBuilder, weightShare } from "../../experts/placement.ts";
import { DEFAULT_POLICY } from "../../experts/policy.ts";
import { isWebUrl } from "../../formats/web_request.ts";
import type {
  ActivationPrecision,
  ExpertReplacement,
  ExpertTensors,
  ExpertTraffic,
  TensorData,
  UploadOptions,
  Weight,
} from "../backend.ts";
import {
  checkExpertTensors,
  checkReplacement,
  checkSlot,
  firstExpert,
  residentTraffic,
} from "../expert_tensors.ts";
import type { Bank } from "./bank.ts";
import { addressesOf, EXPERT_BYTES, writeExpert } from "./expert_table.ts";
import type { ExpertTable, LayerPlace, SmallVector, WasmExperts } from "./memory.ts";
import { ExpertStore } from "./paging/expert_store.ts";
import { cacheBytesOf, type PagingOptions } from "./paging/options.ts";
import { PagedExperts } from "./paging/paged_experts.ts";
import { Readers } from "./paging/readers.ts";
import type { SharedModule } from "./kernels.ts";
import { type PackedShape, Uploader } from "./upload.ts";

const MAX_READERS = 64;

export interface PlacerOptions {
  readonly shared: SharedModule;
  readonly banks: readonly Bank[];
  /** Bytes that a bank takes before the next one is filled. */
  readonly bankBytes: number;
  readonly activations: ActivationPrecision;
  readonly paging?: PagingOptions;
}

export class Placer {
  readonly #options: PlacerOptions;
  readonly #banks: readonly Bank[];
  readonly #uploader: Uploader;
  /** Where everything lies: which bank, which layer, which experts. */
  readonly #placement: PlacementBuilder;
  readonly #experts: WasmExperts[] = [];
  /** Those of layers that are paged, until their slots are made. */
  readonly #unsettled: PagedExperts[] = [];
  #readers: Readers | null = null;
  #store: ExpertStore | null = null;
  #weightBytes = 0;

  constructor(options: PlacerOptions) {
    this.#options = options;
    this.#banks = options.banks;
    this.#placement = new PlacementBuilder({
      bankBytes: weightShare(options.bankBytes),
      maxBanks: options.banks.length,
    });
    this.#uploader = new Uploader(options.activations);
  }

  get conversions(): readonly string[] {
    return this.#uploader.conversions;
  }

  /** Bytes of all weights in memory. */
  get weightBytes(): number {
    return this.#weightBytes;
  }

  async upload(tensor: TensorData, options: UploadOptions): Promise<Weight> {
    if (tensor.rows === 1) {
      const vector = await this.#uploader.vector(tensor, this.#banks[0]);
      this.#weightBytes += vector.byteLength;
      return vector;
    }
    const shape = this.#uploader.shapeOf(tensor, { ...options, bank: this.#banks[0] });
    const { layer = -1 } = options;
    const bank = this.#banks[this.#placement.place({ layer, bytes: shape.byteLength })];
    bank.reserveScratch({ cols: tensor.cols });
    const weight = await this.#uploader.matrix(tensor, { bank, shape });
    this.#weightBytes += weight.byteLength;
    return weight;
  }

  async uploadExperts(tensors: ExpertTensors): Promise<WasmExperts> {
    checkExpertTensors(tensors);
    const { layer, gate, up, down, biases } = tensors;
    const shapes = [gate[0], up[0], down[0]].map((tensor) =>
      this.#uploader.shapeOf(tensor, { bank: this.#banks[0] })
    );
    if (this.#options.paging !== undefined) return await this.#pageExperts(tensors, shapes);
    const bytesEach = shapes.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const tables: ExpertTable[] = [];
    for (const index of gate.keys()) {
      const place = this.#placement.place({ layer, expert: index, bytes: bytesEach });
      const bank = this.#banks[place];
      let table = tables.at(-1);
      if (table?.bank !== bank) {
        table = { bank, address: bank.arena.allocate(gate.length * EXPERT_BYTES, "experts") };
        tables.push(table);
        bank.reserveScratch({ cols: Math.max(gate[0].cols, down[0].cols) });
      }
      const matrices = [gate, up, down].map((list, i) => ({
        tensor: list[index],
        shape: shapes[i],
        address: bank.arena.allocate(shapes[i].byteLength, list[index].name),
      }));
      for (const { tensor, shape, address } of matrices) {
        await this.#uploader.packInto(tensor, { bank, shape, address });
      }
      const vectors = biases === undefined
        ? []
        : await Promise.all([biases.gate, biases.up, biases.down].map(async (list) => {
          const { vector } = await this.#uploader.vector(list[index], bank);
          return vector!.in(bank);
        }));
      writeExpert(table, { index, matrices, biases: vectors });
    }
    this.#weightBytes += gate.length * bytesEach;
    const experts: WasmExperts = {
      layer,
      count: gate.length,
      hidden: gate[0].cols,
      intermediate: gate[0].rows,
      byteLength: gate.length * bytesEach,
      kinds: kindsOf(shapes),
      tables,
      pager: null,
    };
    this.#experts.push(experts);
    return experts;
  }

  /** Packs an expert over one that is in memory. */
  async replaceExpert(experts: WasmExperts, replacement: ExpertReplacement): Promise<void> {
    const { layer, kinds, tables, pager } = experts;
    if (pager !== null || tables.length === 0) {
      throw new UnsupportedOpError(
        `cannot replace an expert of layer ${layer}: the layer is paged, must be in memory`,
      );
    }
    const { slot } = replacement;
    checkSlot(experts, slot);
    const places = tables.map((table) => ({ ...table, ...addressesOf(table, slot) }));
    const { bank, matrices, biases } = places.find(({ matrices }) => matrices[0] !== 0) ??
      places[0];
    checkReplacement(experts, { ...replacement, biased: biases[0] !== 0 });
    const tensors = firstExpert(replacement.tensors);
    const kindsThere = [kinds.gate, kinds.up, kinds.down];
    const shapes = matrices.map((_, i) => this.#uploader.shapeOf(tensors[i], { bank }));
    for (const [i, { kind }] of shapes.entries()) {
      if (kind === kindsThere[i]) continue;
      const action = `replace an expert of layer ${layer}`;
      throw FormatError.of(action, tensors[i].name, tensors[i].type, "of its predecessor's type");
    }
    for (const [i, address] of matrices.entries()) {
      await this.#uploader.packInto(tensors[i], { bank, shape: shapes[i], address });
    }
    for (const [i, tensor] of tensors.slice(matrices.length).entries()) {
      const { values } = await this.#uploader.smallVector(tensor);
      new Float32Array(bank.memory.buffer, biases[i], values.length).set(values);
    }
  }

  /** A place for each layer's part of a cache; throws CapacityError before anything is taken. */
  placeCache(options: { layers: number; layerBytes: number }): LayerPlace[] {
    const { layers, layerBytes } = options;
    const banks = Array.from(
      { length: layers },
      (_, layer) => this.#banks[this.#placement.homeOf(layer) ?? 0],
    );
    for (const bank of new Set(banks)) {
      const wanted = banks.filter((other) => other === bank).length * layerBytes;
      if (wanted > bank.arena.free) {
        throw new CapacityError(
          `cannot allocate the KV cache: ${wanted} bytes are asked for, must be at most the ` +
            `${bank.arena.free} that are left`,
        );
      }
    }
    return banks.map((bank) => ({
      bank,
      address: bank.arena.allocate(layerBytes, "the KV cache"),
    }));
  }

  /** Makes the slots of paged experts, once all that stays in memory is there. */
  settlePaged({ kvBytes }: { kvBytes: number }): void {
    const { paging, shared, bankBytes } = this.#options;
    if (paging === undefined || this.#unsettled.length === 0) return;
    this.#store = new ExpertStore({
      layers: [...this.#unsettled],
      banks: this.#banks,
      bankBytes,
      cacheBytes: cacheBytesOf(paging, { kvBytes }),
      policy: paging.policy ?? DEFAULT_POLICY,
      shared,
      readers: this.#readers!,
    });
    // Only now: where there is no room, a smaller cache of keys and values is tried.
    this.#unsettled.length = 0;
    this.#weightBytes += this.#store.byteLength;
  }

  expertTraffic(): readonly ExpertTraffic[] {
    if (this.#store !== null) return this.#store.traffic();
    return residentTraffic(this.#experts);
  }

  close(): void {
    this.#store?.close();
    this.#readers?.close();
  }

  /** Leaves a layer's matrices where they are; its biases are small and stay in memory. */
  async #pageExperts(
    tensors: ExpertTensors,
    shapes: readonly PackedShape[],
  ): Promise<PagedExperts> {
    const { biases } = tensors;
    const vectors: SmallVector[][] = [];
    for (const index of tensors.gate.keys()) {
      const lists = biases === undefined ? [] : [biases.gate, biases.up, biases.down];
      vectors.push([]);
      for (const list of lists) {
        vectors[index].push(await this.#uploader.smallVector(list[index]));
      }
    }
    const experts = new PagedExperts({ tensors, shapes, biases: vectors });
    const { readers: count = 1 } = this.#options.paging ?? {};
    const remote = isWebUrl(experts.location.file);
    if (!Number.isInteger(count) || count < (remote ? 1 : 0) || count > MAX_READERS) {
      throw new OptionError(
        `cannot page experts: their readers are ${count}, must be ${
          remote ? 1 : 0
        } to ${MAX_READERS}`,
      );
    }
    this.#readers ??= new Readers({ count });
    // A remote reader must have come up before anybody blocks on it.
    if (remote) await this.#readers.up;
    const bytes = shapes.reduce((sum, { byteLength }) => sum + byteLength, 0);
    for (const expert of tensors.gate.keys()) {
      this.#placement.page({ layer: tensors.layer, expert, bytes });
    }
    this.#unsettled.push(experts);
    this.#experts.push(experts);
    return experts;
  }
}

function kindsOf([gate, up, down]: readonly PackedShape[]): WasmExperts["kinds"] {
  return { gate: gate.kind, up: up.kind, down: down.kind };
}
