/**
 * From steps to a recording: leaves out what nobody needs, finds a buffer for each value for as long as
 * it is needed, and copies where a change in place would destroy what is still to be read.
 */

import type { Buffer, Plan } from "../../backend/backend.ts";
import type { HalfBuffer, TrainingBackend, TrainingOps } from "../../backend/training.ts";
import type { BufferPool } from "./pool.ts";
import {
  type HostWork,
  type Instruction,
  madeBy,
  neededBy,
  type Step,
  type Value,
} from "./value.ts";

export interface Program {
  readonly steps: readonly Step[];
  /** The step at which the backward pass begins; what is kept until then may be stored in halves. */
  readonly backwardFrom: number;
  /** The backward pass is a plan of its own, before which other programs' plans may run. */
  readonly apart?: boolean;
}

/** A program as it runs: plans, and what the host does between them. */
export interface Recorded {
  readonly forward: readonly (Plan | HostWork)[];
  /** Part of `forward` where it isn't apart. */
  readonly backward: readonly (Plan | HostWork)[];
  readonly use: ActivationUse;
}

/** What a program takes while it runs. */
export interface ActivationUse {
  /** Bytes of all values that are needed at the same time, at most. */
  readonly peakBytes: number;
  /** Bytes of those that the forward pass leaves to the backward pass. */
  readonly keptBytes: number;
}

/** The instructions that are needed, in order, with the backward pass's first. */
interface Chosen {
  readonly instructions: readonly Instruction[];
  readonly backwardFrom: number;
}

/** Of each step the cheapest way that makes what later ones need; steps that make nothing such are left out. */
export function choose({ steps, backwardFrom }: Program): Chosen {
  const needed = new Set<Value>();
  const instructions: Instruction[] = [];
  let backwardCount = 0;
  for (let i = steps.length - 1; i >= 0; i--) {
    const made = new Set(steps[i].flatMap(madeBy));
    const wanted = [...made].filter((value) => needed.has(value));
    if (wanted.length === 0 && !steps[i].some(({ acts }) => acts)) continue;
    const way = steps[i].find((instruction) => {
      const makes = new Set(madeBy(instruction));
      return wanted.every((value) => makes.has(value));
    });
    if (way === undefined) throw new Error("no way of a step makes all that is needed of it");
    for (const value of madeBy(way)) needed.delete(value);
    for (const value of neededBy(way)) needed.add(value);
    instructions.push(way);
    if (i >= backwardFrom) backwardCount++;
  }
  const missing = [...needed].find(({ fixed }) => fixed === null);
  if (missing !== undefined) {
    throw new RangeError(
      `cannot record a training step: a value of ${missing.rows} x ${missing.width} is read before ` +
        "it is written, must be the host's or an earlier op's",
    );
  }
  instructions.reverse();
  return { instructions, backwardFrom: instructions.length - backwardCount };
}

/** Records a program as plans. Buffers are the pool's; what lies in them is gone when another plan has run. */
export function recordProgram(
  program: Program,
  options: { pool: BufferPool; backend: TrainingBackend },
): Recorded {
  const chosen = choose(program);
  const layout = new Layout(chosen, options);
  const { instructions, backwardFrom } = chosen;
  const parts: { forward: (Plan | HostWork)[]; backward: (Plan | HostWork)[] } = {
    forward: [],
    backward: [],
  };
  for (const run of runsOf(chosen, program.apart === true)) {
    const list = program.apart && run.start >= backwardFrom ? parts.backward : parts.forward;
    const [first] = instructions.slice(run.start);
    if (first.host !== undefined) {
      list.push(layout.host(run.start, first));
      continue;
    }
    list.push(options.backend.recordTraining((ops) => {
      for (let i = run.start; i < run.end; i++) {
        if (i === backwardFrom) layout.turn();
        layout.record(ops, { index: i, instruction: instructions[i] });
      }
    }));
  }
  layout.finish();
  return { ...parts, use: layout.use };
}

/** Instructions that make one plan, or the one that is the host's. */
function runsOf(
  { instructions, backwardFrom }: Chosen,
  apart: boolean,
): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = [];
  let start = 0;
  for (let i = 1; i <= instructions.length; i++) {
    const cut = i === instructions.length || instructions[i].host !== undefined ||
      instructions[i - 1].host !== undefined || (apart && i === backwardFrom);
    if (!cut) continue;
    runs.push({ start, end: i });
    start = i;
  }
  return runs;
}

/** Which buffer each value is in, from instruction to instruction. */
class Layout {
  readonly #pool: BufferPool;
  readonly #backend: TrainingBackend;
  readonly #backwardFrom: number;
  /** Instructions that need each value, in order. */
  readonly #uses = new Map<Value, number[]>();
  readonly #places = new Map<Value, Buffer>();
  readonly #parked = new Map<Value, HalfBuffer>();
  #bytes = 0;
  #peakBytes = 0;
  #keptBytes = 0;

  constructor(
    { instructions, backwardFrom }: Chosen,
    options: { pool: BufferPool; backend: TrainingBackend },
  ) {
    this.#pool = options.pool;
    this.#backend = options.backend;
    this.#backwardFrom = backwardFrom;
    for (const [i, instruction] of instructions.entries()) {
      for (const value of new Set(neededBy(instruction))) {
        const uses = this.#uses.get(value);
        if (uses === undefined) this.#uses.set(value, [i]);
        else uses.push(i);
      }
    }
  }

  get use(): ActivationUse {
    return { peakBytes: this.#peakBytes, keptBytes: this.#keptBytes };
  }

  /** Notes what the forward pass has left. */
  turn(): void {
    this.#keptBytes = this.#bytes;
  }

  record(
    ops: TrainingOps,
    { index, instruction }: { index: number; instruction: Instruction },
  ): void {
    const taken = this.#prepare(ops, { index, instruction });
    instruction.record(ops, (value) => this.#placeOf(value));
    this.#settle(ops, { index, instruction, taken });
  }

  /** What the host does with the places of an instruction's values, which nothing may have to move for. */
  host(index: number, instruction: Instruction): HostWork {
    const taken = this.#prepare(null, { index, instruction });
    const work = instruction.host!((value) => this.#placeOf(value));
    this.#settle(null, { index, instruction, taken });
    return work;
  }

  /** Gives an instruction's values their places; returns those whose places were taken over. */
  #prepare(
    ops: TrainingOps | null,
    { index, instruction }: { index: number; instruction: Instruction },
  ): Set<Value> {
    const { reads, writes = [], changes = [] } = instruction;
    for (const value of neededBy(instruction)) this.#fetch(ops, value);
    const taken = new Set<Value>();
    for (const { from, to } of changes) {
      const isFree = from.fixed === null && !reads.includes(from) &&
        this.#nextUse(from, index) === undefined;
      if (isFree && !taken.has(from)) {
        taken.add(from);
        this.#places.set(to, this.#placeOf(from));
        this.#places.delete(from);
        continue;
      }
      this.#place(to);
      needed(ops).copy({ from: this.#placeOf(from), to: this.#placeOf(to), rows: from.rows });
    }
    for (const value of writes) this.#place(value);
    return taken;
  }

  /** Frees or parks what an instruction has left. */
  #settle(
    ops: TrainingOps | null,
    options: { index: number; instruction: Instruction; taken: ReadonlySet<Value> },
  ): void {
    const { index, instruction, taken } = options;
    for (const value of new Set([...neededBy(instruction), ...madeBy(instruction)])) {
      if (taken.has(value)) continue;
      const next = this.#nextUse(value, index);
      if (next === undefined) this.#free(value);
      else if (index < this.#backwardFrom && next >= this.#backwardFrom) this.#park(ops, value);
    }
  }

  finish(): void {
    if (this.#places.size + this.#parked.size > 0) throw new Error("a value has kept its buffer");
  }

  #nextUse(value: Value, index: number): number | undefined {
    return this.#uses.get(value)?.find((use) => use > index);
  }

  #placeOf(value: Value): Buffer {
    const place = value.fixed ?? this.#places.get(value);
    if (place === undefined) throw new Error("a value is used that has no place");
    return place;
  }

  #place(value: Value): void {
    if (value.fixed !== null) return;
    const buffer = this.#pool.take(value);
    this.#places.set(value, buffer);
    this.#count(bytesOf(value, 4));
  }

  #free(value: Value): void {
    const buffer = this.#places.get(value);
    if (buffer === undefined) return;
    this.#places.delete(value);
    this.#pool.give(buffer);
    this.#count(-bytesOf(value, 4));
  }

  /** Stores what only the backward pass reads again in halves, where the backend does. */
  #park(ops: TrainingOps | null, value: Value): void {
    if (this.#backend.storage === "f32" || value.kind !== "f32" || value.fixed !== null) return;
    const half = this.#pool.takeHalf(value);
    needed(ops).pack({ values: this.#placeOf(value), half, rows: value.rows });
    this.#parked.set(value, half);
    this.#count(bytesOf(value, 2));
    this.#free(value);
  }

  #fetch(ops: TrainingOps | null, value: Value): void {
    const half = this.#parked.get(value);
    if (half === undefined) return;
    this.#place(value);
    needed(ops).unpack({ values: this.#placeOf(value), half, rows: value.rows });
    this.#parked.delete(value);
    this.#pool.giveHalf(half);
    this.#count(-bytesOf(value, 2));
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
  }
}

function bytesOf({ rows, width }: Value, each: number): number {
  return rows * width * each;
}

function needed(ops: TrainingOps | null): TrainingOps {
  if (ops !== null) return ops;
  throw new Error("the host cannot change a value in place that is read again");
}
