/** Hands what a step has computed to the requests that it belongs to, and counts their tokens. */

import type { Guesser } from "./guesser.ts";
import type { LiveRequest, RowResult } from "./live_request.ts";
import type { LiveRequests } from "./live_requests.ts";
import type { StepRouting } from "./routing.ts";
import type { Step } from "./schedule.ts";
import type { Scheduler } from "./scheduler.ts";

export interface StepResultsOptions {
  readonly vocabSize: number;
  readonly live: LiveRequests;
  readonly scheduler: Scheduler;
  /** Null where nothing is guessed. */
  readonly guesser: Guesser | null;
}

export interface StepResult {
  /** [rows that want logits, vocabSize] */
  readonly logits: Float32Array;
  /** Of a burst, the token behind each row, and no logits; null of other steps. */
  readonly chosen: Int32Array | null;
  /** Null where nobody wants to know. */
  readonly routing: StepRouting | null;
}

/** What a step has that brings nothing. */
export const NO_RESULT: StepResult = { logits: new Float32Array(0), chosen: null, routing: null };

export class StepResults {
  readonly #options: StepResultsOptions;
  #promptTokens = 0;
  #completionTokens = 0;

  constructor(options: StepResultsOptions) {
    this.#options = options;
  }

  /** Tokens of prompts that have been evaluated, found ones included. */
  get promptTokens(): number {
    return this.#promptTokens;
  }

  get completionTokens(): number {
    return this.#completionTokens;
  }

  /** Hands out what a step brought; returns whether all of its rows were answers'. */
  take({ rows }: Step, { logits, chosen, routing }: StepResult): boolean {
    const { vocabSize, live: requests, guesser } = this.#options;
    let onlyAnswers = rows.length > 0;
    let start = 0;
    let index = 0;
    while (index < rows.length) {
      const { sequence } = rows[index];
      const live = requests.get(sequence);
      const answering = live !== undefined && live.generated > 0;
      if (!answering) onlyAnswers = false;
      // Rows behind a guess that was wrong, or of a request that was aborted, count for nothing.
      let certain = live !== undefined;
      let logitRows = 0;
      let accepted = 0;
      for (; rows[index]?.sequence === sequence; index++) {
        const row = rows[index];
        const rowLogits = row.wantsLogits ? logits.subarray(start, start + vocabSize) : null;
        if (row.wantsLogits) {
          start += vocabSize;
          logitRows++;
        } else onlyAnswers = false;
        if (!certain) continue;
        certain = this.#takeRow(live!, {
          row,
          index,
          logits: rowLogits,
          chosen: chosen?.[index],
          routing,
        });
        if (certain && answering) accepted++;
      }
      if (answering && chosen === null && logitRows > 1) {
        guesser?.count(live!, { drafted: logitRows - 1, accepted });
      }
    }
    return onlyAnswers;
  }

  /** Takes one row; returns whether the sequence's next row in the step counts too. */
  #takeRow(live: LiveRequest, result: RowResult): boolean {
    const { live: requests, scheduler } = this.#options;
    try {
      const { row } = result;
      const outcome = live.takeRow(result);
      if (row.position === live.request.tokens.length - 1 && outcome !== null) {
        this.#promptTokens += live.request.tokens.length;
      }
      if (outcome === null) return true;
      const { token, ends, stopToken } = outcome;
      if (token !== undefined) this.#completionTokens++;
      if (ends !== undefined) {
        requests.finish(live, ends, stopToken);
        return false;
      }
      return scheduler.append(live.id, token!);
    } catch (error) {
      requests.fail(live.id, error);
      return false;
    }
  }
}
