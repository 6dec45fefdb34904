/**
 * The engine's traffic with the prefix cache's store: fills pages from it before a prompt is computed,
 * and copies to it what was computed. Neither ever makes a step wait.
 */

import type { UnitStore } from "../cache/store.ts";
import type { FilledUnit, Restore } from "./schedule.ts";
import type { StepRunner } from "./step_runner.ts";

export type PageRunner = Pick<StepRunner, "readPage" | "writePage" | "unitBytes">;

export interface KeptPagesOptions {
  readonly store: UnitStore;
  readonly runner: PageRunner;
  /** A restore has ended: the first `tokens` of what it asked for are in its pages. */
  readonly onRestored: (result: Restored) => void;
}

export interface Restored {
  readonly sequence: number;
  readonly tokens: number;
  readonly milliseconds: number;
  /** What stopped it, where something did. */
  readonly error?: unknown;
}

export class KeptPages {
  readonly #options: KeptPagesOptions;
  /** Restores that are under way, by sequence. */
  readonly #restores = new Map<number, { readonly leave: AbortController; done: Promise<void> }>();
  /** Units whose pages are to be copied before the next step may use them for something else. */
  #filled: FilledUnit[] = [];
  /** Copies that are under way. */
  #copying: Promise<unknown> = Promise.resolve();

  constructor(options: KeptPagesOptions) {
    this.#options = options;
  }

  state() {
    return this.#options.store.state();
  }

  /** Notes units for the next `keep`. */
  add(units: readonly FilledUnit[]): void {
    this.#filled.push(...units);
  }

  /**
   * Hands copies of the noted units to the store. Must be called before the next step is; whoever waits
   * for it waits for those of earlier calls too.
   */
  async keep(): Promise<void> {
    const { store } = this.#options;
    if (store.state().state !== "ready") this.#filled = [];
    this.#copying = Promise.all([this.#copying, this.#copy()]);
    await this.#copying;
    // A request that leaves while a page is read adds a unit, whose page is as little its own later.
    if (this.#filled.length > 0) await this.keep();
  }

  /** Everything is read before anything is waited for: pages are copied as they are at the call. */
  async #copy(): Promise<void> {
    const { store, runner } = this.#options;
    const units = this.#filled;
    this.#filled = [];
    try {
      const copies = await Promise.all(
        units.map(({ page, tokens }) => runner.readPage({ page, tokens })),
      );
      for (const [i, { key, parent, tokens }] of units.entries()) {
        store.save({ key, parent, tokens, bytes: copies[i] });
      }
    } catch {
      // A backend that cannot be read from fails the next step, which tells everybody.
    }
  }

  /** Begins to fill a sequence's pages; ends with `onRestored`, whatever happens. */
  restore(restore: Restore): void {
    const leave = new AbortController();
    const done = this.#fill(restore, leave.signal);
    this.#restores.set(restore.sequence, { leave, done });
  }

  /** Nobody waits for this sequence's restore any longer; it ends soon, with `onRestored`. */
  leave(sequence: number): void {
    this.#restores.get(sequence)?.leave.abort();
  }

  /** Waits for restores and copies what is left. */
  async close(): Promise<void> {
    await Promise.all([...this.#restores.values()].map(({ done }) => done));
    await this.keep();
    await this.#options.store.close();
  }

  async #fill({ sequence, parent, tokens, pages }: Restore, signal: AbortSignal): Promise<void> {
    const { store, runner, onRestored } = this.#options;
    const start = performance.now();
    let restored = 0;
    let error: unknown;
    try {
      const units = await store.load({ parent, tokens, unitBytes: runner.unitBytes, signal });
      for (const [i, unit] of units.entries()) {
        if (signal.aborted) break;
        runner.writePage({ page: pages[i], tokens: unit.tokens }, unit.bytes);
        restored += unit.tokens;
      }
    } catch (fault) {
      error = fault;
    }
    this.#restores.delete(sequence);
    const milliseconds = performance.now() - start;
    onRestored({ sequence, tokens: restored, milliseconds, ...(error !== undefined && { error }) });
  }
}
