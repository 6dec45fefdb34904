/** Guessing for all sequences of an engine: gives them drafts before a step, and counts what came of it. */

import type { LiveRequest } from "./live_request.ts";
import { StepCosts } from "./speculation.ts";
import type { SpeculationCounts } from "./types.ts";

export interface GuesserOptions {
  /** Puts a sequence's guesses into its next step, as far as they fit. */
  readonly draft: (sequence: number, tokens: readonly number[]) => void;
  /** How many tokens to guess; what steps have cost decides where absent. */
  readonly draftLength?: StepCosts["bestDraft"];
}

export class Guesser {
  readonly #options: GuesserOptions;
  readonly #costs = new StepCosts();
  #counts: SpeculationCounts = { drafted: 0, accepted: 0 };

  constructor(options: GuesserOptions) {
    this.#options = options;
  }

  get counts(): SpeculationCounts {
    return this.#counts;
  }

  /** Gives drafts to sequences that are being answered, where that pays. */
  guess(requests: Iterable<LiveRequest>): void {
    const answering = [...requests];
    // Beside prompts a row costs something else than was measured.
    if (answering.some(({ generated }) => generated === 0)) return;
    let rows = answering.length;
    for (const live of answering) {
      const state = { rate: live.acceptance.rate, rows };
      const most = this.#options.draftLength?.(state) ?? this.#costs.bestDraft(state);
      const guesses = live.guess(Math.min(most, live.tokensLeft - 1));
      if (guesses.length === 0) continue;
      this.#options.draft(live.id, guesses);
      rows += guesses.length;
    }
  }

  /** A step of answers alone, with or without guesses, took so long. */
  measured(step: { rows: number; milliseconds: number }): void {
    this.#costs.add(step);
  }

  /** Of a sequence's guesses in a step the first `accepted` were right. */
  count(live: LiveRequest, counts: SpeculationCounts): void {
    live.countDraft(counts);
    this.#counts = {
      drafted: this.#counts.drafted + counts.drafted,
      accepted: this.#counts.accepted + counts.accepted,
    };
  }
}
