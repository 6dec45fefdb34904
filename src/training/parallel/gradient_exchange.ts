/**
 * What members of a grid add up once a step: gradients of parameters that several hold, and the step's
 * sums. Who holds a parameter too depends on what it is.
 */

import type { Buffer } from "../../backend/backend.ts";
import type { Parameter, TrainingBackend } from "../../backend/training.ts";
import { allReduce, type Communicator, Subgroup } from "./communicator.ts";
import { type Axis, extentsOf, type Grid, type GridPlace, groupOf, placeOf } from "./grid.ts";
import type { Slices } from "./slices.ts";

export interface GradientExchangeOptions {
  readonly backend: TrainingBackend;
  readonly communicator: Communicator;
  readonly grid: Grid;
  readonly slices: Slices;
  readonly parameters: readonly Parameter[];
  /** Those of them that are routed experts'. */
  readonly experts: ReadonlySet<Parameter>;
  /** The embedding, where the first and the last stage both hold it. */
  readonly tied: Parameter | null;
}

export class GradientExchange {
  readonly #options: GradientExchangeOptions;
  readonly #place: GridPlace;

  constructor(options: GradientExchangeOptions) {
    this.#options = options;
    this.#place = placeOf(options.grid, options.communicator.rank);
  }

  /** Adds up gradients, and sums of those that have a share of the batch. */
  async gradients(sums: readonly Buffer[]): Promise<void> {
    const { backend, parameters, experts, slices, tied } = this.#options;
    const partial = parameters.filter(({ names }) => slices.isPartial(names[0]));
    await this.#reduce(["tensor"], partial);
    await this.#reduce(["replica", "expert"], parameters.filter((one) => !experts.has(one)));
    await this.#reduce(["replica"], parameters.filter((one) => experts.has(one)));
    const sharing = this.#group(["replica", "expert"]);
    for (const buffer of sharing.size > 1 ? sums : []) {
      const values = await backend.read(buffer);
      await allReduce(sharing, "sums", values);
      backend.write(buffer, values);
    }
    if (tied === null) return;
    const stages = this.#group(["stage"]);
    await this.#reduceIn(new Subgroup(stages, [0, stages.size - 1]), [tied]);
  }

  /** The parameters that this member answers for in the norm of all: each has one that does. */
  get measured(): Parameter[] {
    const { parameters, experts, slices, tied } = this.#options;
    const { expert, stage, tensor } = this.#place;
    return parameters.filter((parameter) =>
      (tensor === 0 || slices.cutOf(parameter.names[0]) !== undefined) &&
      (expert === 0 || experts.has(parameter)) &&
      (stage === 0 || parameter !== tied)
    );
  }

  /** The norm of all gradients from that of the measured ones. */
  async norm(own: number): Promise<number> {
    const squares = Float32Array.of(own ** 2);
    await allReduce(this.#group(["expert", "stage", "tensor"]), "norm", squares);
    return Math.sqrt(squares[0]);
  }

  #group(axes: readonly Axis[]): Communicator {
    const { communicator, grid } = this.#options;
    return new Subgroup(communicator, groupOf(grid, this.#place, axes));
  }

  async #reduce(axes: readonly Axis[], parameters: readonly Parameter[]): Promise<void> {
    const extents = extentsOf(this.#options.grid);
    if (parameters.length === 0 || axes.every((axis) => extents[axis] === 1)) return;
    await this.#reduceIn(this.#group(axes), parameters);
  }

  async #reduceIn(group: Communicator, parameters: readonly Parameter[]): Promise<void> {
    const { backend } = this.#options;
    const length = parameters.reduce((sum, parameter) => sum + lengthOf(parameter), 0);
    const all = new Float32Array(length);
    let at = 0;
    for (const parameter of parameters) {
      all.set(await backend.readParameter(parameter, "gradient"), at);
      at += lengthOf(parameter);
    }
    await allReduce(group, "gradients", all);
    at = 0;
    for (const parameter of parameters) {
      const end = at + lengthOf(parameter);
      backend.writeParameter(parameter, "gradient", all.subarray(at, end));
      at = end;
    }
  }
}

function lengthOf({ names, rows, cols }: Parameter): number {
  return names.length * rows * cols;
}
