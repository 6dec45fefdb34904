/** The experts of a layer that stay in their file until they are chosen. */

import { UnsupportedOpError } from "../../../errors.ts";
import { TENSOR_TYPES } from "../../../quant/types.ts";
import type { ExpertTensors, TensorData, TensorLocation } from "../../backend.ts";
import { writeExpert } from "../expert_table.ts";
import type { ExpertTable, SmallVector, WasmExperts } from "../memory.ts";
import type { PackedShape } from "../upload.ts";
import type { LoadTable, MatrixLoad } from "./load_table.ts";
import type { ExpertPager } from "./pager.ts";

/** Where one of the three matrices of each expert is to be read. */
export interface PagedMatrix {
  at(expert: number): Omit<MatrixLoad, "address">;
}

export class PagedExperts implements WasmExperts {
  readonly layer: number;
  readonly count: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly byteLength: number;
  readonly kinds: WasmExperts["kinds"];
  /** Bytes of gate, up and down of an expert in memory. */
  readonly packedBytes: readonly number[];
  readonly #lists: readonly (readonly TensorData[])[];
  readonly #shapes: readonly PackedShape[];
  readonly #biases: readonly (readonly SmallVector[])[];
  #tables: readonly ExpertTable[] = [];
  #pager: ExpertPager | null = null;

  /** Throws UnsupportedOpError where a matrix has no place in a file or must be converted. */
  constructor(
    options: {
      tensors: ExpertTensors;
      shapes: readonly PackedShape[];
      /** Of each expert: none, or those of gate, up and down. */
      biases: readonly (readonly SmallVector[])[];
    },
  ) {
    const { tensors: { layer, gate, up, down }, shapes } = options;
    this.layer = layer;
    this.count = gate.length;
    this.hidden = gate[0].cols;
    this.intermediate = gate[0].rows;
    this.packedBytes = shapes.map(({ byteLength }) => byteLength);
    this.byteLength = this.count * this.packedBytes.reduce((sum, bytes) => sum + bytes, 0);
    this.kinds = { gate: shapes[0].kind, up: shapes[1].kind, down: shapes[2].kind };
    this.#lists = [gate, up, down];
    this.#shapes = shapes;
    this.#biases = options.biases;
    for (const [i, list] of this.#lists.entries()) {
      const { name, type, location } = list[0];
      if (shapes[i].type !== type) {
        throw new UnsupportedOpError(
          `cannot page experts: ${name} is ${type}, which is converted when it is loaded, ` +
            `must be one of ${directTypes()}`,
        );
      }
      if (location === undefined) {
        throw new UnsupportedOpError(
          `cannot page experts: ${name} is put together from several parts of its file, must be one ` +
            "part; load it as a GGUF file",
        );
      }
    }
  }

  get tables(): readonly ExpertTable[] {
    return this.#tables;
  }

  get pager(): ExpertPager | null {
    return this.#pager;
  }

  /** Where the first expert's gate lies. */
  get location(): TensorLocation {
    return this.#lists[0][0].location!;
  }

  /** Where to read each expert's matrices; makes their files known. */
  matrices(table: LoadTable, files: Map<string, number>): PagedMatrix[] {
    const fileOf = ({ file, version }: TensorLocation): number => {
      let number = files.get(file);
      if (number === undefined) {
        number = table.addFile({ file, version });
        files.set(file, number);
      }
      return number;
    };
    return this.#lists.map((list, i) => {
      const { rows, cols } = list[0];
      const { kind } = this.#shapes[i];
      const places = list.map(({ location }) => ({
        file: fileOf(location!),
        offset: location!.offset,
        byteLength: location!.byteLength,
      }));
      return { at: (expert) => ({ ...places[expert], kind, rows, cols }) };
    });
  }

  /** Takes its table, in which no expert is in memory yet. */
  settle(table: ExpertTable, pager: ExpertPager): void {
    this.#tables = [table];
    this.#pager = pager;
    table.bank.reserveScratch({ cols: Math.max(this.hidden, this.intermediate) });
    for (let index = 0; index < this.count; index++) {
      const matrices = this.#lists.map((list, i) => ({
        tensor: list[index],
        shape: this.#shapes[i],
        address: 0,
      }));
      const biases = (this.#biases[index] ?? []).map((vector) => vector.in(table.bank));
      writeExpert(table, { index, matrices, biases });
    }
  }
}

function directTypes(): string {
  return Object.entries(TENSOR_TYPES).filter(([, { kernel }]) => kernel !== null)
    .map(([type]) => type).join(", ");
}
