/** What one step computes for each sequence, and the step that is written down from it. */

import { PAGE_TOKENS } from "../backend/backend.ts";
import type { PromptWork } from "./fairness.ts";
import type { Placement } from "./placement.ts";
import {
  CHOSEN_THERE,
  type PageCopy,
  type SlotPages,
  type Started,
  type Step,
  type StepRow,
} from "./schedule.ts";

/** What a running sequence has to compute. */
export interface Work extends PromptWork {
  readonly place: Placement;
  /** Position of its first row. */
  readonly first: number;
  /** What makes the tokens before that row complete. */
  readonly copy: PageCopy | null;
  guesses: readonly number[];
}

/** A sequence's work without any rows yet; its pages in memory are used as far as they go by now. */
export function planned(place: Placement): Work {
  const { sequence } = place;
  const copy = place.isFresh ? place.extend() : null;
  const before = place.computed - (copy === null ? 0 : place.computed % PAGE_TOKENS);
  const first = before + (copy?.tokens ?? 0);
  const remaining = sequence.tokens.length - first;
  return { sequence, place, copy, first, remaining, count: 0, guesses: [] };
}

/** An answer's work in a burst right behind its last one, `last`, which has not been settled. */
export function plannedBehind({ place, sequence, first, count, guesses }: Work): Work {
  const behind = first + count + guesses.length;
  return { sequence, place, copy: null, first: behind, remaining: 1, count: 1, guesses: [] };
}

/** Writes the step down, and that it was. */
export function emit(works: readonly Work[]): Omit<Step, "restores" | "burst"> {
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
    const isLast = position >= tokens.length - 1;
    const wantsLogits = position >= delivered && (isLast ? spec.answers : spec.promptLogits);
    // Beyond the tokens that are known there are only those of a burst that is under way.
    const token = position < tokens.length ? tokens[position] : CHOSEN_THERE;
    rows.push({ sequence: spec.id, slot, position, token, wantsLogits });
  }
  for (let i = 0; i < guesses.length; i++) {
    const token = guesses[i];
    rows.push({ sequence: spec.id, slot, position: end + i, token, wantsLogits: true });
  }
  // What is computed again because the sequence gave way is nobody's service.
  client.service += guesses.length + Math.max(0, end - Math.max(first, delivered));
}
