/**
 * One layer's routed experts in two places: some lie in slots on the device, and the host has all of them,
 * so that any may leave the device at once. A layer that is whole on the device needs no host.
 */

import { OptionError } from "../../errors.ts";
import { rowBytes } from "../../quant/types.ts";
import {
  type Backend,
  type Buffer,
  type ExpertReplacement,
  type Experts,
  type ExpertTensors,
  NO_EXPERT,
  type TensorData,
} from "../backend.ts";
import { checkExpertTensors, checkReplacement, firstExpert } from "../expert_tensors.ts";
import { foreign } from "../op_checks.ts";

/** The two backends that a hybrid one is made of. */
export interface Sides {
  readonly device: Backend;
  readonly host: Backend;
}

/** Uploads a layer's experts, `resident` ones to the device. Throws OptionError for ids that are none. */
export async function uploadHybridExperts(
  { device, host }: Sides,
  { tensors, resident }: { tensors: ExpertTensors; resident: readonly number[] },
): Promise<HybridExperts> {
  checkExpertTensors(tensors);
  const count = tensors.gate.length;
  checkResident(resident, { layer: tensors.layer, count });
  const whole = resident.length === count;
  // Whole layers keep the order of their ids, which need no translation then.
  const slots = whole ? resident.map((_, id) => id) : resident;
  return new HybridExperts({
    tensors,
    resident: slots,
    device,
    onDevice: slots.length === 0 ? null : await device.uploadExperts(selected(tensors, slots)),
    onHost: whole ? null : await host.uploadExperts(tensors),
  });
}

export class HybridExperts implements Experts {
  readonly layer: number;
  readonly count: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly byteLength: number;
  /** One expert a slot; null where none lies on the device. */
  readonly onDevice: Experts | null;
  /** All of them; null where all lie on the device. */
  readonly onHost: Experts | null;
  /** i32 [count, 1] on the device: the slot of each expert, or NO_EXPERT. Only where both sides have some. */
  readonly slotTable: Buffer | null;
  readonly #device: Backend;
  #tensors: ExpertTensors;
  /** The slot of each expert that the device computes, else NO_EXPERT. */
  readonly #slots: Int32Array;
  /** The expert of each slot, there or on its way. */
  readonly #resident: number[];

  constructor({ tensors, resident, device, onDevice, onHost }: {
    tensors: ExpertTensors;
    resident: readonly number[];
    device: Backend;
    onDevice: Experts | null;
    onHost: Experts | null;
  }) {
    this.layer = tensors.layer;
    this.count = tensors.gate.length;
    this.hidden = tensors.gate[0].cols;
    this.intermediate = tensors.gate[0].rows;
    this.byteLength = (onDevice?.byteLength ?? 0) + (onHost?.byteLength ?? 0);
    this.onDevice = onDevice;
    this.onHost = onHost;
    this.#device = device;
    this.#tensors = tensors;
    this.#resident = [...resident];
    this.#slots = new Int32Array(this.count).fill(NO_EXPERT);
    for (const [slot, id] of resident.entries()) this.#slots[id] = slot;
    this.slotTable = onDevice === null || onHost === null
      ? null
      : device.createBuffer({ kind: "i32", rows: this.count, width: 1 });
    this.#writeSlots();
  }

  /**
   * Whether the device computes the expert. Throws RangeError for an id that is none, and for NO_EXPERT
   * where the device has looked its slot up.
   */
  has(id: number): boolean {
    if (id === NO_EXPERT && this.slotTable === null) return false;
    if (id >= 0 && id < this.count) return this.#slots[id] !== NO_EXPERT;
    throw new RangeError(
      `cannot run a plan: an expert id is ${id}, must be from 0 to ${this.count - 1}`,
    );
  }

  /** The expert of each slot, there or on its way. */
  get resident(): readonly number[] {
    return [...this.#resident];
  }

  /** Throws RangeError where the expert cannot move to the slot. */
  checkMove({ slot, expert }: { slot: number; expert: number }): void {
    const action = `place expert ${expert} of layer ${this.layer}`;
    checkIndex(action, { what: "its slot", is: slot, count: this.#resident.length });
    checkIndex(action, { what: "it", is: expert, count: this.count });
    const there = this.#resident.indexOf(expert);
    if (there < 0 || there === slot) return;
    throw new RangeError(
      `cannot ${action}: it lies in slot ${there}, must be on the host to go to slot ${slot}`,
    );
  }

  /** Leaves a slot to an expert, which the host computes still, like the one before. Not while a plan runs. */
  assign(slot: number, expert: number): void {
    this.#slots[this.#resident[slot]] = NO_EXPERT;
    this.#resident[slot] = expert;
    this.#writeSlots();
  }

  /** An expert in memory, so that a file that fails or is slow leaves no slot empty. */
  async fetch(expert: number): Promise<ExpertTensors> {
    const tensors = selected(this.#tensors, [expert]);
    const held = new Map<TensorData, TensorData>();
    for (const tensor of firstExpert(tensors)) held.set(tensor, await inMemory(tensor));
    return mapped(tensors, (list) => list.map((tensor) => held.get(tensor)!));
  }

  /** Uploads the expert that a slot has been left to; nothing reads the slot meanwhile. */
  async fill(slot: number, tensors: ExpertTensors): Promise<void> {
    await this.#device.replaceExpert(this.onDevice!, { slot, tensors });
  }

  /** Lets the device compute the expert of a slot. Not while a plan runs. */
  settle(slot: number): void {
    this.#slots[this.#resident[slot]] = slot;
    this.#writeSlots();
  }

  /** Overwrites an expert wherever it lies. */
  async replace(host: Backend, { slot: id, tensors }: ExpertReplacement): Promise<void> {
    const biased = this.#tensors.biases !== undefined;
    checkReplacement(this, { slot: id, tensors, biased });
    if (this.onHost !== null) await host.replaceExpert(this.onHost, { slot: id, tensors });
    const slot = this.#resident.indexOf(id);
    if (slot >= 0) await this.#device.replaceExpert(this.onDevice!, { slot, tensors });
    this.#tensors = exchanged(this.#tensors, { id, by: tensors });
  }

  #writeSlots(): void {
    if (this.slotTable !== null) this.#device.write(this.slotTable, this.#slots);
  }
}

export function hybridExpertsOf(experts: Experts): HybridExperts {
  if (experts instanceof HybridExperts) return experts;
  throw foreign("layer's experts");
}

/** The tensor with all of its bytes at hand. */
async function inMemory(tensor: TensorData): Promise<TensorData> {
  const { name, type, rows, cols } = tensor;
  const bytes = new Uint8Array(rows * rowBytes(type, cols));
  await tensor.read(0, bytes);
  const read = (offset: number, into: Uint8Array) => {
    into.set(bytes.subarray(offset, offset + into.length));
    return Promise.resolve();
  };
  return { name, type, rows, cols, read };
}

/** Some of a layer's experts, in this order. */
function selected(tensors: ExpertTensors, ids: readonly number[]): ExpertTensors {
  return mapped(tensors, (list) => ids.map((id) => list[id]));
}

/** A layer's experts with another one at `id`. */
function exchanged(
  tensors: ExpertTensors,
  { id, by }: { id: number; by: ExpertTensors },
): ExpertTensors {
  return mapped(tensors, (list, pick) => list.with(id, pick(by)[0]));
}

type TensorList = readonly TensorData[];

/** Each list of tensors made another one; `pick` gets the same list of other experts. */
function mapped(
  { layer, gate, up, down, biases }: ExpertTensors,
  map: (list: TensorList, pick: (of: ExpertTensors) => TensorList) => TensorList,
): ExpertTensors {
  return {
    layer,
    gate: map(gate, (of) => of.gate),
    up: map(up, (of) => of.up),
    down: map(down, (of) => of.down),
    ...(biases && {
      biases: {
        gate: map(biases.gate, (of) => of.biases!.gate),
        up: map(biases.up, (of) => of.biases!.up),
        down: map(biases.down, (of) => of.biases!.down),
      },
    }),
  };
}

function checkResident(
  resident: readonly number[],
  { layer, count }: { layer: number; count: number },
): void {
  const wrong = resident.find((id, i) =>
    !Number.isInteger(id) || id < 0 || id >= count || resident.indexOf(id) !== i
  );
  if (wrong === undefined) return;
  throw new OptionError(
    `cannot place the experts of layer ${layer}: expert ${wrong} is to be resident, ` +
      `must be one of the ${count} from 0 on, and each once`,
  );
}

function checkIndex(
  action: string,
  { what, is, count }: { what: string; is: number; count: number },
): void {
  if (Number.isInteger(is) && is >= 0 && is < count) return;
  const right = count === 0 ? "on a layer that has slots" : `from 0 to ${count - 1}`;
  throw new RangeError(`cannot ${action}: ${what} is ${is}, must be ${right}`);
}
