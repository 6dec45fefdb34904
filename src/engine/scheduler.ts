/**
 * Decides what each step of the engine computes: plain data in, plain data out, without a backend, a
 * clock or I/O. A step carries the newest token of every sequence that is answering, and prompt tokens
 * under a budget; what pages in memory have already is not computed again.
 *
 * Slots and rows go to the best priority first, then to the client that has been served least. A sequence
 * starts with the pages of its prompt and gets more as its answer grows, since few answers become as long
 * as they may. Where no page can be had, the last sequence by priority and arrival gives way and waits
 * at the head of the queue; its pages are kept as long as they are not needed, and what is lost of them
 * is computed again, to the same bits. The first one always goes on, so everything ends.
 */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { admit } from "./admission.ts";
import { Clients, shareRows } from "./fairness.ts";
import { pagesFor } from "./pages.ts";
import { lacksPage, Placements } from "./placements.ts";
import { CHOSEN_THERE, type FilledUnit, type SequenceSpec, type Step } from "./schedule.ts";
import { reusable, type Sequence } from "./sequence.ts";
import { emit, planned, plannedBehind, type Work } from "./step_plan.ts";

export interface SchedulerOptions {
  /** Sequences that run side by side. */
  readonly slots: number;
  /** Prompt tokens per step at most. */
  readonly stepTokens: number;
  /** The same while any sequence answers, so that its tokens come evenly. */
  readonly mixedTokens: number;
  /** Rows of a step at most, whatever they are; at least `slots`. */
  readonly maxRows: number;
  /** Rows of a step that may want logits; at least `slots`. */
  readonly logitRows: number;
  /** Pages of the KV cache. */
  readonly pages: number;
}

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #placements: Placements;
  readonly #clients = new Clients();
  /** Waiting and running. */
  readonly #sequences = new Map<number, Sequence>();
  /** The steps under way, the oldest first: none, one, or bursts that follow each other. */
  #flights: (readonly Work[])[] = [];
  /** Those that could not start with the first of these bursts, and how many others ran. */
  #heldBack: { readonly waiting: ReadonlySet<Sequence>; readonly running: number } | null = null;
  #arrivals = 0;

  constructor(options: SchedulerOptions) {
    const { slots, stepTokens, mixedTokens } = options;
    checkAtLeast("the rows with logits", options.logitRows, slots);
    checkAtLeast("the rows of a step", options.maxRows, slots);
    checkAtLeast("the prompt tokens beside answers", mixedTokens, 1);
    checkAtLeast("the prompt tokens of a step", stepTokens, mixedTokens);
    this.#options = options;
    this.#placements = new Placements(options);
  }

  get running(): number {
    return this.#placements.running.size;
  }

  get waiting(): number {
    return this.#placements.waiting.size;
  }

  /** How often a sequence had to give way. */
  get preemptions(): number {
    return this.#placements.preemptions;
  }

  /** Pages in all, those of running sequences, and those kept for later ones. */
  pageCounts(): { total: number; used: number; kept: number } {
    const { size, free, kept } = this.#placements.tree;
    return { total: size, used: size - free - kept, kept };
  }

  /** Queues a sequence. Throws RangeError for one that does not fit the pages, or it could never end. */
  add(spec: SequenceSpec): void {
    const pages = pagesFor(spec.maxTokens);
    const { size } = this.#placements.tree;
    if (pages > size) {
      throw new RangeError(
        `cannot queue a sequence: its pages are ${pages}, must be at most ${size}`,
      );
    }
    const sequence: Sequence = {
      spec,
      client: this.#clients.join(spec.client),
      root: this.#placements.tree.enter(spec.root),
      arrival: this.#arrivals++,
      tokens: [...spec.prompt],
      delivered: 0,
      started: false,
      gaveWay: false,
      isBlocked: false,
      passed: 0,
      awaited: null,
      place: null,
    };
    this.#sequences.set(spec.id, sequence);
    this.#placements.enqueue(sequence);
  }

  /**
   * Guesses the tokens behind a sequence's newest one. Its next step has a row for each of them, all with
   * logits, or for fewer where rows or free pages are short.
   */
  draft(id: number, tokens: readonly number[]): void {
    const place = this.#sequences.get(id)?.place;
    if (place) place.drafts = tokens;
  }

  /**
   * The next step, or null where there is nothing to compute and nothing to restore. Where all of its
   * rows are answers' of whom tokens alone are wanted, it is a burst of up to `burstRows` rows each, if
   * any. Rows of steps before it that were not settled do not count.
   */
  next({ burstRows = 0 }: { burstRows?: number } = {}): Step | null {
    this.#placements.growAnswers();
    const restores = admit(this.#placements);
    const { works, areAnswers } = this.#plan();
    this.#flights = [];
    if (works.length === 0 && restores.length === 0) return null;
    const burst = burstRows > 0 && works.length > 0 && areAnswers &&
      works.every(({ sequence }) => sequence.spec.tokensOnly);
    if (burst) {
      for (const work of works) this.#lengthen(work, burstRows);
      const { waiting, running } = this.#placements;
      this.#heldBack = { waiting: new Set(waiting), running: running.size };
    }
    this.#flights.push(works);
    return { ...emit(works), restores, burst };
  }

  /**
   * A burst right behind the one that was given last, before that is settled: up to `rows` more of each
   * answer in it that has not ended and does not end there. Null where none goes on, pages are short, or
   * somebody else has something to compute or may start; then settle, and ask for the next step. What the
   * burst before still writes into pages that its sequences have left is written before anything else is.
   */
  follow(rows: number): Step | null {
    const last = this.#flights.at(-1) ?? [];
    const { running } = this.#placements;
    const known = new Set(last.map(({ place }) => place));
    if (this.#mayStart() || [...running].some((place) => !known.has(place))) return null;
    const works = last.filter(({ place }) => running.has(place)).map(plannedBehind).filter((
      { first, sequence },
    ) => first < sequence.spec.maxTokens - 1);
    if (works.length === 0 || !works.every((work) => this.#lengthen(work, rows))) return null;
    this.#flights.push(works);
    return { ...emit(works), restores: [], burst: true };
  }

  /**
   * The oldest step under way has run well. Returns what it made whole and the ends of prompts; the pages
   * hold it until the next call of `next` or `follow`.
   */
  settle(): FilledUnit[] {
    const units: FilledUnit[] = [];
    for (const { place, first, count, guesses } of this.#flights.shift() ?? []) {
      const { sequence } = place;
      // Ended while the step ran.
      if (sequence.place !== place) continue;
      place.computed = first + count;
      place.guessed = guesses;
      sequence.delivered = Math.max(sequence.delivered, place.computed);
      place.advance();
      const { restorable, prompt } = sequence.spec;
      if (!restorable) continue;
      for (let unit = place.takeUnit(); unit !== null; unit = place.takeUnit()) units.push(unit);
      const tail = place.computed === prompt.length ? place.takeTail() : null;
      if (tail !== null) units.push(tail);
    }
    return units;
  }

  /**
   * Tells which token was chosen behind a sequence's last row, once that is settled. True where a guess
   * for it has been computed, so that the logits of that row count next; false drops all guesses.
   */
  append(id: number, token: number): boolean {
    const sequence = this.#sequences.get(id);
    if (sequence === undefined) return false;
    sequence.tokens.push(token);
    const { place } = sequence;
    if (place === null) return false;
    place.drafts = [];
    const [guess, ...others] = place.guessed;
    const isRight = guess === token || guess === CHOSEN_THERE;
    place.guessed = isRight ? others : [];
    if (!isRight) return false;
    place.computed++;
    sequence.delivered = place.computed;
    return true;
  }

  /**
   * A restore has ended, and the first `tokens` of what it was asked for are in its pages. Must come also
   * for a sequence that has ended meanwhile: its pages are not used before.
   */
  restored(id: number, tokens: number): void {
    this.#placements.freeOrphans(id);
    const place = this.#sequences.get(id)?.place;
    if (!place?.isRestoring) return;
    place.isRestoring = false;
    const used = Math.min(tokens, reusable(place.sequence) - place.computed);
    place.store = used;
    place.computed += used;
    place.advance(true);
  }

  /**
   * Ends a sequence, waiting or running, or one whose step has failed. Returns the first unit of it that
   * `settle` has not told, mostly the end of its answer, where the sequence is restorable; the page holds
   * it until the next call of `next`.
   */
  remove(id: number): FilledUnit | null {
    const sequence = this.#sequences.get(id);
    if (sequence === undefined) return null;
    this.#sequences.delete(id);
    this.#clients.leave(sequence.client);
    const { place } = sequence;
    place?.advance();
    const unit = sequence.spec.restorable ? place?.takeUnit() ?? place?.takeTail() : null;
    this.#placements.remove(sequence);
    return unit ?? null;
  }

  /** Whether one of those that wait could start: it has come since the first burst, or another one has left. */
  #mayStart(): boolean {
    const { waiting, running } = this.#placements;
    if (waiting.size === 0) return false;
    if (this.#heldBack === null || running.size < this.#heldBack.running) return true;
    for (const sequence of waiting) if (!this.#heldBack.waiting.has(sequence)) return true;
    return false;
  }

  /** What has rows in this step, answers before prompts, and whether there are no prompts. */
  #plan(): { works: Work[]; areAnswers: boolean } {
    const { stepTokens, mixedTokens, maxRows } = this.#options;
    const answers: Work[] = [];
    const prompts: Work[] = [];
    for (const place of this.#placements.running) {
      const { sequence, computed } = place;
      const { tokens, spec } = sequence;
      if (place.isRestoring || computed === tokens.length || lacksPage(place)) continue;
      const work = planned(place);
      const isAnswer = work.remaining === 1 && work.first >= spec.prompt.length;
      if (isAnswer) work.count = 1;
      (isAnswer ? answers : prompts).push(work);
    }
    const budget = answers.length > 0 ? mixedTokens : stepTokens;
    const rows = Math.min(budget, maxRows - answers.length);
    // One row of logits is kept for each running sequence; prompts that want more share the others.
    let logitRows = this.#options.logitRows - this.#placements.running.size;
    if (prompts.length > 0) logitRows = shareRows(prompts, { rows, logitRows });
    const working = prompts.filter(({ count }) => count > 0);
    const used = working.reduce((sum, { count }) => sum + count, answers.length);
    this.#addGuesses(answers, Math.min(logitRows, maxRows - used));
    return { works: answers.concat(working), areAnswers: prompts.length === 0 };
  }

  /** Gives an answer's work up to so many rows in a burst, as far as pages go; false where it has none. */
  #lengthen(work: Work, rows: number): boolean {
    const { place, first, sequence: { spec } } = work;
    // The last token of an answer is never computed.
    let count = Math.min(rows, spec.maxTokens - 1 - first);
    while (pagesFor(first + count) > place.pages.length && place.addPage());
    count = Math.min(count, place.pages.length * PAGE_TOKENS - first);
    work.guesses = new Array(Math.max(0, count - 1)).fill(CHOSEN_THERE);
    return count > 0;
  }

  #addGuesses(answers: readonly Work[], rows: number): void {
    let left = rows;
    for (const work of answers) {
      const { place, sequence: { spec, tokens } } = work;
      if (place.drafts.length === 0) continue;
      const most = Math.min(left, spec.maxTokens - tokens.length);
      const guesses = place.drafts.slice(0, Math.max(0, most));
      while (guesses.length > 0 && pagesFor(tokens.length + guesses.length) > place.pages.length) {
        if (this.#placements.tree.free === 0 || !place.addPage()) guesses.pop();
      }
      work.guesses = guesses;
      left -= guesses.length;
      place.drafts = [];
    }
  }
}

function checkAtLeast(name: string, value: number, least: number): void {
  if (value >= least) return;
  throw new RangeError(`cannot schedule: ${name} are ${value}, must be at least ${least}`);
}
