/**
 * Experts that lie with several members (GShard, Lepikhin et al. 2021): each member sends a token's row to
 * those that hold one of its experts, once to each, and adds up what comes back in the order of members,
 * which is that of the experts' ids. The backward pass goes the same ways with gradients.
 */

import type { ExpertsParams } from "../../backend/backend.ts";
import type { TrainingBackend } from "../../backend/training.ts";
import type { HostExperts, HostRows } from "../tape/rules/exchange.ts";
import { partOf } from "../tape/stage.ts";
import type { Communicator } from "./communicator.ts";
import { addRows, type ExpertDesk, type Floats, type Parcel, rowsOf } from "./expert_desk.ts";
import type { Timeline } from "./timeline.ts";

/** What a member has sent to another: rows of its own, and choices (row * topK + rank) of theirs. */
interface Sent {
  readonly rows: readonly number[];
  readonly choices: readonly number[];
}

/** A layer's experts, what is the same for all of its micro-batches. */
export interface ExchangeOptions {
  readonly backend: TrainingBackend;
  readonly group: Communicator;
  readonly timeline: Timeline;
  readonly desk: ExpertDesk;
  readonly params: ExpertsParams;
  /** Experts of all members. */
  readonly count: number;
}

export class ExpertExchange implements HostExperts {
  readonly #options: ExchangeOptions;
  /** Of the micro-batch between its passes. */
  #sent: readonly Sent[] = [];
  #received: readonly Parcel[] = [];

  constructor(options: ExchangeOptions) {
    this.#options = options;
  }

  async forward(
    { x, expertIds, weights, out }: Record<"x" | "expertIds" | "weights" | "out", HostRows>,
  ): Promise<void> {
    const { backend, group, count, params, desk } = this.#options;
    const rows = await backend.read(x.buffer, { rows: x.rows });
    const ids = await backend.readIntegers(expertIds.buffer, { rows: expertIds.rows });
    const shares = await backend.read(weights.buffer, { rows: weights.rows });
    const { topK } = params;
    const bounds = Array.from(
      { length: group.size },
      (_, index) => partOf(count, { index, count: group.size }),
    );
    this.#sent = bounds.map(([from, to]) => choicesWithin(ids, { from, to, topK }));
    const { width } = x.buffer;
    const parcels = this.#sent.map((sent, to) =>
      packed({ rows, ids, shares }, { sent, topK, width, first: bounds[to][0] })
    );
    const arrived = await this.#swap("dispatch", parcels);
    this.#received = arrived.map((parcel) => unpacked(parcel, width));
    const answers = await desk.answer(params, this.#received);
    const back = await this.#swap("combine", answers);
    const sums = new Float32Array(out.rows * width);
    this.#sent.forEach((sent, from) => addRows(back[from], { rows: sent.rows, width, sums }));
    backend.write(out.buffer, sums);
  }

  async backward(
    { outGradient, xGradient, weightsGradient }: Record<
      "outGradient" | "xGradient" | "weightsGradient",
      HostRows
    >,
  ): Promise<void> {
    const { backend, desk, params } = this.#options;
    const { width } = outGradient.buffer;
    const gradient = await backend.read(outGradient.buffer, { rows: outGradient.rows });
    const parcels = this.#sent.map(({ rows }) => rowsOf(gradient, { rows, width }));
    const arrived = await this.#swap("gradient dispatch", parcels);
    const answers = await desk.reverse(params, { parcels: this.#received, gradients: arrived });
    const back = await this.#swap("gradient combine", answers);
    const sums = new Float32Array(xGradient.rows * width);
    const shares = new Float32Array(weightsGradient.rows * params.topK);
    this.#sent.forEach(({ rows, choices }, from) => {
      addRows(back[from], { rows, width, sums });
      choices.forEach((choice, i) => shares[choice] = back[from][rows.length * width + i]);
    });
    this.#received = [];
    backend.write(xGradient.buffer, sums);
    backend.write(weightsGradient.buffer, shares);
  }

  /** Sends each member its part; what they have sent here, in their order. */
  async #swap(tag: string, parts: readonly Floats[]): Promise<Floats[]> {
    const { group, timeline } = this.#options;
    return await timeline.measure("exchange", tag, async () => {
      parts.forEach((part, to) => {
        if (to !== group.rank) group.send(to, tag, part);
      });
      const all: Floats[] = [];
      for (let from = 0; from < group.size; from++) {
        all.push(from === group.rank ? parts[from] : await group.receive(from, tag));
      }
      return all;
    });
  }
}

/** The choices of experts from `from` up to `to`; of one row in the order of experts. */
function choicesWithin(
  ids: Int32Array,
  { from, to, topK }: { from: number; to: number; topK: number },
): Sent {
  const rows: number[] = [];
  const choices: number[] = [];
  for (let row = 0; row < ids.length / topK; row++) {
    const own = Array.from({ length: topK }, (_, rank) => row * topK + rank)
      .filter((choice) => ids[choice] >= from && ids[choice] < to)
      .sort((a, b) => ids[a] - ids[b]);
    if (own.length > 0) rows.push(row);
    choices.push(...own);
  }
  return { rows, choices };
}

/** How many tokens, their rows, then of each choice its token, expert and weight. */
function packed(
  { rows, ids, shares }: { rows: Float32Array; ids: Int32Array; shares: Float32Array },
  { sent, topK, width, first }: { sent: Sent; topK: number; width: number; first: number },
): Floats {
  const places = new Map(sent.rows.map((row, i) => [row, i]));
  const parcel = new Float32Array(1 + sent.rows.length * width + 3 * sent.choices.length);
  parcel[0] = sent.rows.length;
  parcel.set(rowsOf(rows, { rows: sent.rows, width }), 1);
  let at = 1 + sent.rows.length * width;
  for (const choice of sent.choices) {
    parcel[at++] = places.get(Math.floor(choice / topK))!;
    parcel[at++] = ids[choice] - first;
    parcel[at++] = shares[choice];
  }
  return parcel;
}

function unpacked(parcel: Floats, width: number): Parcel {
  const from = 1 + parcel[0] * width;
  const choices = Array.from({ length: (parcel.length - from) / 3 }, (_, i) => from + 3 * i);
  return {
    rows: parcel.subarray(1, from),
    tokens: Int32Array.from(choices, (at) => parcel[at]),
    experts: Int32Array.from(choices, (at) => parcel[at + 1]),
    weights: Float32Array.from(choices, (at) => parcel[at + 2]),
  };
}
