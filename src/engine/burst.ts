/**
 * Bursts: several tokens of each answer computed one after the other on a backend that chooses them by
 * itself (`Backend.chooses`), and read together. Each burst is submitted before the one before it has been
 * read, so that the backend need not wait for the host. What lies behind a stop token, an abort or a
 * deadline is computed for nothing and never shown, and nobody waits longer for it than for two bursts.
 */

import type { LiveRequests } from "./live_requests.ts";
import type { Step, StepRow } from "./schedule.ts";
import type { Scheduler } from "./scheduler.ts";
import type { StepRunner } from "./step_runner.ts";

/** Tokens of an answer in one burst at most. */
export const BURST_TOKENS = 32;

/** Tokens of the first burst, when nothing has been measured. */
const FIRST_TOKENS = 8;

/** What a burst should take: long beside a wait for the GPU, short for whoever comes meanwhile. */
const BURST_MS = 40;

/** Weight of the newest measurement. */
const NEWEST = 0.3;

/** A burst that has been submitted. */
export interface Flight {
  readonly step: Step;
  /** What was chosen behind each of its rows, or what has failed. */
  readonly outcome: Promise<{ readonly chosen: Int32Array } | { readonly error: unknown }>;
}

export interface BurstsOptions {
  readonly runner: Pick<StepRunner, "choose">;
  readonly scheduler: Pick<Scheduler, "follow">;
  readonly live: Pick<LiveRequests, "get">;
}

/** Submits bursts, and decides how many tokens they have by what those before have taken. */
export class Bursts {
  readonly #options: BurstsOptions;
  /** Of one token of each answer. */
  #milliseconds: number | undefined;
  /** When a burst was submitted behind nothing else, or the last one was read. */
  #since = 0;

  constructor(options: BurstsOptions) {
    this.#options = options;
  }

  /** Rows that an answer may have in the next burst. */
  get rows(): number {
    if (this.#milliseconds === undefined) return FIRST_TOKENS;
    const fitting = Math.round(BURST_MS / this.#milliseconds);
    return Math.max(1, Math.min(fitting, BURST_TOKENS));
  }

  /** Submits a burst behind nothing else. */
  begin(step: Step): Flight {
    this.#since = performance.now();
    return this.#submit(step);
  }

  /** Submits another one right behind the last, if there is to be one. */
  follow(): Flight | null {
    const step = this.#options.scheduler.follow(this.rows);
    return step === null ? null : this.#submit(step);
  }

  /** A burst has been read, when it was the oldest one under way. */
  measured({ rows }: Step): void {
    const now = performance.now();
    const each = (now - this.#since) / turnsOf(rows).length;
    const known = this.#milliseconds ?? each;
    this.#milliseconds = known + NEWEST * (each - known);
    this.#since = now;
  }

  #submit(step: Step): Flight {
    const { runner, live } = this.#options;
    const chosen = runner.choose(step, (sequence) => live.get(sequence)!.choices);
    return { step, outcome: chosen.then((chosen) => ({ chosen }), (error) => ({ error })) };
  }
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
