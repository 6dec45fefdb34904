/**
 * Weights that change, in the kernels' memory: float32 masters by rows, as backward products and updates
 * read them, and beside them what the forward pass reads, packed anew at each update.
 */

import { CapacityError } from "../../../errors.ts";
import type { Weight } from "../../backend.ts";
import { foreign } from "../../op_checks.ts";
import type { Parameter, Slot } from "../../training.ts";
import type { Bank } from "../bank.ts";

/** The kernels' number of float32 matrices. */
export const F32_KIND = 0;

export class WasmParameter implements Parameter {
  readonly names: readonly string[];
  readonly rows: number;
  readonly cols: number;
  readonly bank: Bank;
  /** Address of the masters, one tensor after the other. */
  readonly master: number;
  /** Of each tensor what the forward pass reads; none for vectors, which are read where they are. */
  readonly packed: readonly number[];
  gradient = 0;
  first = 0;
  second = 0;

  constructor(
    shape: Parameter,
    place: { bank: Bank; master: number; packed: readonly number[] },
  ) {
    this.names = shape.names;
    this.rows = shape.rows;
    this.cols = shape.cols;
    this.bank = place.bank;
    this.master = place.master;
    this.packed = place.packed;
  }

  /** Numbers of all tensors. */
  get length(): number {
    return this.names.length * this.rows * this.cols;
  }

  get trainingBytes(): number {
    const { master, gradient, first, second, packed } = this;
    const kept = [packed.length > 0 ? master : 0, gradient, first, second];
    return kept.filter((address) => address !== 0).length * this.length * 4;
  }

  /** Makes room for a gradient and moments, or empties what there is. */
  allocate(moments: 0 | 1 | 2): void {
    const slots = (["gradient", "first", "second"] as const).slice(0, 1 + moments);
    for (const slot of slots) {
      if (this[slot] === 0) {
        this[slot] = this.bank.arena.allocate(this.length * 4, `the ${slot} of ${this.names[0]}`);
      } else this.values(slot).fill(0);
    }
  }

  /** The numbers where they are; valid until the memory grows. */
  values(slot: Slot): Float32Array {
    const address = slot === "value" ? this.master : this[slot];
    if (address === 0) {
      throw new CapacityError(
        `cannot use the ${slot} of ${
          this.names[0]
        }: there is no room for it, must be allocated first`,
      );
    }
    return new Float32Array(this.bank.memory.buffer, address, this.length);
  }

  /** Brings what the forward pass reads up to date with the masters. */
  pack(): void {
    const { bank, rows, cols } = this;
    for (const [i, to] of this.packed.entries()) {
      bank.kernels.pack(F32_KIND, this.master + i * rows * cols * 4, rows, cols, to);
    }
  }
}

export function parameterOf(parameter: Parameter): WasmParameter {
  if (parameter instanceof WasmParameter) return parameter;
  throw foreign("parameter");
}

/** What of a backend's weights are parameters. */
export type Lookup = (weight: Weight) => WasmParameter;

/** Bytes of an entry of the kernels' table of tensors, `Tensor` of `kernels/src/training/updates.rs`. */
const TENSOR_BYTES = 48;
/** Numbers that a thread takes at a time. */
const CHUNK = 16384;
const GROUP_ROWS = 8;

/** Tensors as the kernels find them, with how each is to be updated. */
export interface TensorTable {
  readonly address: number;
  readonly count: number;
  readonly chunks: number;
}

/** Writes a table of all tensors of these parameters. */
export function writeTable(
  bank: Bank,
  parameters: readonly { parameter: WasmParameter; rate: number; decay: number }[],
): TensorTable {
  const count = parameters.reduce((sum, { parameter }) => sum + parameter.names.length, 0);
  const address = bank.arena.allocate(count * TENSOR_BYTES, "a table of tensors");
  const view = new DataView(bank.memory.buffer, address, count * TENSOR_BYTES);
  let at = 0;
  let chunks = 0;
  for (const { parameter, rate, decay } of parameters) {
    const { rows, cols, master, gradient, first, second, packed } = parameter;
    const chunkRows = Math.max(1, Math.floor(CHUNK / cols / GROUP_ROWS)) * GROUP_ROWS;
    for (const i of parameter.names.keys()) {
      const part = (base: number) => base === 0 ? 0 : base + i * rows * cols * 4;
      const words = [rows, cols, part(master), part(gradient), part(first), part(second)];
      words.push(packed[i] ?? 0, F32_KIND);
      words.forEach((word, w) => view.setUint32(at + 4 * w, word, true));
      view.setFloat32(at + 32, rate, true);
      view.setFloat32(at + 36, decay, true);
      view.setUint32(at + 40, chunks, true);
      view.setUint32(at + 44, chunkRows, true);
      chunks += Math.ceil(rows / chunkRows);
      at += TENSOR_BYTES;
    }
  }
  return { address, count, chunks };
}
