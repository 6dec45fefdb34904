/** Which waiting sequences start, and which of these ask the store for what memory lacks. */

import type { Match } from "./page_tree.ts";
import { pagesFor } from "./pages.ts";
import type { Placement } from "./placement.ts";
import type { Placements } from "./placements.ts";
import type { Restore } from "./schedule.ts";
import { awaits, goesBefore, isDue, reusable, type Sequence } from "./sequence.ts";

/** How many sequences that need too many pages are passed at once: looking at all of them takes time. */
const MAX_BLOCKED = 8;

/** Tokens that memory must lack before the store is asked: fewer are computed as soon as read. */
const MIN_RESTORED = 32;

/**
 * Starts sequences as far as slots and pages go. Those that wait for another one's prompt are left out.
 * Those that need too many pages are passed by others, unless they are due.
 */
export function admit(placements: Placements): Restore[] {
  const restores: Restore[] = [];
  const { waiting, running } = placements;
  if (waiting.size === 0 || (placements.freeSlots === 0 && !mayTakeSlot(placements))) {
    return restores;
  }
  countLoads(placements);
  const candidates = new Set(waiting);
  let blocked = 0;
  while (candidates.size > 0) {
    const next = firstOf(candidates);
    candidates.delete(next);
    let match: Match | null = null;
    const find = () => match ??= placements.match(next);
    if (awaits(next, { running, matched: () => find().tokens })) continue;
    if (placements.makeRoom(next, find())) {
      countPasses(waiting, next);
      const restore = start(next, placements);
      if (restore !== null) restores.push(restore);
    } else {
      if (placements.freeSlots === 0 || isDue(next) || ++blocked > MAX_BLOCKED) break;
      next.isBlocked = true;
    }
  }
  return restores;
}

function countPasses(waiting: ReadonlySet<Sequence>, next: Sequence): void {
  for (const sequence of waiting) {
    const isPassed = sequence.isBlocked && sequence.arrival < next.arrival &&
      sequence.spec.priority <= next.spec.priority;
    if (isPassed) sequence.passed++;
  }
}

/** Whether somebody who waits is before somebody who runs. */
function mayTakeSlot({ waiting, running }: Placements): boolean {
  let best = Infinity;
  for (const { spec } of waiting) best = Math.min(best, spec.priority);
  for (const { sequence, isRestoring } of running) {
    if (!isRestoring && best < sequence.spec.priority) return true;
  }
  return false;
}

function countLoads({ waiting, running }: Placements): void {
  for (const { client } of waiting) client.load = 0;
  for (const { sequence } of running) sequence.client.load = 0;
  for (const place of running) place.sequence.client.load += loadOf(place);
}

/** Tokens that are known and not computed. */
function loadOf({ sequence, computed }: Placement): number {
  return sequence.tokens.length - computed;
}

function firstOf(candidates: ReadonlySet<Sequence>): Sequence {
  let [best] = candidates;
  for (const sequence of candidates) if (goesBefore(sequence, best)) best = sequence;
  return best;
}

function start(sequence: Sequence, placements: Placements): Restore | null {
  const { spec, tokens, client } = sequence;
  const place = placements.place(sequence);
  client.load += loadOf(place);
  client.shortestNext = !client.shortestNext;
  const end = reusable(sequence);
  if (!spec.restorable || end - place.found < MIN_RESTORED) return null;
  place.isRestoring = true;
  // The last token is computed anyway, but the unit at a prompt's end holds it too.
  const wanted = tokens.slice(place.computed, end === tokens.length - 1 ? tokens.length : end);
  const begin = pagesFor(place.computed);
  const pages = Int32Array.from(place.pages.slice(begin, begin + pagesFor(wanted.length)));
  return { sequence: spec.id, parent: place.parentKey(), tokens: wanted, pages };
}
