/** Parameters of a whole model from those of its members, and back. */

import type { Parameter } from "../../backend/training.ts";
import { extentsOf, type Grid, placeOf } from "./grid.ts";

/** What a member holds of a tensor, and where that is. */
interface Share {
  readonly rank: number;
  /** Its place among the parts of the tensor. */
  readonly part: number;
  readonly rows: number;
  readonly cols: number;
  /** Which of the member's parameters it is in, and from where on. */
  readonly parameter: number;
  readonly offset: number;
}

/** Where the tensors of a whole model lie, each of its parts with all members that hold it. */
export class Holdings {
  readonly #members: readonly (readonly Parameter[])[];
  readonly #parts: number;
  readonly #shares = new Map<string, Share[]>();

  /** `members`: the parameters of each rank. */
  constructor(grid: Grid, members: readonly (readonly Parameter[])[]) {
    this.#members = members;
    this.#parts = extentsOf(grid).tensor;
    for (const [rank, parameters] of members.entries()) {
      const { tensor: part } = placeOf(grid, rank);
      for (const [parameter, { names, rows, cols }] of parameters.entries()) {
        for (const [i, name] of names.entries()) {
          const share = { rank, part, rows, cols, parameter, offset: i * rows * cols };
          const list = this.#shares.get(name);
          if (list === undefined) this.#shares.set(name, [share]);
          else list.push(share);
        }
      }
    }
  }

  /** Ranks that hold all parts of all tensors between them. */
  get holders(): number[] {
    const ranks = new Set<number>();
    for (const shares of this.#shares.values()) {
      for (const { rank } of this.#distinct(shares)) ranks.add(rank);
    }
    return [...ranks].sort((a, b) => a - b);
  }

  /** A whole parameter's numbers, of those that `values` has of each rank's parameters. */
  gather(
    whole: Parameter,
    values: ReadonlyMap<number, readonly Float32Array[]>,
  ): Float32Array<ArrayBuffer> {
    const size = whole.rows * whole.cols;
    const all = new Float32Array(whole.names.length * size);
    for (const [i, name] of whole.names.entries()) {
      for (const share of this.#distinct(this.#find(name))) {
        const from = values.get(share.rank)![share.parameter];
        this.#eachRun(whole, share, (own, at, length) => {
          all.set(from.subarray(share.offset + own, share.offset + own + length), i * size + at);
        });
      }
    }
    return all;
  }

  /** For each rank, its parameters' numbers of those of whole ones. */
  scatter(wholes: readonly { parameter: Parameter; values: Float32Array }[]): Float32Array[][] {
    const own = this.#members.map((parameters) =>
      parameters.map(({ names, rows, cols }) => new Float32Array(names.length * rows * cols))
    );
    for (const { parameter: whole, values } of wholes) {
      const size = whole.rows * whole.cols;
      for (const [i, name] of whole.names.entries()) {
        for (const share of this.#find(name)) {
          const to = own[share.rank][share.parameter];
          this.#eachRun(whole, share, (place, at, length) => {
            const from = i * size + at;
            to.set(values.subarray(from, from + length), share.offset + place);
          });
        }
      }
    }
    return own;
  }

  #find(name: string): readonly Share[] {
    const shares = this.#shares.get(name);
    if (shares !== undefined) return shares;
    throw new Error(`no member holds ${name}`);
  }

  /** Of each part the first member that holds it. */
  #distinct(shares: readonly Share[]): Share[] {
    const first = new Map<number, Share>();
    for (const share of shares) if (!first.has(share.part)) first.set(share.part, share);
    return [...first.values()];
  }

  /** Calls `move` with each run of a share's numbers: its place in the share and in the whole tensor. */
  #eachRun(
    whole: Parameter,
    { part, rows, cols }: Share,
    move: (own: number, at: number, length: number) => void,
  ): void {
    if (cols === whole.cols) {
      const isCut = rows * this.#parts === whole.rows && this.#parts > 1;
      return move(0, isCut ? part * rows * cols : 0, rows * cols);
    }
    for (let row = 0; row < rows; row++) {
      move(row * cols, row * whole.cols + part * cols, cols);
    }
  }
}
