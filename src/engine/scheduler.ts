/**
 * Decides what each step of the engine computes: plain data in, plain data out, without a backend, a
 * clock or I/O. First come, first served: sequences wait for a slot and for pages in the order in which
 * they came, and prompts are evaluated in that order too. A step carries one token of every sequence
 * that is answering, and a chunk of prompt tokens besides.
 *
 * A sequence starts with the pages of its prompt and gets more as its answer grows, since few answers
 * become as long as they may. Where no page is free, the youngest sequence gives up its slot and pages
 * and waits at the head of the queue; what it had computed is computed again later, to the same bits.
 * The oldest one always goes on, so everything ends.
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
  /** Tokens it may come to: the prompt and the longest answer. */
  readonly maxTokens: number;
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

/** A slot's pages, in the order of positions; they hold until the slot is listed again. */
export interface SlotPages {
  /** The sequence's id. */
  readonly sequence: number;
  readonly slot: number;
  readonly pages: Int32Array;
}

export interface Step {
  /** Rows of a sequence are neighbours, in ascending position. */
  readonly rows: readonly StepRow[];
  /** Slots whose pages have changed: started sequences and answers that need another page. */
  readonly slotPages: readonly SlotPages[];
}

/**
 * Pages beyond the prompt's that must be free for each sequence that runs before another one starts
 * (256 tokens): without them it would soon give way again, and computing it twice costs more than waiting.
 */
const SPARE_PAGES = 4;

/** A sequence, waiting or running. */
interface Sequence {
  readonly spec: SequenceSpec;
  /** Prompt and answer so far. */
  readonly tokens: number[];
  /** Tokens whose keys and values are in the pages, or will be once this step has run. */
  computed: number;
  /** Tokens whose logits have been asked for, if anybody wanted them. */
  delivered: number;
}

interface RunningSequence extends Sequence {
  readonly slot: number;
  readonly pages: number[];
}

export class Scheduler {
  readonly #options: SchedulerOptions;
  #waiting: Sequence[] = [];
  /** In the order of admission, which is that of arrival. */
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
    return this.#waiting.length;
  }

  /** Queues a sequence. At its longest it must fit the pool, or it could never end. */
  add(spec: SequenceSpec): void {
    const pages = pagesFor(spec.maxTokens);
    if (pages > this.#options.pages.size) {
      throw new RangeError(
        `cannot queue a sequence: its pages are ${pages}, must be at most ` +
          `${this.#options.pages.size}`,
      );
    }
    this.#waiting.push({ spec, tokens: [...spec.prompt], computed: 0, delivered: 0 });
  }

  /** Tells which token was chosen after a sequence's last row; the next step computes it. */
  append(id: number, token: number): void {
    this.#running.get(id)?.tokens.push(token);
  }

  /** Ends a sequence, waiting or running: its slot and pages are free for the next step. */
  remove(id: number): void {
    this.#waiting = this.#waiting.filter(({ spec }) => spec.id !== id);
    const sequence = this.#running.get(id);
    if (sequence !== undefined) this.#release(sequence);
  }

  /** The next step, or null where no sequence has a token to compute. */
  next(): Step | null {
    // Answers first: while they may take slots away, nothing has been promised to anyone yet.
    const changed = new Set([...this.#growAnswers(), ...this.#admit()]);
    const rows: StepRow[] = [];
    this.#addAnswers(rows);
    this.#addPrompts(rows);
    if (rows.length === 0) return null;
    const slotPages = [...changed].map(({ spec, slot, pages }) => ({
      sequence: spec.id,
      slot,
      pages: Int32Array.from(pages),
    }));
    return { rows, slotPages };
  }

  /** A page more for each sequence whose next token needs one; returns those that got it. */
  #growAnswers(): RunningSequence[] {
    const grown: RunningSequence[] = [];
    for (const [id, sequence] of this.#running) {
      while (this.#running.has(id) && pagesFor(sequence.tokens.length) > sequence.pages.length) {
        const page = this.#options.pages.take(1);
        if (page !== null) {
          sequence.pages.push(...page);
          grown.push(sequence);
        } else {
          this.#preemptYoungest();
        }
      }
    }
    return grown.filter(({ spec }) => this.#running.has(spec.id));
  }

  #preemptYoungest(): void {
    const youngest = [...this.#running.values()][this.#running.size - 1];
    this.#release(youngest);
    const { spec, tokens, delivered } = youngest;
    this.#waiting.unshift({ spec, tokens, computed: 0, delivered });
  }

  #release(sequence: RunningSequence): void {
    this.#running.delete(sequence.spec.id);
    this.#freeSlots.push(sequence.slot);
    this.#options.pages.giveBack(sequence.pages);
  }

  #admit(): RunningSequence[] {
    const admitted: RunningSequence[] = [];
    while (this.#waiting.length > 0 && this.#freeSlots.length > 0) {
      const [next] = this.#waiting;
      const needed = pagesFor(next.tokens.length);
      if (this.#options.pages.free < needed + this.#sparePages(next, needed)) break;
      this.#waiting.shift();
      const pages = [...this.#options.pages.take(needed)!];
      const sequence = { ...next, slot: this.#freeSlots.pop()!, pages };
      this.#running.set(next.spec.id, sequence);
      admitted.push(sequence);
    }
    return admitted;
  }

  /** Pages to keep for the answers that run and for `next`; none where it would run alone. */
  #sparePages(next: Sequence, needed: number): number {
    if (this.#running.size === 0) return 0;
    const spare = (spec: SequenceSpec, pages: number) =>
      Math.min(SPARE_PAGES, pagesFor(spec.maxTokens) - pages);
    let sum = spare(next.spec, needed);
    for (const { spec, pages } of this.#running.values()) sum += spare(spec, pages.length);
    return sum;
  }

  /** One row for each sequence that lacks nothing but its newest token. */
  #addAnswers(rows: StepRow[]): void {
    for (const sequence of this.#running.values()) {
      const { spec, tokens, computed } = sequence;
      if (computed < spec.prompt.length || computed !== tokens.length - 1) continue;
      this.#addRow(rows, sequence);
    }
  }

  /** Tokens of prompts, and of answers to compute again, the oldest sequence's first. */
  #addPrompts(rows: StepRow[]): void {
    let tokensLeft = this.#options.chunkTokens;
    // One row of logits is kept for each running sequence; prompts that want more share the others.
    let spareLogitRows = this.#options.logitRows - this.#running.size;
    for (const sequence of this.#running.values()) {
      const left = sequence.tokens.length - sequence.computed;
      if (left === 0) continue;
      let count = Math.min(tokensLeft, left);
      if (sequence.spec.promptLogits) {
        count = Math.min(count, spareLogitRows + 1);
        spareLogitRows -= count - 1;
      }
      tokensLeft -= count;
      for (let i = 0; i < count; i++) this.#addRow(rows, sequence);
      if (tokensLeft === 0) return;
    }
  }

  #addRow(rows: StepRow[], sequence: RunningSequence): void {
    const { spec, slot, tokens } = sequence;
    const position = sequence.computed++;
    const isNew = position >= sequence.delivered;
    sequence.delivered = Math.max(sequence.delivered, sequence.computed);
    const isLast = position === tokens.length - 1;
    rows.push({
      sequence: spec.id,
      slot,
      position,
      token: tokens[position],
      wantsLogits: isNew && (isLast ? spec.answers : spec.promptLogits),
    });
  }
}
