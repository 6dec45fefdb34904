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
import { Clients, type PromptWork, shareRows } from "./fairness.ts";
import { type Match, PageTree } from "./page_tree.ts";
import { pagesFor } from "./pages.ts";
import { Placement } from "./placement.ts";
import type {
  FilledUnit,
  PageCopy,
  Restore,
  SequenceSpec,
  SlotPages,
  Started,
  Step,
  StepRow,
} from "./schedule.ts";
import { awaits, goesBefore, reusable, type Sequence } from "./sequence.ts";

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

/**
 * Pages beyond the prompt's that must be available for each sequence that runs before another one starts
 * (256 tokens): without them it would soon give way again, and computing it twice costs more than waiting.
 */
const SPARE_PAGES = 4;

/** How often a sequence that needs too many pages may be passed by others. */
const MAX_PASSES = 16;

/** How many sequences that need too many pages are passed at once: looking at all of them takes time. */
const MAX_BLOCKED = 8;

/** Tokens that memory must lack before the store is asked: fewer are computed as soon as read. */
const MIN_RESTORED = 32;

/** What a running sequence has to compute. */
interface Work extends PromptWork {
  readonly place: Placement;
  /** Position of its first row. */
  readonly first: number;
  /** What makes the tokens before that row complete. */
  readonly copy: PageCopy | null;
  guesses: readonly number[];
}

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #tree: PageTree;
  readonly #clients = new Clients();
  /** Waiting and running. */
  readonly #sequences = new Map<number, Sequence>();
  readonly #waiting = new Set<Sequence>();
  /** In the order of admission. */
  readonly #running = new Set<Placement>();
  readonly #freeSlots: number[];
  /** Pages of sequences that ended while they were being restored. */
  readonly #orphans = new Map<number, readonly number[]>();
  /** The step that runs. */
  #flight: readonly Work[] = [];
  #arrivals = 0;
  #preemptions = 0;

  constructor(options: SchedulerOptions) {
    const { slots, stepTokens, mixedTokens } = options;
    checkAtLeast("the rows with logits", options.logitRows, slots);
    checkAtLeast("the rows of a step", options.maxRows, slots);
    checkAtLeast("the prompt tokens beside answers", mixedTokens, 1);
    checkAtLeast("the prompt tokens of a step", stepTokens, mixedTokens);
    this.#options = options;
    this.#tree = new PageTree(options.pages);
    this.#freeSlots = Array.from({ length: slots }, (_, i) => slots - 1 - i);
  }

  get running(): number {
    return this.#running.size;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** How often a sequence had to give way. */
  get preemptions(): number {
    return this.#preemptions;
  }

  /** Pages in all, those of running sequences, and those kept for later ones. */
  pageCounts(): { total: number; used: number; kept: number } {
    const { size, free, kept } = this.#tree;
    return { total: size, used: size - free - kept, kept };
  }

  /** Queues a sequence. Throws RangeError for one that does not fit the pages, or it could never end. */
  add(spec: SequenceSpec): void {
    const pages = pagesFor(spec.maxTokens);
    if (pages > this.#tree.size) {
      throw new RangeError(
        `cannot queue a sequence: its pages are ${pages}, must be at most ${this.#tree.size}`,
      );
    }
    const sequence: Sequence = {
      spec,
      client: this.#clients.join(spec.client),
      arrival: this.#arrivals++,
      tokens: [...spec.prompt],
      delivered: 0,
      started: false,
      gaveWay: false,
      passed: 0,
      awaited: null,
      place: null,
    };
    this.#sequences.set(spec.id, sequence);
    this.#waiting.add(sequence);
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
   * The next step, or null where there is nothing to compute and nothing to restore. Rows of a step before
   * it that was not settled do not count.
   */
  next(): Step | null {
    this.#flight = [];
    this.#growAnswers();
    const restores = this.#admit();
    const works = this.#plan();
    if (works.length === 0 && restores.length === 0) return null;
    this.#flight = works;
    return { ...emit(works), restores };
  }

  /**
   * The step that `next` gave has run well. Returns what it made whole and the ends of prompts; the pages
   * hold it until the next call of `next`.
   */
  settle(): FilledUnit[] {
    const units: FilledUnit[] = [];
    for (const { place, first, count, guesses } of this.#flight) {
      const { sequence } = place;
      // Ended while the step ran.
      if (sequence.place !== place) continue;
      place.computed = first + count;
      place.guessed = guesses;
      sequence.delivered = Math.max(sequence.delivered, place.computed);
      place.advance();
      const { restorable, prompt } = sequence.spec;
      if (!restorable) continue;
      units.push(...place.takeUnits());
      const tail = place.computed === prompt.length ? place.takeTail() : null;
      if (tail !== null) units.push(tail);
    }
    this.#flight = [];
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
    place.guessed = guess === token ? others : [];
    if (guess !== token) return false;
    place.computed++;
    sequence.delivered = place.computed;
    return true;
  }

  /**
   * A restore has ended, and the first `tokens` of what it was asked for are in its pages. Must come also
   * for a sequence that has ended meanwhile: its pages are not used before.
   */
  restored(id: number, tokens: number): void {
    const pages = this.#orphans.get(id);
    if (pages !== undefined) {
      this.#orphans.delete(id);
      this.#tree.giveBack(pages);
    }
    const place = this.#sequences.get(id)?.place;
    if (!place?.isRestoring) return;
    place.isRestoring = false;
    place.store = tokens;
    place.computed += tokens;
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
    this.#waiting.delete(sequence);
    this.#clients.leave(sequence.client);
    const { place } = sequence;
    if (place === null) return null;
    place.advance();
    const unit = sequence.spec.restorable ? place.takeUnits()[0] ?? place.takeTail() : null;
    this.#release(place);
    return unit;
  }

  #release(place: Placement): void {
    const { sequence, slot } = place;
    const beingWritten = place.release();
    if (beingWritten.length > 0) this.#orphans.set(sequence.spec.id, beingWritten);
    this.#running.delete(place);
    this.#freeSlots.push(slot);
    sequence.place = null;
  }

  #giveWay(place: Placement): void {
    this.#release(place);
    place.sequence.gaveWay = true;
    this.#waiting.add(place.sequence);
    this.#preemptions++;
  }

  /** A page more for each sequence whose newest token needs one. */
  #growAnswers(): void {
    for (const place of this.#running) {
      while (this.#running.has(place) && lacksPage(place)) {
        if (place.addPage()) continue;
        const [last, ...others] = this.#victims();
        // Alone but for sequences that are being restored: it goes on when they are.
        if (others.length === 0) break;
        this.#giveWay(last);
      }
    }
  }

  /** Those that could give way, who has to first: the worst priority, then the youngest. */
  #victims(): Placement[] {
    return [...this.#running].filter(({ isRestoring }) => !isRestoring).sort(
      ({ sequence: a }, { sequence: b }) =>
        b.spec.priority - a.spec.priority || b.arrival - a.arrival,
    );
  }

  #admit(): Restore[] {
    const restores: Restore[] = [];
    if (this.#waiting.size === 0) return restores;
    if (this.#freeSlots.length === 0 && !this.#mayTakeSlot()) return restores;
    this.#countLoads();
    const candidates = new Set(this.#waiting);
    const blocked: Sequence[] = [];
    while (candidates.size > 0) {
      const next = first(candidates);
      candidates.delete(next);
      let match: Match | null = null;
      const find = () => match ??= this.#match(next);
      if (awaits(next, { running: this.#running, matched: () => find().tokens })) continue;
      if (this.#makeRoom(next, find())) {
        for (const sequence of blocked) sequence.passed++;
        // Others may have given way for it, and pages with it.
        const restore = this.#start(next, this.#match(next));
        if (restore !== null) restores.push(restore);
      } else {
        if (this.#freeSlots.length === 0 || next.gaveWay) break;
        if (next.passed >= MAX_PASSES || blocked.push(next) > MAX_BLOCKED) break;
      }
    }
    return restores;
  }

  #match(sequence: Sequence): Match {
    const { spec, tokens } = sequence;
    return this.#tree.match(spec.root, { tokens, end: reusable(sequence) });
  }

  /** Whether somebody who waits is before somebody who runs. */
  #mayTakeSlot(): boolean {
    let best = Infinity;
    for (const { spec } of this.#waiting) best = Math.min(best, spec.priority);
    for (const { sequence, isRestoring } of this.#running) {
      if (!isRestoring && best < sequence.spec.priority) return true;
    }
    return false;
  }

  #countLoads(): void {
    for (const { client } of this.#waiting) client.load = 0;
    for (const { sequence } of this.#running) sequence.client.load = 0;
    for (const { sequence, computed } of this.#running) {
      sequence.client.load += sequence.tokens.length - computed;
    }
  }

  /** Whether there is a slot and pages, after those of a worse priority have given way if need be. */
  #makeRoom(next: Sequence, match: Match): boolean {
    const needed = pagesFor(next.tokens.length) - match.nodes.length;
    const lacks = () => this.#freeSlots.length === 0 || !this.#hasPages(next, { needed, match });
    if (!lacks()) return true;
    const victims = this.#victims().filter(({ sequence }) =>
      sequence.spec.priority > next.spec.priority
    );
    if (victims.length === 0) return false;
    const gained = victims.reduce((sum, place) => sum + place.ownPages(match.nodes), 0);
    if (!this.#hasPages(next, { needed: needed - gained, match, without: victims })) return false;
    for (const victim of victims) {
      if (!lacks()) break;
      this.#giveWay(victim);
    }
    return !lacks();
  }

  /** Whether `needed` pages are available, and spare ones for all that run; those only where any do. */
  #hasPages(
    next: Sequence,
    { needed, match, without = [] }: {
      needed: number;
      match: Match;
      without?: readonly Placement[];
    },
  ): boolean {
    const available = this.#tree.available(match.nodes);
    if (available < needed) return false;
    let spare = 0;
    for (const place of this.#running) {
      if (!without.includes(place)) spare += sparePages(place.sequence, place.pages.length);
    }
    if (this.#running.size === without.length) return true;
    return available >= needed + spare + sparePages(next, pagesFor(next.tokens.length));
  }

  #start(sequence: Sequence, match: Match): Restore | null {
    const { spec, tokens, client } = sequence;
    this.#waiting.delete(sequence);
    const place = new Placement(sequence, {
      slot: this.#freeSlots.pop()!,
      tree: this.#tree,
      match,
      pages: pagesFor(tokens.length) - match.nodes.length,
    });
    this.#running.add(place);
    sequence.place = place;
    sequence.gaveWay = false;
    sequence.passed = 0;
    client.load += tokens.length - place.computed;
    client.shortestNext = !client.shortestNext;
    const end = reusable(sequence);
    if (!spec.restorable || end - match.tokens < MIN_RESTORED) return null;
    place.isRestoring = true;
    const wanted = tokens.slice(place.computed, end);
    const from = match.nodes.length;
    return {
      sequence: spec.id,
      parent: place.parentKey(),
      tokens: wanted,
      pages: Int32Array.from(place.pages.slice(from, from + pagesFor(wanted.length))),
    };
  }

  /** What has rows in this step, answers before prompts. */
  #plan(): Work[] {
    const { stepTokens, mixedTokens, maxRows } = this.#options;
    const answers: Work[] = [];
    const prompts: Work[] = [];
    for (const place of this.#running) {
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
    let logitRows = this.#options.logitRows - this.#running.size;
    if (prompts.length > 0) logitRows = shareRows(prompts, { rows, logitRows });
    const working = prompts.filter(({ count }) => count > 0);
    const used = working.reduce((sum, { count }) => sum + count, answers.length);
    this.#addGuesses(answers, Math.min(logitRows, maxRows - used));
    return answers.concat(working);
  }

  #addGuesses(answers: readonly Work[], rows: number): void {
    let left = rows;
    for (const work of answers) {
      const { place, sequence: { spec, tokens } } = work;
      if (place.drafts.length === 0) continue;
      const most = Math.min(left, spec.maxTokens - tokens.length);
      const guesses = place.drafts.slice(0, Math.max(0, most));
      while (guesses.length > 0 && pagesFor(tokens.length + guesses.length) > place.pages.length) {
        if (this.#tree.free === 0 || !place.addPage()) guesses.pop();
      }
      work.guesses = guesses;
      left -= guesses.length;
      place.drafts = [];
    }
  }
}

function planned(place: Placement): Work {
  const { sequence } = place;
  const copy = place.isFresh ? place.extend() : null;
  const before = place.computed - (copy === null ? 0 : place.computed % PAGE_TOKENS);
  const first = before + (copy?.tokens ?? 0);
  const remaining = sequence.tokens.length - first;
  return { sequence, place, copy, first, remaining, count: 0, guesses: [] };
}

/** Writes the step down, and that it was. */
function emit(works: readonly Work[]): Omit<Step, "restores"> {
  const rows: StepRow[] = [];
  const slotPages: SlotPages[] = [];
  const copies: PageCopy[] = [];
  const started: Started[] = [];
  for (const work of works) {
    const { place, sequence, copy, first } = work;
    const { id } = sequence.spec;
    if (copy !== null) {
      copies.push(copy);
      place.memory += first - place.computed;
    }
    place.isFresh = false;
    if (!sequence.started) {
      started.push({ sequence: id, memory: place.memory, store: place.store });
      sequence.started = true;
    }
    if (place.isChanged) {
      slotPages.push({ sequence: id, slot: place.slot, pages: Int32Array.from(place.pages) });
      place.isChanged = false;
    }
    addRows(rows, work);
  }
  return { rows, slotPages, copies, started };
}

function addRows(rows: StepRow[], { place, sequence, first, count, guesses }: Work): void {
  const { spec, tokens, client, delivered } = sequence;
  const { slot } = place;
  const end = first + count;
  for (let position = first; position < end; position++) {
    const isLast = position === tokens.length - 1;
    const wantsLogits = position >= delivered && (isLast ? spec.answers : spec.promptLogits);
    rows.push({ sequence: spec.id, slot, position, token: tokens[position], wantsLogits });
  }
  for (let i = 0; i < guesses.length; i++) {
    const token = guesses[i];
    rows.push({ sequence: spec.id, slot, position: end + i, token, wantsLogits: true });
  }
  // What is computed again because the sequence gave way is nobody's service.
  client.service += guesses.length + Math.max(0, end - Math.max(first, delivered));
}

function lacksPage({ isRestoring, sequence, pages }: Placement): boolean {
  return !isRestoring && pagesFor(sequence.tokens.length) > pages.length;
}

/** Pages to keep for the answer of a sequence that has so many. */
function sparePages({ spec }: Sequence, pages: number): number {
  return Math.max(0, Math.min(SPARE_PAGES, pagesFor(spec.maxTokens) - pages));
}

function first(candidates: ReadonlySet<Sequence>): Sequence {
  let [best] = candidates;
  for (const sequence of candidates) if (goesBefore(sequence, best)) best = sequence;
  return best;
}

function checkAtLeast(name: string, value: number, least: number): void {
  if (value >= least) return;
  throw new RangeError(`cannot schedule: ${name} are ${value}, must be at least ${least}`);
}
