/**
 * What a running sequence holds: a slot, the nodes of the page tree that have its tokens so far, and
 * taken pages for those to come.
 */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { chainKey } from "../cache/chain.ts";
import { keyOf, type Match, type PageNode, type PageTree } from "./page_tree.ts";
import type { FilledUnit, PageCopy } from "./schedule.ts";
import { reusable, type Sequence } from "./sequence.ts";

export class Placement {
  readonly sequence: Sequence;
  readonly slot: number;
  /** In the order of positions: first those of `#path`, then taken ones. */
  readonly pages: number[];
  /** Tokens whose keys and values are in the pages for certain. */
  computed: number;
  /** Tokens that were in memory at first, those of a page in part included. */
  readonly found: number;
  /** It has had no row yet, so pages that others fill meanwhile may still be used. */
  isFresh = true;
  /** Its pages have changed since its slot was listed. */
  isChanged = true;
  /** Somebody may be writing into its pages. */
  isRestoring = false;
  /** Tokens of pages in memory, and of those that were restored. */
  memory: number;
  store = 0;
  /** Guesses for the next step, and those whose rows are computed but may be wrong. */
  drafts: readonly number[] = [];
  guessed: readonly number[] = [];
  readonly #tree: PageTree;
  readonly #root: PageNode;
  /** A node a page; only the last one may have less than a page of tokens, and is its own then. */
  readonly #path: PageNode[];
  /** Nodes of the path, from its begin, that have been told or were by others. */
  #told = 0;
  /** Tokens when a unit that is not whole was told last. */
  #tailTold = 0;

  /** Holds what `match` found and takes `pages` more, which must be available. */
  constructor(
    sequence: Sequence,
    options: { slot: number; tree: PageTree; match: Match; pages: number },
  ) {
    const { slot, tree, match, pages } = options;
    this.sequence = sequence;
    this.slot = slot;
    this.#tree = tree;
    this.found = match.tokens;
    this.#root = sequence.root;
    this.#path = [...match.nodes];
    for (const node of this.#path) tree.hold(node);
    if (match.rest !== null) tree.touch(match.rest);
    this.pages = [...this.#path.map(({ page }) => page), ...tree.take(pages)!];
    this.computed = this.memory = this.#path.length * PAGE_TOKENS;
  }

  /** Pages that nobody else holds, those in `besides` not counted. */
  ownPages(besides: readonly PageNode[]): number {
    const shared = this.#path.filter((node) => node.refs > 1 || besides.includes(node));
    return this.pages.length - shared.length;
  }

  /** Takes one more page; false where there is none. */
  addPage(): boolean {
    const page = this.#tree.take(1);
    if (page === null) return false;
    this.pages.push(...page);
    this.isChanged = true;
    return true;
  }

  /** The unit before the first token that is not there. */
  parentKey(): string {
    return keyOf(this.#path.at(-1) ?? this.#root);
  }

  /** Uses the pages in memory as far as they go by now; returns what would have to be copied besides. */
  extend(): PageCopy | null {
    const { tokens } = this.sequence;
    const end = reusable(this.sequence);
    while (true) {
      const index = Math.floor(this.computed / PAGE_TOKENS);
      const from = index * PAGE_TOKENS;
      const parent = index === 0 ? this.#root : this.#path[index - 1];
      const found = this.#tree.longest(parent, { tokens, from, end });
      const own = this.computed - from;
      if (found === null || found.tokens <= own) return null;
      const { node } = found;
      const isWhole = found.tokens === PAGE_TOKENS;
      const isLeft = own === 0 && node.refs === 0 && found.tokens === node.tokens.length;
      if (!isWhole && !isLeft) {
        return { from: node.page, to: this.pages[index], tokens: found.tokens };
      }
      if (own > 0) this.#tree.drop(this.#path[index]);
      else this.#tree.giveBack([this.pages[index]]);
      this.#tree.hold(node);
      this.#put(index, node);
      this.computed = from + found.tokens;
      this.memory += found.tokens - own;
      if (!isWhole) return null;
    }
  }

  /** Brings the tree up to what is computed; `told` says that whole pages come from the store. */
  advance(told = false): void {
    const { tokens } = this.sequence;
    let at = this.#reached();
    while (at < this.computed) {
      const index = Math.floor(at / PAGE_TOKENS);
      const end = Math.min(this.computed, (index + 1) * PAGE_TOKENS);
      if (index === this.#path.length) {
        const parent = this.#path.at(-1) ?? this.#root;
        const options = { page: this.pages[index], tokens: tokens.slice(at, end) };
        this.#path.push(this.#tree.attach(parent, options));
      } else {
        for (let i = at; i < end; i++) this.#path[index].tokens.push(tokens[i]);
      }
      at = end;
      if (at % PAGE_TOKENS === 0) this.#share(index, told);
    }
  }

  /** The first whole unit that has not been told; sequences that aren't restorable are never asked. */
  takeUnit(): FilledUnit | null {
    const whole = Math.floor(this.#reached() / PAGE_TOKENS);
    while (this.#told < whole) {
      const node = this.#path[this.#told++];
      if (node.told) continue;
      node.told = true;
      const { page, tokens, parent } = node;
      return { page, key: keyOf(node), parent: keyOf(parent!), tokens: tokens.length };
    }
    return null;
  }

  /** The unit at the end that isn't whole; null where there is none or it has been told. */
  takeTail(): FilledUnit | null {
    const reached = this.#reached();
    if (reached % PAGE_TOKENS === 0 || reached === this.#tailTold) return null;
    this.#tailTold = reached;
    const { page, tokens, parent } = this.#path[this.#path.length - 1];
    const before = keyOf(parent!);
    return { page, key: chainKey(before, tokens), parent: before, tokens: tokens.length };
  }

  /**
   * Lets go of all: what has been computed is kept, the other pages are free, or are returned where
   * somebody may be writing into them.
   */
  release(): readonly number[] {
    this.advance();
    const taken = this.pages.slice(this.#path.length);
    if (!this.isRestoring) this.#tree.giveBack(taken);
    const tail = this.#path.at(-1);
    const isPartial = tail !== undefined && tail.tokens.length < PAGE_TOKENS;
    if (isPartial && this.#tree.cover(tail) !== null) this.#tree.drop(this.#path.pop()!);
    for (const node of this.#path.reverse()) this.#tree.release(node);
    return this.isRestoring ? taken : [];
  }

  /** Tokens in the nodes. */
  #reached(): number {
    const last = this.#path.at(-1);
    if (last === undefined) return 0;
    return (this.#path.length - 1) * PAGE_TOKENS + last.tokens.length;
  }

  /** Goes over to another page with the same tokens, if there is one. */
  #share(index: number, told: boolean): void {
    const node = this.#path[index];
    node.told = told;
    const other = this.#tree.cover(node);
    if (other === null) return;
    this.#tree.drop(node);
    this.#tree.hold(other);
    this.#put(index, other);
  }

  #put(index: number, node: PageNode): void {
    this.#path[index] = node;
    this.pages[index] = node.page;
    this.isChanged = true;
  }
}
