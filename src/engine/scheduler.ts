/**
 * Decides what each step of the engine computes: plain data in, plain data out, without a backend, a
 * clock or I/O. First come, first served: sequences wait for a slot and for their pages in the order
 * in which they came, and prompts are evaluated in that order too. A step carries one token of every
 * sequence that is answering, and a chunk of prompt tokens besides.
 */

import { type PagePool, pagesFor } from "./pages.ts";

export interface SchedulerOptions {
  /** Sequences that run side by side. */
  readonly slots: number;
  /** Prompt tokens per step at most. */
  readonly chunkTokens: number;
  /** Rows of a step that may want logits; at least `slots`. */
  readonly logitRows: number;
  readonly pages: PagePool;
}

/** A sequence as the scheduler knows it. */
export interface SequenceSpec {
  readonly id: number;
  readonly prompt: readonly number[];
  /** Tokens to reserve pages for: the prompt and the longest answer. */
  readonly reservedTokens: number;
  /** An answer follows: the last row of the prompt wants logits. */
  readonly answers: boolean;
  /** Every other row of the prompt wants logits as well. */
  readonly promptLogits: boolean;
}

/** One token to compute. */
export interface StepRow {
  /** The sequence's id. */
  readonly sequence: number;
  readonly slot: number;
  readonly position: number;
  readonly token: number;
  readonly wantsLogits: boolean;
}

/** A sequence's pages, which hold from now on until its slot is admitted again. */
export interface SlotPages {
  /** The sequence's id. */
  readonly sequence: number;
  readonly slot: number;
  readonly pages: Int32Array;
}

export interface Step {
  /** Rows of a sequence are neighbours, in ascending position. */
  readonly rows: readonly StepRow[];
  /** Sequences that got a slot in this step. */
  readonly admitted: readonly SlotPages[];
}

interface RunningSequence {
  readonly spec: SequenceSpec;
  readonly slot: number;
  readonly pages: Int32Array;
  /** Tokens that steps have computed or are computing. */
  computed: number;
  /** The answer's newest token, once it is chosen and not yet computed. */
  pending: number | null;
}

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #waiting = new Map<number, SequenceSpec>();
  /** In the order of admission. */
  readonly #running = new Map<number, RunningSequence>();
  readonly #freeSlots: number[];

  constructor(options: SchedulerOptions) {
    if (options.logitRows < options.slots) {
      throw new RangeError(
        `cannot schedule: the rows with logits are ${options.logitRows}, ` +
          `must be at least ${options.slots} (the slots)`,
      );
    }
    this.#options = options;
    this.#freeSlots = Array.from({ length: options.slots }, (_, i) => options.slots - 1 - i);
  }

  get running(): number {
    return this.#running.size;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Queues a sequence. Its reservation must fit the pool, else nothing behind it would ever start. */
  add(spec: SequenceSpec): void {
    const pages = pagesFor(spec.reservedTokens);
    if (pages > this.#options.pages.size) {
      throw new RangeError(
        `cannot queue a sequence: its pages are ${pages}, must be at most ` +
          `${this.#options.pages.size}`,
      );
    }
    this.#waiting.set(spec.id, spec);
  }

  /** Tells which token was chosen after a sequence's last row; the next step computes it. */
  append(id: number, token: number): void {
    const sequence = this.#running.get(id);
    if (sequence !== undefined) sequence.pending = token;
  }

  /** Ends a sequence, waiting or running: its slot and pages are free for the next step. */
  remove(id: number): void {
    this.#waiting.delete(id);
    const sequence = this.#running.get(id);
    if (sequence === undefined) return;
    this.#running.delete(id);
    this.#freeSlots.push(sequence.slot);
    this.#options.pages.giveBack(sequence.pages);
  }

  /** The next step, or null where no sequence has a token to compute. */
  next(): Step | null {
    const admitted = this.#admit();
    const rows: StepRow[] = [];
    this.#addAnswers(rows);
    this.#addPrompts(rows);
    return rows.length === 0 ? null : { rows, admitted };
  }

  #admit(): SlotPages[] {
    const admitted: SlotPages[] = [];
    for (const [id, spec] of this.#waiting) {
      if (this.#freeSlots.length === 0) break;
      const pages = this.#options.pages.take(pagesFor(spec.reservedTokens));
      if (pages === null) break;
      const slot = this.#freeSlots.pop()!;
      this.#waiting.delete(id);
      this.#running.set(id, { spec, slot, pages, computed: 0, pending: null });
      admitted.push({ sequence: id, slot, pages });
    }
    return admitted;
  }

  /** One row for each sequence whose newest token is known. */
  #addAnswers(rows: StepRow[]): void {
    for (const [id, sequence] of this.#running) {
      if (sequence.pending === null) continue;
      rows.push({
        sequence: id,
        slot: sequence.slot,
        position: sequence.computed++,
        token: sequence.pending,
        wantsLogits: true,
      });
      sequence.pending = null;
    }
  }

  /** Prompt tokens, the oldest sequence's first, until the chunk is full. */
  #addPrompts(rows: StepRow[]): void {
    let tokensLeft = this.#options.chunkTokens;
    // One row of logits is kept for each running sequence; prompts that want more share the others.
    let spareLogitRows = this.#options.logitRows - this.#running.size;
    for (const [id, sequence] of this.#running) {
      const { prompt, answers, promptLogits } = sequence.spec;
      const left = prompt.length - sequence.computed;
      if (left <= 0) continue;
      let count = Math.min(tokensLeft, left);
      if (promptLogits) {
        count = Math.min(count, spareLogitRows + 1);
        spareLogitRows -= count - 1;
      }
      tokensLeft -= count;
      for (let i = 0; i < count; i++) {
        const position = sequence.computed++;
        const isLast = position === prompt.length - 1;
        rows.push({
          sequence: id,
          slot: sequence.slot,
          position,
          token: prompt[position],
          wantsLogits: isLast ? answers : promptLogits,
        });
      }
      if (tokensLeft === 0) return;
    }
  }
}
