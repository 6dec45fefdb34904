/**
 * Who runs and who waits: hands out slots and pages, and takes them from those that have to give way.
 */

import { type Match, PageTree } from "./page_tree.ts";
import { pagesFor } from "./pages.ts";
import { Placement } from "./placement.ts";
import { reusable, type Sequence } from "./sequence.ts";

/**
 * Pages beyond the prompt's that must be available for each sequence that runs before another one starts
 * (256 tokens): without them it would soon give way again, and computing it twice costs more than waiting.
 */
const SPARE_PAGES = 4;

export class Placements {
  readonly tree: PageTree;
  readonly #waiting = new Set<Sequence>();
  /** In the order of admission. */
  readonly #running = new Set<Placement>();
  readonly #freeSlots: number[];
  /** Pages of sequences that ended while they were being restored. */
  readonly #orphans = new Map<number, readonly number[]>();
  #preemptions = 0;

  constructor({ slots, pages }: { slots: number; pages: number }) {
    this.tree = new PageTree(pages);
    this.#freeSlots = Array.from({ length: slots }, (_, i) => slots - 1 - i);
  }

  get waiting(): ReadonlySet<Sequence> {
    return this.#waiting;
  }

  get running(): ReadonlySet<Placement> {
    return this.#running;
  }

  get freeSlots(): number {
    return this.#freeSlots.length;
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  enqueue(sequence: Sequence): void {
    this.#waiting.add(sequence);
  }

  /** Forgets a sequence that waits or runs. */
  remove(sequence: Sequence): void {
    this.#waiting.delete(sequence);
    if (sequence.place !== null) this.#release(sequence.place);
    this.tree.leave(sequence.root, { lasting: sequence.spec.lasting ?? true });
  }

  /** Nobody writes any longer into pages that a sequence left behind. */
  freeOrphans(id: number): void {
    this.tree.giveBack(this.#orphans.get(id) ?? []);
    this.#orphans.delete(id);
  }

  /** What of the sequence's tokens is in memory. */
  match(sequence: Sequence): Match {
    const { root, tokens } = sequence;
    return this.tree.match(root, { tokens, end: reusable(sequence) });
  }

  /** Gives a slot and pages, for which `makeRoom` has found that there are enough. */
  place(sequence: Sequence): Placement {
    const match = this.match(sequence);
    const pages = pagesFor(sequence.tokens.length) - match.nodes.length;
    const slot = this.#freeSlots.pop()!;
    const place = new Placement(sequence, { slot, tree: this.tree, match, pages });
    this.#waiting.delete(sequence);
    this.#running.add(place);
    sequence.place = place;
    sequence.gaveWay = false;
    sequence.isBlocked = false;
    sequence.passed = 0;
    return place;
  }

  /** A page more for each sequence whose newest token needs one. */
  growAnswers(): void {
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

  /** Whether there is a slot and pages, after those of a worse priority have given way if need be. */
  makeRoom(next: Sequence, match: Match): boolean {
    const needed = pagesFor(next.tokens.length) - match.nodes.length + this.#sparePages(next);
    const lacks = () => this.#freeSlots.length === 0 || this.tree.available(match.nodes) < needed;
    if (!lacks()) return true;
    const victims = this.#victims().filter(({ sequence }) =>
      sequence.spec.priority > next.spec.priority
    );
    if (victims.length === 0) return false;
    const gained = victims.reduce((sum, place) => sum + place.ownPages(match.nodes), 0);
    if (this.tree.available(match.nodes) + gained < needed) return false;
    for (const victim of victims) {
      if (!lacks()) break;
      this.#giveWay(victim);
    }
    return !lacks();
  }

  /**
   * Pages that must be left for the next sequence and for those that it could not make give way; none
   * where there are no others.
   */
  #sparePages(next: Sequence): number {
    let spare = 0;
    let others = 0;
    for (const { sequence, pages } of this.#running) {
      if (sequence.spec.priority > next.spec.priority) continue;
      spare += sparePages(sequence, pages.length);
      others++;
    }
    return others === 0 ? 0 : spare + sparePages(next, pagesFor(next.tokens.length));
  }

  /** Those that could give way, who has to first: the worst priority, then the youngest. */
  #victims(): Placement[] {
    return [...this.#running].filter(({ isRestoring }) => !isRestoring).sort(
      ({ sequence: a }, { sequence: b }) =>
        b.spec.priority - a.spec.priority || b.arrival - a.arrival,
    );
  }

  #giveWay(place: Placement): void {
    this.#release(place);
    place.sequence.gaveWay = true;
    this.#waiting.add(place.sequence);
    this.#preemptions++;
  }

  #release(place: Placement): void {
    const { sequence, slot } = place;
    const beingWritten = place.release();
    if (beingWritten.length > 0) this.#orphans.set(sequence.spec.id, beingWritten);
    this.#running.delete(place);
    this.#freeSlots.push(slot);
    sequence.place = null;
  }
}

/** Whether the newest token has no page yet. */
export function lacksPage({ isRestoring, sequence, pages }: Placement): boolean {
  return !isRestoring && pagesFor(sequence.tokens.length) > pages.length;
}

/** Pages to keep for the answer of a sequence that has so many. */
function sparePages({ spec }: Sequence, pages: number): number {
  return Math.max(0, Math.min(SPARE_PAGES, pagesFor(spec.maxTokens) - pages));
}
