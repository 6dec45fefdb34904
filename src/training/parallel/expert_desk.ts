/**
 * A member's own experts at work on the choices of all members. Nothing stays on the backend between the
 * passes: gates are computed again in the backward one. Layers and micro-batches take turns.
 */

import type { Buffer, Experts, ExpertsParams, Plan } from "../../backend/backend.ts";
import type { TrainingBackend } from "../../backend/training.ts";
import type { Timeline } from "./timeline.ts";

export type Floats = Float32Array<ArrayBuffer>;

/** Tokens and their choices, as one member sends them to another. */
export interface Parcel {
  /** [tokens, hidden] */
  readonly rows: Floats;
  /** Of each choice: its token, the expert's number with the receiver, and its weight. */
  readonly tokens: Int32Array;
  readonly experts: Int32Array;
  readonly weights: Floats;
}

/** Buffers of one size, a choice in each row. */
interface Table {
  readonly capacity: number;
  readonly x: Buffer;
  readonly expertIds: Buffer;
  readonly weights: Buffer;
  readonly out: Buffer;
  readonly gate: Buffer;
  readonly up: Buffer;
  readonly outGradient: Buffer;
  readonly xGradient: Buffer;
  readonly weightsGradient: Buffer;
}

interface Plans {
  readonly table: Table;
  readonly forward: Plan;
  readonly backward: Plan;
}

export class ExpertDesk {
  readonly #backend: TrainingBackend;
  readonly #timeline: Timeline;
  readonly #plans = new Map<Experts, Map<number, Plans>>();
  #table: Table | null = null;

  constructor({ backend, timeline }: { backend: TrainingBackend; timeline: Timeline }) {
    this.#backend = backend;
    this.#timeline = timeline;
  }

  /** For each parcel, its tokens' sums: [tokens, hidden]. */
  async answer(params: ExpertsParams, parcels: readonly Parcel[]): Promise<Floats[]> {
    const { hidden } = params.experts;
    const { table, forward, count } = this.#lay(params, parcels);
    if (count === 0) return parcels.map(() => new Float32Array(0));
    await this.#timeline.measure("forward", "experts", () => this.#backend.submit(forward));
    const out = await this.#backend.read(table.out, { rows: count });
    let from = 0;
    return parcels.map(({ rows, tokens }) => {
      const sums = new Float32Array(rows.length);
      addRows(out.subarray(from * hidden), { rows: [...tokens], width: hidden, sums });
      from += tokens.length;
      return sums;
    });
  }

  /** For each parcel, the gradients of its tokens' rows, then of its choices' weights. */
  async reverse(
    params: ExpertsParams,
    { parcels, gradients }: { parcels: readonly Parcel[]; gradients: readonly Float32Array[] },
  ): Promise<Floats[]> {
    const { hidden: width } = params.experts;
    const { table, backward, count, planned } = this.#lay(params, parcels);
    if (count === 0) return parcels.map(() => new Float32Array(0));
    const gradient = new Float32Array(planned * width);
    let from = 0;
    for (const [i, { tokens }] of parcels.entries()) {
      gradient.set(rowsOf(gradients[i], { rows: [...tokens], width }), from * width);
      from += tokens.length;
    }
    this.#backend.write(table.outGradient, gradient);
    await this.#timeline.measure("backward", "experts", () => this.#backend.submit(backward));
    const rows = await this.#backend.read(table.xGradient, { rows: count });
    const weights = await this.#backend.read(table.weightsGradient, { rows: count });
    from = 0;
    return parcels.map((parcel) => {
      const { tokens } = parcel;
      const answer = new Float32Array(parcel.rows.length + tokens.length);
      addRows(rows.subarray(from * width), { rows: [...tokens], width, sums: answer });
      answer.set(weights.subarray(from, from + tokens.length), parcel.rows.length);
      from += tokens.length;
      return answer;
    });
  }

  /** Puts all choices into the table, one behind the other; rows that are left over weigh nothing. */
  #lay(params: ExpertsParams, parcels: readonly Parcel[]) {
    const { hidden: width } = params.experts;
    const count = parcels.reduce((sum, { tokens }) => sum + tokens.length, 0);
    // Few different sizes, so that few plans are recorded, and little is computed in vain.
    const step = Math.max(1, Math.ceil(params.rows * params.topK / 4));
    const planned = Math.max(1, Math.ceil(count / step)) * step;
    const plans = this.#plansFor(params, planned);
    const x = new Float32Array(planned * width);
    const expertIds = new Int32Array(planned);
    const weights = new Float32Array(planned);
    let from = 0;
    for (const { rows, tokens, ...parcel } of parcels) {
      x.set(rowsOf(rows, { rows: [...tokens], width }), from * width);
      expertIds.set(parcel.experts, from);
      weights.set(parcel.weights, from);
      from += tokens.length;
    }
    this.#backend.write(plans.table.x, x);
    this.#backend.write(plans.table.expertIds, expertIds);
    this.#backend.write(plans.table.weights, weights);
    return { ...plans, count, planned };
  }

  #plansFor(params: ExpertsParams, rows: number): Plans {
    const { experts, activation, scale = 1 } = params;
    let known = this.#plans.get(experts);
    if (known === undefined) this.#plans.set(experts, known = new Map());
    let plans = known.get(rows);
    if (plans !== undefined) return plans;
    const table = this.#tableFor(experts, rows);
    const { x, expertIds, weights, out, gate, up } = table;
    const common = { experts, topK: 1, rows, x, expertIds };
    plans = {
      table,
      forward: this.#backend.recordTraining((ops) => {
        ops.fill({ buffer: out, value: 0 });
        ops.experts({ ...common, activation, scale, weights, out });
      }),
      backward: this.#backend.recordTraining((ops) => {
        ops.expertGates({ ...common, kept: { gate, up } });
        ops.expertsBackward({
          ...{ ...common, scale, weights, kept: { gate, up }, outGradient: table.outGradient },
          target: { buffer: table.xGradient, accumulate: false },
          weightsGradient: table.weightsGradient,
        });
      }),
    };
    known.set(rows, plans);
    return plans;
  }

  /** A table with so many rows; those that are too small stay with the plans that have them. */
  #tableFor({ hidden, intermediate }: Experts, rows: number): Table {
    const known = this.#table;
    if (known !== null && known.capacity >= rows) return known;
    const capacity = Math.max(rows, 2 * (known?.capacity ?? 0));
    const create = (width: number, kind: Buffer["kind"] = "f32") =>
      this.#backend.createBuffer({ kind, rows: capacity, width });
    return this.#table = {
      capacity,
      x: create(hidden),
      expertIds: create(1, "i32"),
      weights: create(1),
      out: create(hidden),
      gate: create(intermediate),
      up: create(intermediate),
      outGradient: create(hidden),
      xGradient: create(hidden),
      weightsGradient: create(1),
    };
  }
}

/** Rows of `[.., width]`, one behind the other. */
export function rowsOf(
  values: Float32Array,
  { rows, width }: { rows: readonly number[]; width: number },
): Floats {
  const own = new Float32Array(rows.length * width);
  rows.forEach((row, i) => own.set(values.subarray(row * width, (row + 1) * width), i * width));
  return own;
}

/** Adds row i of the values to row `rows[i]` of the sums. */
export function addRows(
  values: Float32Array,
  { rows, width, sums }: { rows: readonly number[]; width: number; sums: Float32Array },
): void {
  rows.forEach((row, i) => {
    for (let c = 0; c < width; c++) sums[row * width + c] += values[i * width + c];
  });
}
