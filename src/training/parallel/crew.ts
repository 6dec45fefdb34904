/**
 * Members on threads of their own, told by messages what to do. Each has its own memory and its own part of
 * the model; they talk to each other through ports.
 */

import { BackendLostError } from "../../errors.ts";
import { type Slot, TOTALS } from "../../backend/training.ts";
import type { TrainingSequence } from "../batch.ts";
import { shareOf } from "../trainer.ts";
import { connect } from "./communicator.ts";
import { checkGrid, placeOf } from "./grid.ts";
import type { TimelineEvent } from "./timeline.ts";
import type { Answer, CrewOptions, Order } from "./wire.ts";

/** What a step has added up over all members. */
export interface CrewTotals {
  readonly loss: number;
  readonly balance: number;
  readonly tokens: number;
}

export class Crew {
  readonly #options: CrewOptions;
  readonly #threads: readonly Thread[];

  private constructor(options: CrewOptions, threads: readonly Thread[]) {
    this.#options = options;
    this.#threads = threads;
  }

  /** Starts a thread for each member; throws OptionError for a grid that is none. */
  static async start(options: CrewOptions): Promise<Crew> {
    const { grid } = options;
    checkGrid(grid);
    const ranks = grid.replicas * grid.stages;
    const ports = connect(ranks);
    const threads = Array.from({ length: ranks }, () => new Thread());
    const crew = new Crew(options, threads);
    try {
      await Promise.all(threads.map((thread) => thread.next("up")));
      await Promise.all(threads.map((thread, rank) => {
        const order = { kind: "start", ...options, rank, ports: ports[rank] } as const;
        return thread.ask(order, "started", ports[rank].filter((port) => port !== null));
      }));
    } catch (error) {
      crew.close();
      throw error;
    }
    return crew;
  }

  /** One step over the micro-batches of all replicas, shared out evenly. */
  async step(
    microBatches: readonly (readonly TrainingSequence[])[],
    { rate, biasRate = 0 }: { rate: number; biasRate?: number },
  ): Promise<CrewTotals> {
    const { grid, microBatches: each } = this.#options;
    const whole = shareOf(microBatches.flat());
    const answers = await Promise.all(this.#threads.map((thread, rank) => {
      const { replica } = placeOf(grid, rank);
      const own = microBatches.slice(replica * each, (replica + 1) * each);
      return thread.ask({ kind: "step", microBatches: own, whole, rate, biasRate }, "stepped");
    }));
    // Replicas have the same sums; stages have each its own part.
    const stages = answers.slice(0, grid.stages).map(({ totals }) => totals);
    const sum = (place: number) => stages.reduce((all, totals) => all + totals[place], 0);
    return { loss: sum(TOTALS.loss), balance: sum(TOTALS.balance), tokens: sum(TOTALS.tokens) };
  }

  /** A slot of all parameters, by the name of each one's first tensor. */
  async read(slot: Slot): Promise<Map<string, Float32Array>> {
    const { stages } = this.#options.grid;
    const first = this.#threads.slice(0, stages);
    const answers = await Promise.all(
      first.map((thread) => thread.ask({ kind: "read", slot }, "read")),
    );
    const all = answers.flatMap(({ parameters }) => parameters);
    return new Map(all.map(({ name, values }) => [name, values]));
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

/** A member's thread, which answers each order once and in order. */
class Thread {
  readonly #worker = new Worker(new URL("./crew_thread.ts", import.meta.url), { type: "module" });
  readonly #waiting: PromiseWithResolvers<Answer>[] = [];

  constructor() {
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      const waiting = this.#waiting.shift();
      if (data.kind !== "failed") waiting?.resolve(data);
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
