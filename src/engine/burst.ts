/**
 * Bursts: several greedy tokens of each answer computed one after the other on a backend that chooses
 * them by itself (`Backend.chooses`), and read together. What lies behind a stop token, an abort or a
 * deadline is computed for nothing and never shown; nobody waits longer for it than for one burst.
 */

import type { LiveRequest } from "./live_request.ts";
import { CHOSEN_THERE, type StepRow } from "./schedule.ts";

/** Tokens of an answer in one burst at most. */
export const BURST_TOKENS = 32;

/** Tokens of the first burst, when nothing has been measured. */
const FIRST_TOKENS = 8;

/** What a burst should take: long beside a wait for the GPU, short for whoever comes meanwhile. */
const BURST_MS = 80;

/** Weight of the newest measurement. */
const NEWEST = 0.3;

/** Decides how many tokens a burst has, by what those before it have taken. */
export class Bursts {
  readonly #draft: (sequence: number, tokens: readonly number[]) => void;
  /** Of one token of each answer. */
  #milliseconds: number | undefined;

  /** `draft` puts rows behind a sequence's newest token into its next step, as far as pages are free. */
  constructor(draft: (sequence: number, tokens: readonly number[]) => void) {
    this.#draft = draft;
  }

  /**
   * Gives every answer a draft that the backend fills in, if all of them only want the most likely tokens
   * and nobody waits for anything else.
   */
  plan(requests: Iterable<LiveRequest>): void {
    const answering = [...requests];
    if (!answering.every((live) => live.generated > 0 && live.wantsTokensOnly)) return;
    const fitting = this.#milliseconds === undefined
      ? FIRST_TOKENS
      : Math.round(BURST_MS / this.#milliseconds);
    for (const live of answering) {
      const behind = Math.min(fitting, BURST_TOKENS, live.tokensLeft) - 1;
      if (behind > 0) this.#draft(live.id, Array(behind).fill(CHOSEN_THERE));
    }
  }

  /** A burst of some rows has taken so long. */
  measured(rows: readonly StepRow[], milliseconds: number): void {
    const each = milliseconds / turnsOf(rows).length;
    const known = this.#milliseconds ?? each;
    this.#milliseconds = known + NEWEST * (each - known);
  }
}

/** Whether the step is a burst. */
export function isBurst(rows: readonly StepRow[]): boolean {
  return rows.some(({ token }) => token === CHOSEN_THERE);
}

/**
 * The steps that a burst consists of, as indices of its rows: the n-th one computes the n-th row of each
 * sequence. Sequences with most rows come first, so that those that go on keep their places.
 */
export function turnsOf(rows: readonly StepRow[]): number[][] {
  const sequences: number[][] = [];
  for (const [i, { sequence }] of rows.entries()) {
    if (i > 0 && rows[i - 1].sequence === sequence) sequences.at(-1)!.push(i);
    else sequences.push([i]);
  }
  sequences.sort((a, b) => b.length - a.length);
  const longest = sequences[0]?.length ?? 0;
  return Array.from(
    { length: longest },
    (_, turn) => sequences.filter(({ length }) => length > turn).map((own) => own[turn]),
  );
}
