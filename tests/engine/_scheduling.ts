/**
 * A make-believe backend for the scheduler: its pages hold tokens where real ones hold keys and values,
 * it does to them what steps say, and looks whether each row sees exactly its sequence.
 */

import { assert, assertEquals } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { chainKey } from "../../src/cache/chain.ts";
import {
  CHOSEN_THERE,
  type FilledUnit,
  type Restore,
  type SequenceSpec,
  type Step,
} from "../../src/engine/schedule.ts";
import { Scheduler, type SchedulerOptions } from "../../src/engine/scheduler.ts";

/** Roots as `rootKey` makes them: 32 bytes in hex. */
export const ROOTS = ["aa", "bb", "cc"].map((byte) => byte.repeat(32));

/** What a page has where nothing sensible was written. */
const GARBAGE = -7;

/** What the make-believe page holds for a token: roots tell apart what must not be shared. */
function valueOf(root: string, token: number): string {
  return `${root.slice(0, 2)}:${token}`;
}

export function createScheduler(options: Partial<SchedulerOptions> = {}): Scheduler {
  const { slots = 2, stepTokens = 8, pages = 8 } = options;
  return new Scheduler({
    slots,
    stepTokens,
    mixedTokens: stepTokens,
    maxRows: slots + stepTokens,
    logitRows: slots,
    pages,
    ...options,
  });
}

/** A sequence with tokens of its own, unless said otherwise. */
export function sequence(
  id: number,
  length: number,
  more: Partial<SequenceSpec> = {},
): SequenceSpec {
  const prompt = more.prompt ?? Array.from({ length }, (_, i) => id * 1000 + i);
  return {
    id,
    prompt,
    maxTokens: prompt.length + 4,
    answers: true,
    promptLogits: false,
    tokensOnly: true,
    root: ROOTS[0],
    reuse: true,
    restorable: false,
    client: "one",
    priority: 0,
    ...more,
  };
}

/** `count` tokens that are all different, and different for different begins. */
export function tokensFrom(begin: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => begin + i);
}

/** Rows in short: `sequence@position`, with `!` where logits are wanted; runs as `sequence@first-last`. */
export function rowsOf(step: Step | null): string[] {
  const runs: { id: number; first: number; last: number; logits: boolean }[] = [];
  for (const { sequence: id, position, wantsLogits: logits } of step?.rows ?? []) {
    const run = runs.at(-1);
    const continues = run !== undefined && run.id === id && run.last === position - 1 &&
      !run.logits && !logits;
    if (continues) run.last = position;
    else runs.push({ id, first: position, last: position, logits });
  }
  return runs.map(({ id, first, last, logits }) =>
    `${id}@${first}${last > first ? `-${last}` : ""}${logits ? "!" : ""}`
  );
}

/** A linear congruential generator for reproducible choices; its low bits are poor and left out. */
export function choices(seed: number): (below: number) => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 10) % below;
  };
}

/** A sequence and what has come of it. */
export interface Known {
  readonly spec: SequenceSpec;
  readonly tokens: number[];
  /** Positions whose logits were handed out. */
  readonly asked: number[];
  /** What bursts under way have chosen behind them. */
  readonly ahead: number[];
  started: { memory: number; store: number } | null;
}

export class Machine {
  readonly scheduler: Scheduler;
  readonly options: SchedulerOptions;
  readonly live = new Map<number, Known>();
  /** Restores that go on, those of ended sequences among them. */
  readonly restoring = new Map<number, Restore & { readonly root: string }>();
  readonly #pages: string[][];
  /** By slot. */
  readonly #tables = new Map<number, Int32Array>();
  /** Keys that may be parents of told units. */
  readonly #keys = new Set<string>(ROOTS);

  constructor(options: Partial<SchedulerOptions> = {}) {
    this.scheduler = createScheduler(options);
    const { slots = 2, stepTokens = 8, pages = 8 } = options;
    this.options = {
      slots,
      stepTokens,
      mixedTokens: stepTokens,
      maxRows: slots + stepTokens,
      logitRows: slots,
      pages,
      ...options,
    };
    this.#pages = Array.from({ length: pages }, () => Array(PAGE_TOKENS).fill(`${GARBAGE}`));
  }

  add(spec: SequenceSpec): Known {
    const known = { spec, tokens: [...spec.prompt], asked: [], ahead: [], started: null };
    this.scheduler.add(spec);
    this.live.set(spec.id, known);
    return known;
  }

  remove(id: number): FilledUnit | null {
    this.live.delete(id);
    const unit = this.scheduler.remove(id);
    if (unit !== null) this.#checkUnit(unit);
    return unit;
  }

  /** Writes what a restore brings, the first `count` tokens, and ends it. */
  restore(id: number, count: number): void {
    const { tokens, pages, root, parent } = this.restoring.get(id)!;
    for (let i = 0; i < count; i++) this.#write(pages, i, valueOf(root, tokens[i]));
    let key = parent;
    for (let at = 0; at + PAGE_TOKENS <= count; at += PAGE_TOKENS) {
      key = chainKey(key, tokens.slice(at, at + PAGE_TOKENS));
      this.#keys.add(key);
    }
    this.restoring.delete(id);
    this.scheduler.restored(id, count);
  }

  /** Takes a step's word for the pages, runs it and looks at what its rows see. */
  run(step: Step): FilledUnit[] {
    this.#checkStep(step);
    for (const { slot, pages } of step.slotPages) this.#tables.set(slot, pages);
    this.#disturbRestores();
    this.#copy(step);
    this.#checkWriters(step);
    for (const { sequence, slot, position, token } of step.rows) {
      const { root } = this.live.get(sequence)!.spec;
      this.#write(this.#tables.get(slot)!, position, valueOf(root, token));
    }
    for (const { sequence, slot, position } of step.rows) {
      this.#checkPrefix(this.live.get(sequence)!, { slot, position, step });
    }
    const units = this.scheduler.settle();
    for (const unit of units) this.#checkUnit(unit);
    return units;
  }

  /** Takes a burst's word for the pages, and computes it, each token being chosen from those before. */
  launch(step: Step, choose: (tokens: readonly number[]) => number): void {
    this.#checkBurst(step);
    for (const { slot, pages } of step.slotPages) this.#tables.set(slot, pages);
    this.#disturbRestores();
    this.#copy(step);
    this.#checkWriters(step);
    for (const { sequence, slot, position, token } of step.rows) {
      const { spec, tokens, ahead } = this.live.get(sequence)!;
      const all = [...tokens, ...ahead];
      assertEquals(position, all.length - 1, "a row is not behind the last one");
      if (token !== CHOSEN_THERE) assertEquals([token, ahead.length], [all[position], 0]);
      this.#write(this.#tables.get(slot)!, position, valueOf(spec.root, all[position]));
      this.#checkSeen({ spec, tokens: all }, { slot, position });
      ahead.push(choose(all));
    }
  }

  /** The oldest burst is read: hands out its tokens as far as answers go, and returns what it made whole. */
  land(step: Step, ends: (known: Known) => boolean): FilledUnit[] {
    const units = this.scheduler.settle();
    for (const unit of units) this.#checkUnit(unit);
    const left = new Set<number>();
    for (const { sequence, position } of step.rows) {
      const known = this.live.get(sequence);
      if (known === undefined || left.has(sequence)) continue;
      known.asked.push(position);
      known.tokens.push(known.ahead.shift()!);
      if (ends(known)) {
        const unit = this.remove(sequence);
        if (unit !== null) units.push(unit);
        left.add(sequence);
      } else this.scheduler.append(sequence, known.tokens.at(-1)!);
    }
    return units;
  }

  /** Nobody has written where these units are kept. */
  checkUnits(units: readonly FilledUnit[]): void {
    for (const unit of units) this.#checkUnit(unit);
  }

  /** A step that breaks: all that it might have written is garbage, and its sequences end. */
  fail(step: Step): void {
    this.#checkStep(step);
    for (const { slot, pages } of step.slotPages) this.#tables.set(slot, pages);
    for (const { slot, position } of step.rows) {
      this.#write(this.#tables.get(slot)!, position, `${GARBAGE}`);
    }
    for (const id of new Set(step.rows.map(({ sequence }) => sequence))) this.remove(id);
  }

  /**
   * Hands out a token for each row with logits as `choose` has it from the tokens up to the row, and ends
   * what `ends` says.
   */
  answer(
    step: Step,
    { choose, ends }: {
      choose: (tokens: readonly number[]) => number;
      ends: (known: Known) => boolean;
    },
  ): void {
    let stopped: number | null = null;
    for (const row of step.rows) {
      const known = this.live.get(row.sequence);
      if (known === undefined || stopped === row.sequence) continue;
      const { spec, tokens } = known;
      const isEnd = row.position >= spec.prompt.length - 1;
      if (row.wantsLogits) known.asked.push(row.position);
      if (!isEnd || row.position < tokens.length - 1) continue;
      if (!spec.answers) {
        this.remove(row.sequence);
        continue;
      }
      assertEquals(row.position, tokens.length - 1);
      if (!row.wantsLogits) continue;
      tokens.push(choose(tokens));
      if (ends(known)) {
        this.remove(row.sequence);
      } else if (!this.scheduler.append(row.sequence, tokens[tokens.length - 1])) {
        stopped = row.sequence;
      }
    }
  }

  #copy({ copies }: Step): void {
    for (const { from, to, tokens } of copies) {
      assert(tokens >= 1 && tokens < PAGE_TOKENS && from !== to, "a copy makes no sense");
      for (let i = 0; i < tokens; i++) this.#pages[to][i] = this.#pages[from][i];
    }
  }

  #write(pages: Int32Array, position: number, value: string): void {
    this.#pages[pages[Math.floor(position / PAGE_TOKENS)]][position % PAGE_TOKENS] = value;
  }

  /** Restores write whenever they like, also for those that have ended. */
  #disturbRestores(): void {
    for (const { pages, tokens } of this.restoring.values()) {
      for (let i = 0; i < tokens.length; i++) this.#write(pages, i, `${GARBAGE}`);
    }
  }

  #checkStep({ rows, restores, started, slotPages }: Step): void {
    const { mixedTokens, stepTokens, maxRows, logitRows } = this.options;
    for (const { sequence, memory, store } of started) {
      const known = this.live.get(sequence)!;
      assertEquals(known.started, null, "a sequence starts twice");
      known.started = { memory, store };
      const first = rows.find((row) => row.sequence === sequence);
      assertEquals(first?.position, memory + store, "the first row is not behind what was there");
      if (!known.spec.reuse) assertEquals(memory + store, 0);
    }
    let prompts = 0;
    let answers = 0;
    for (const id of new Set(rows.map((row) => row.sequence))) {
      const { spec, tokens, started } = this.live.get(id)!;
      assert(started !== null, "a row of a sequence that has not started");
      const own = rows.filter((row) => row.sequence === id);
      const isAnswer = own[0].position === tokens.length - 1 && tokens.length > spec.prompt.length;
      if (isAnswer) answers++;
      else prompts += own.length;
    }
    assert(prompts <= (answers > 0 ? mixedTokens : stepTokens), "too many prompt rows");
    assert(rows.length <= maxRows, "too many rows");
    assert(rows.filter((row) => row.wantsLogits).length <= logitRows, "too many logits");
    this.#takeRestores(restores);
    const { total, used, kept } = this.scheduler.pageCounts();
    assertEquals(total, this.options.pages);
    const held = new Set(slotPages.flatMap(({ pages }) => [...pages]));
    assert(used >= held.size && used + kept <= total, "pages don't add up");
  }

  #takeRestores(restores: readonly Restore[]): void {
    for (const restore of restores) {
      const { spec } = this.live.get(restore.sequence)!;
      assert(spec.restorable && !this.restoring.has(spec.id), "a restore nobody asked for");
      assertEquals(restore.pages.length, Math.ceil(restore.tokens.length / PAGE_TOKENS));
      this.#checkParent(restore);
      this.restoring.set(spec.id, { ...restore, root: spec.root });
    }
  }

  /** The tokens asked for are a sequence's, behind whole pages that the parent's key stands for. */
  #checkParent({ sequence, tokens, parent }: Restore): void {
    const { spec, tokens: all } = this.live.get(sequence)!;
    let key = spec.root;
    let at = 0;
    while (key !== parent && at + PAGE_TOKENS <= all.length) {
      key = chainKey(key, all.slice(at, at + PAGE_TOKENS));
      at += PAGE_TOKENS;
    }
    assertEquals(key, parent);
    assertEquals(tokens, all.slice(at, at + tokens.length));
    assert(at + tokens.length <= all.length, "only what is known is asked for");
    this.#keys.add(key);
  }

  /** A page that a row is written into is in no other working sequence's table. */
  #checkWriters({ rows }: Step): void {
    const users = new Map<number, Set<number>>();
    for (const slot of new Set(rows.map((row) => row.slot))) {
      for (const page of this.#tables.get(slot)!) {
        const slots = users.get(page) ?? new Set();
        users.set(page, slots.add(slot));
      }
    }
    for (const { slot, position } of rows) {
      const page = this.#tables.get(slot)![Math.floor(position / PAGE_TOKENS)];
      assertEquals([...users.get(page)!], [slot], "a shared page is written");
    }
  }

  /** Bursts are of answers whose tokens alone are wanted, a row of each at a time. */
  #checkBurst({ rows, restores, started, burst }: Step): void {
    assert(burst && rows.length > 0 && started.length === 0, "no burst");
    this.#takeRestores(restores);
    for (const id of new Set(rows.map(({ sequence }) => sequence))) {
      const { spec, tokens } = this.live.get(id)!;
      assert(spec.tokensOnly && tokens.length > spec.prompt.length, "no answer for a burst");
      const last = rows.findLast(({ sequence }) => sequence === id)!;
      assert(last.position < spec.maxTokens - 1, "a row behind an answer's end");
    }
    assert(rows.every(({ wantsLogits }) => wantsLogits));
  }

  #checkPrefix(
    { spec, tokens }: Known,
    { slot, position, step }: { slot: number; position: number; step: Step },
  ): void {
    const guesses = step.rows.filter((row) =>
      row.sequence === spec.id && row.position >= tokens.length
    );
    const all = [...tokens, ...guesses.map(({ token }) => token)];
    this.#checkSeen({ spec, tokens: all }, { slot, position });
  }

  #checkSeen(
    { spec, tokens: all }: Pick<Known, "spec" | "tokens">,
    { slot, position }: { slot: number; position: number },
  ): void {
    const table = this.#tables.get(slot)!;
    for (let at = 0; at <= position; at++) {
      const seen = this.#pages[table[Math.floor(at / PAGE_TOKENS)]][at % PAGE_TOKENS];
      if (seen === valueOf(spec.root, all[at])) continue;
      throw new Error(
        `row ${spec.id}@${position} sees ${seen} at ${at}, must be ${valueOf(spec.root, all[at])}`,
      );
    }
  }

  /** The page holds what the key says, and the unit before is known. */
  #checkUnit({ page, key, parent, tokens }: FilledUnit): void {
    const content = this.#pages[page].slice(0, tokens).map((value) => Number(value.slice(3)));
    assertEquals(chainKey(parent, content), key, "a unit is not what its page holds");
    assert(this.#keys.has(parent), "a unit without the one before it");
    this.#keys.add(key);
  }
}
