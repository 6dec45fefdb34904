/**
 * What the pages of the KV cache hold: a tree of tokens for each root, a node a page. Sequences share
 * whole pages by holding the same nodes; what nobody holds stays, to be used again, until its page is
 * needed. Pages that are no node's are free, or somebody has taken them to compute into.
 *
 * A node with less than a page of tokens has no children, and at most one sequence, which adds to it.
 */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { chainKey } from "../cache/chain.ts";
import { PagePool } from "./pages.ts";

export interface PageNode {
  /** Null for a root, which has neither tokens nor a page. */
  readonly parent: PageNode | null;
  /** Those whose keys and values are in the page; 1 to PAGE_TOKENS. */
  readonly tokens: number[];
  readonly page: number;
  /** Sequences that hold it; whoever holds a node holds its parent. */
  refs: number;
  /** By their first token. */
  readonly children: Map<number, PageNode[]>;
  /** `chainKey` of a whole page once somebody asked for it, and of a root. */
  key: string | null;
  /** Handed out as a filled unit, or come from the store. */
  told: boolean;
}

/** What of a sequence's tokens is in memory. */
export interface Match {
  /** Whole pages, from the root on. */
  readonly nodes: readonly PageNode[];
  /** The node that has more of the tokens behind those. */
  readonly rest: PageNode | null;
  /** In all. */
  readonly tokens: number;
}

export class PageTree {
  readonly #pool: PagePool;
  readonly #roots = new Map<string, PageNode>();
  /**
   * Nodes that nobody holds, the least recently used first. A node is used no later than its parent and
   * stands before it, so the first one never has children.
   */
  readonly #kept = new Set<PageNode>();

  constructor(pages: number) {
    this.#pool = new PagePool(pages);
  }

  get size(): number {
    return this.#pool.size;
  }

  /** Pages without any use. */
  get free(): number {
    return this.#pool.free;
  }

  /** Pages of nodes that nobody holds. */
  get kept(): number {
    return this.#kept.size;
  }

  /** The root of that name, held once more. */
  enter(name: string): PageNode {
    let root = this.#roots.get(name);
    if (root === undefined) {
      root = newNode({ parent: null, page: -1, tokens: [] });
      root.key = name;
      this.#roots.set(name, root);
    }
    root.refs++;
    return root;
  }

  /** Ends an `enter`; where nobody is left and nobody will come, all below is given up. */
  leave(root: PageNode, { lasting }: { lasting: boolean }): void {
    root.refs--;
    while (!lasting && root.refs === 0 && root.children.size > 0) {
      let node = root;
      while (node.children.size > 0) node = node.children.values().next().value![0];
      this.#kept.delete(node);
      this.drop(node);
    }
    this.#forgetRoot(root);
  }

  /** Pages that `take` could give while `held` must stay. */
  available(held: readonly PageNode[]): number {
    let count = this.#pool.free + this.#kept.size;
    for (const node of held) if (node.refs === 0) count--;
    return count;
  }

  /** Takes pages, giving up kept nodes where too few are free; null where even that is too little. */
  take(count: number): number[] | null {
    if (count > this.#pool.free + this.#kept.size) return null;
    while (this.#pool.free < count) {
      const [oldest] = this.#kept;
      this.#kept.delete(oldest);
      this.drop(oldest);
    }
    return [...this.#pool.take(count)!];
  }

  giveBack(pages: readonly number[]): void {
    this.#pool.giveBack(pages);
  }

  /** Looks for the first `end` tokens. */
  match(root: PageNode, { tokens, end }: { tokens: readonly number[]; end: number }): Match {
    const nodes: PageNode[] = [];
    let parent = root;
    let matched = 0;
    while (true) {
      const found = this.longest(parent, { tokens, from: matched, end });
      if (found === null) return { nodes, rest: null, tokens: matched };
      matched += found.tokens;
      if (found.tokens < PAGE_TOKENS) return { nodes, rest: found.node, tokens: matched };
      nodes.push(found.node);
      parent = found.node;
    }
  }

  /** The child that has most of the tokens from `from` on; of equal ones that with the least besides. */
  longest(
    parent: PageNode,
    { tokens, from, end }: { tokens: readonly number[]; from: number; end: number },
  ): { node: PageNode; tokens: number } | null {
    if (from >= end) return null;
    let best: { node: PageNode; tokens: number } | null = null;
    for (const node of parent.children.get(tokens[from]) ?? []) {
      const most = Math.min(node.tokens.length, end - from);
      let same = 1;
      while (same < most && node.tokens[same] === tokens[from + same]) same++;
      const isBetter = best === null || same > best.tokens ||
        (same === best.tokens && node.tokens.length < best.node.tokens.length);
      if (isBetter) best = { node, tokens: same };
    }
    return best;
  }

  hold(node: PageNode): void {
    if (node.refs++ === 0) this.#kept.delete(node);
  }

  /** Ends a `hold`; of a path, from its end on. */
  release(node: PageNode): void {
    if (--node.refs === 0) this.#kept.add(node);
  }

  /** Makes a kept node, all above it being held, the last one to be given up. */
  touch(node: PageNode): void {
    if (this.#kept.delete(node)) this.#kept.add(node);
  }

  /** A node for a page that was taken; it is held. */
  attach(parent: PageNode, options: { page: number; tokens: number[] }): PageNode {
    const node = newNode({ parent, ...options });
    node.refs = 1;
    const siblings = parent.children.get(node.tokens[0]);
    if (siblings === undefined) parent.children.set(node.tokens[0], [node]);
    else siblings.push(node);
    return node;
  }

  /** Takes a node without children out of the tree, and frees its page. */
  drop(node: PageNode): void {
    const parent = node.parent!;
    const siblings = parent.children.get(node.tokens[0])!;
    if (siblings.length === 1) parent.children.delete(node.tokens[0]);
    else siblings.splice(siblings.indexOf(node), 1);
    this.#pool.giveBack([node.page]);
    this.#forgetRoot(parent);
  }

  /** Another node that has all of this one's tokens, and more unless this one is whole. */
  cover(node: PageNode): PageNode | null {
    const { tokens } = node;
    for (const other of node.parent!.children.get(tokens[0])!) {
      if (other === node || other.tokens.length < tokens.length) continue;
      let at = tokens.length - 1;
      while (at > 0 && other.tokens[at] === tokens[at]) at--;
      if (at === 0) return other;
    }
    return null;
  }

  #forgetRoot(node: PageNode): void {
    if (node.parent !== null || node.refs > 0 || node.children.size > 0) return;
    this.#roots.delete(node.key!);
  }
}

/** The chain key of a whole page or of a root. */
export function keyOf(node: PageNode): string {
  const unnamed: PageNode[] = [];
  let named = node;
  while (named.key === null) {
    unnamed.push(named);
    named = named.parent!;
  }
  let key = named.key;
  for (const next of unnamed.reverse()) key = next.key = chainKey(key, next.tokens);
  return key;
}

function newNode(
  options: { parent: PageNode | null; page: number; tokens: number[] },
): PageNode {
  return { ...options, refs: 0, children: new Map(), key: null, told: false };
}
