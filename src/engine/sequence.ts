/** A sequence as the scheduler keeps it from its arrival to its end, and which of those that wait is next. */

import type { Client } from "./fairness.ts";
import type { PageNode } from "./page_tree.ts";
import type { Placement } from "./placement.ts";
import type { SequenceSpec } from "./schedule.ts";

export interface Sequence {
  readonly spec: SequenceSpec;
  readonly client: Client;
  /** Where its tokens begin in the page tree. */
  readonly root: PageNode;
  /** Counts up from sequence to sequence. */
  readonly arrival: number;
  /** Prompt and answer so far. */
  readonly tokens: number[];
  /** Tokens whose rows have been computed, and their logits handed out where anybody wanted them. */
  delivered: number;
  /** Its first row has been in a step. */
  started: boolean;
  /** It ran and had to give way. */
  gaveWay: boolean;
  /** It waits for pages, not for a slot. */
  isBlocked: boolean;
  /** How often younger ones were let in while it was blocked. */
  passed: number;
  /** Who computes what it needs, and how far that one must come. */
  awaited: { readonly leader: Placement; readonly until: number } | null;
  /** What it holds; null while it waits. */
  place: Placement | null;
}

/** Tokens of a sequence that may come from elsewhere: the last row must be computed in any case. */
export function reusable({ spec, tokens, delivered }: Sequence): number {
  return Math.min(spec.reuse ? Infinity : delivered, tokens.length - 1);
}

/** Tokens that two sequences must have in common before one of them waits for the other's. */
const MIN_SHARED = 64;

/**
 * Whether somebody is about to compute what the sequence needs: at least MIN_SHARED tokens beyond the
 * `matched` ones that are there, or all of them. Remembered in `awaited`.
 */
export function awaits(
  sequence: Sequence,
  { running, matched }: { running: ReadonlySet<Placement>; matched: () => number },
): boolean {
  const { awaited } = sequence;
  if (awaited !== null && running.has(awaited.leader)) {
    if (awaited.leader.computed < awaited.until) return true;
  }
  sequence.awaited = null;
  const { root, priority } = sequence.spec;
  const most = reusable(sequence);
  for (const leader of running) {
    const { spec, tokens } = leader.sequence;
    if (spec.root !== root || spec.priority > priority) continue;
    if (leader.computed >= tokens.length - 1) continue;
    const shared = Math.min(commonLength(sequence.tokens, tokens), most);
    const until = shared === most ? most : shared - MIN_SHARED + 1;
    if (leader.computed >= until || matched() >= until) continue;
    sequence.awaited = { leader, until };
    return true;
  }
  return false;
}

function commonLength(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}

/** How often a sequence that needs too many pages may be passed by others. */
const MAX_PASSES = 16;

/**
 * Nobody goes before one that gave way, or it might wait long for the pages that it still needs, nor
 * before one that has been passed too often.
 */
export function isDue({ gaveWay, passed }: Sequence): boolean {
  return gaveWay || passed >= MAX_PASSES;
}

/**
 * Which of two waiting sequences goes first: the better priority, then those that are due, then the
 * client that has been served least, running sequences counted to their prompts' end; of one client the
 * oldest and the shortest in turn.
 */
export function goesBefore(a: Sequence, b: Sequence): boolean {
  if (a.spec.priority !== b.spec.priority) return a.spec.priority < b.spec.priority;
  const due = isDue(a);
  if (due !== isDue(b)) return due;
  if (due) return a.arrival < b.arrival;
  if (a.client !== b.client) {
    const difference = a.client.service + a.client.load - b.client.service - b.client.load;
    return difference === 0 ? a.client.order < b.client.order : difference < 0;
  }
  if (a.client.shortestNext && a.tokens.length !== b.tokens.length) {
    return a.tokens.length < b.tokens.length;
  }
  return a.arrival < b.arrival;
}
