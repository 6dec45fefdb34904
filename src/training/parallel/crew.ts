/**
 * Members on threads of their own, told by messages what to do. Each has its own memory and its own part of
 * the model; they talk to each other through ports.
 */

import { BackendLostError, OptionError } from "../../errors.ts";
import type { Parameter, Slot } from "../../backend/training.ts";
import type { TrainingSequence } from "../batch.ts";
import { shareOf } from "../trainer.ts";
import { connect } from "./communicator.ts";
import { batchShareOf, checkGrid, type Grid, groupOf, placeOf, ranksOf } from "./grid.ts";
import type { TimelineEvent } from "./timeline.ts";
import { Holdings } from "./whole.ts";
import type { Answer, CrewOptions, Order } from "./wire.ts";

/** What a step has added up over all members. */
export interface CrewSums {
  /** `TOTALS` of all stages, and the clock. */
  readonly totals: Float32Array;
  readonly clock: Float32Array;
  /** [gates, most experts]; empty without gates. */
  readonly counts: Float32Array;
}

export class Crew {
  readonly grid: Grid;
  readonly #threads: readonly Thread[];
  #holdings: Holdings | null = null;

  private constructor(grid: Grid, threads: readonly Thread[]) {
    this.grid = grid;
    this.#threads = threads;
  }

  /**
   * Starts a thread for each member; throws OptionError for a grid that is none, or that the model cannot
   * be divided by.
   */
  static async start(options: CrewOptions): Promise<Crew> {
    const { grid } = options;
    checkGrid(grid);
    const ranks = ranksOf(grid);
    const ports = connect(ranks);
    const threads = Array.from({ length: ranks }, () => new Thread());
    const crew = new Crew(grid, threads);
    try {
      await Promise.all(threads.map((thread) => thread.next("up")));
      const answers = await Promise.all(threads.map((thread, rank) => {
        const order = { kind: "start", ...options, rank, ports: ports[rank] } as const;
        return thread.ask(order, "started", ports[rank].filter((port) => port !== null));
      }));
      crew.#holdings = new Holdings(grid, answers.map(({ parameters }) => parameters));
    } catch (error) {
      crew.close();
      throw error;
    }
    return crew;
  }

  /** One step over the micro-batches of all members, dealt out evenly; some may get empty ones. */
  async step(
    microBatches: readonly (readonly TrainingSequence[])[],
    { rate, biasRate = 0 }: { rate: number; biasRate?: number },
  ): Promise<CrewSums> {
    const { grid } = this;
    const whole = shareOf(microBatches.flat());
    const answers = await Promise.all(this.#threads.map((thread, rank) => {
      const own = dealt(microBatches, batchShareOf(grid, rank));
      return thread.ask({ kind: "step", microBatches: own, whole, rate, biasRate }, "stepped");
    }));
    // Those of one stage have the same sums; stages have each its own part.
    const stages = groupOf(grid, placeOf(grid, 0), ["stage"]).map((rank) => answers[rank]);
    const sum = (of: (answer: typeof stages[number]) => Float32Array) =>
      of(stages[0]).map((_, i) => stages.reduce((all, answer) => all + of(answer)[i], 0));
    return {
      totals: sum(({ totals }) => totals),
      clock: answers[0].clock,
      counts: sum(({ counts }) => counts),
    };
  }

  /** A slot of a whole model's parameters, in their order. */
  async read(slot: Slot, parameters: readonly Parameter[]): Promise<Float32Array<ArrayBuffer>[]> {
    const holdings = this.#holdings!;
    const values = new Map(
      await Promise.all(holdings.holders.map(async (rank) => {
        const answer = await this.#threads[rank].ask({ kind: "read", slot }, "read");
        return [rank, answer.values] as const;
      })),
    );
    return parameters.map((parameter) => holdings.gather(parameter, values));
  }

  /** The reverse; the parameters must be all that have such a slot. */
  async write(
    slot: Slot,
    wholes: readonly { parameter: Parameter; values: Float32Array }[],
  ): Promise<void> {
    const parts = this.#holdings!.scatter(wholes);
    await Promise.all(
      this.#threads.map((thread, rank) =>
        thread.ask({ kind: "write", slot, values: parts[rank] }, "written")
      ),
    );
  }

  /** Goes on from a clock. */
  async setClock(values: Float32Array): Promise<void> {
    await Promise.all(
      this.#threads.map((thread) => thread.ask({ kind: "clock", values }, "written")),
    );
  }

  /** What the members have done since the last call. */
  async timeline(): Promise<TimelineEvent[]> {
    const answers = await Promise.all(
      this.#threads.map((thread) => thread.ask({ kind: "timeline" }, "timeline")),
    );
    return answers.flatMap(({ events }) => events);
  }

  close(): void {
    for (const thread of this.#threads) thread.close();
  }
}

/** A member's share of a step's micro-batches: as many for each, empty ones where they don't go round. */
function dealt(
  microBatches: readonly (readonly TrainingSequence[])[],
  { index, count }: { index: number; count: number },
): readonly (readonly TrainingSequence[])[] {
  const each = Math.ceil(microBatches.length / count);
  const own = microBatches.slice(index * each, (index + 1) * each);
  return [...own, ...Array.from({ length: each - own.length }, () => [])];
}

/** A member's thread, which answers each order once and in order. */
class Thread {
  readonly #worker = new Worker(new URL("./crew_thread.ts", import.meta.url), { type: "module" });
  readonly #waiting: PromiseWithResolvers<Answer>[] = [];

  constructor() {
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      const waiting = this.#waiting.shift();
      if (data.kind !== "failed") waiting?.resolve(data);
      else if (data.refused) waiting?.reject(new OptionError(data.message));
      else waiting?.reject(new BackendLostError(`a member failed: ${data.message}`));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const error = new BackendLostError(`a member's thread failed (${event.message})`);
      for (const waiting of this.#waiting.splice(0)) waiting.reject(error);
    };
  }

  async ask<Kind extends Answer["kind"]>(
    order: Order,
    kind: Kind,
    transfer: readonly MessagePort[] = [],
  ): Promise<Extract<Answer, { kind: Kind }>> {
    this.#worker.postMessage(order, [...transfer]);
    return await this.next(kind);
  }

  /** The next answer, which must be of this kind. */
  async next<Kind extends Answer["kind"]>(kind: Kind): Promise<Extract<Answer, { kind: Kind }>> {
    const waiting = Promise.withResolvers<Answer>();
    this.#waiting.push(waiting);
    const answer = await waiting.promise;
    if (answer.kind === kind) return answer as Extract<Answer, { kind: Kind }>;
    throw new Error(`a member answered ${answer.kind}, must answer ${kind}`);
  }

  close(): void {
    this.#worker.terminate();
  }
}
