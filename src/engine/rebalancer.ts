/**
 * Keeps the experts that lie on a hybrid's GPU those that are chosen now: watches what gates choose, and
 * after every so many tokens asks for the few moves that are worth it. Steps go on meanwhile; each expert
 * is used where it was until it has arrived.
 */

import type { ExpertPlace, HybridBackend } from "../backend/hybrid/mod.ts";
import { rebalance, RecentChoices } from "../experts/rebalance.ts";
import type { StepRouting } from "./routing.ts";
import type { RoutedLayerInfo } from "./types.ts";

export interface RebalancerOptions {
  readonly backend: Pick<HybridBackend, "place" | "placement">;
  readonly layers: readonly RoutedLayerInfo[];
  /** Tokens between two looks; ROUND_TOKENS where nothing is said. */
  readonly roundTokens?: number;
  /** Moves of one look; ROUND_MOVES where nothing is said. */
  readonly roundMoves?: number;
}

/** Often enough for a subject that changes, seldom beside what a move costs. */
const ROUND_TOKENS = 2048;

/** One after the other, an upload of some megabytes each. */
const ROUND_MOVES = 8;

export class Rebalancer {
  readonly #options: RebalancerOptions;
  readonly #recent: RecentChoices;
  #tokens = 0;
  #version = 0;
  #moving: Promise<void> | null = null;
  /** Moves that have failed: their places are empty until they are tried again. */
  #failed: readonly ExpertPlace[] = [];

  constructor(options: RebalancerOptions) {
    this.#options = options;
    this.#recent = new RecentChoices(options.layers);
  }

  /** Another number whenever experts have begun or ended to move: results have other last bits then. */
  get version(): number {
    return this.#version;
  }

  /** Takes note of a step's choices, and starts moves where it is time and they are worth it. */
  add({ experts }: StepRouting, rows: number): void {
    this.#recent.add(experts, rows);
    this.#tokens += rows;
    const { roundTokens = ROUND_TOKENS } = this.#options;
    if (this.#tokens < roundTokens || this.#moving !== null) return;
    this.#tokens = 0;
    const moves = this.#nextMoves();
    if (moves.length === 0) return;
    this.#version++;
    this.#moving = this.#move(moves).then((failed) => {
      this.#failed = failed;
      this.#version++;
      this.#moving = null;
    });
  }

  /** Resolves when nothing moves. */
  async settled(): Promise<void> {
    await this.#moving;
  }

  /** Those that have failed, and others that are worth it now. */
  #nextMoves(): readonly ExpertPlace[] {
    const { backend, layers, roundMoves = ROUND_MOVES } = this.#options;
    const moves = rebalance(backend.placement(), {
      counts: this.#recent.counts(),
      topK: layers[0].topK,
      most: roundMoves,
    }).map(({ layer, slot, in: expert }): ExpertPlace => ({ layer, slot, expert }));
    const isNew = ({ layer, slot, expert }: ExpertPlace) =>
      !this.#failed.some((failed) =>
        failed.layer === layer && (failed.slot === slot || failed.expert === expert)
      );
    return [...this.#failed, ...moves.filter(isNew)];
  }

  /** Those that fail are returned: a file that can't be read now may be later, and a lost backend says so itself. */
  async #move(moves: readonly ExpertPlace[]): Promise<ExpertPlace[]> {
    const failed: ExpertPlace[] = [];
    for (const move of moves) {
      try {
        await this.#options.backend.place(move);
      } catch {
        failed.push(move);
      }
    }
    return failed;
  }
}
