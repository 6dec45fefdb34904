/**
 * From steps to a recording: leaves out what nobody needs, finds a buffer for each value for as long as
 * it is needed, and copies where a change in place would destroy what is still to be read.
 */

import type { Buffer } from "../../backend/backend.ts";
import type { HalfBuffer, TrainingBackend, TrainingOps } from "../../backend/training.ts";
import type { BufferPool } from "./pool.ts";
import { type Instruction, madeBy, neededBy, type Step, type Value } from "./value.ts";

export interface Program {
  readonly steps: readonly Step[];
  /** The step at which the backward pass begins; what is kept until then may be stored in halves. */
  readonly backwardFrom: number;
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

/** Records a program's ops; returns what its values take. */
export function recordProgram(
  program: Program,
  options: { ops: TrainingOps; pool: BufferPool; backend: TrainingBackend },
): ActivationUse {
  const chosen = choose(program);
  const layout = new Layout(chosen, options);
  for (const [i, instruction] of chosen.instructions.entries()) {
    if (i === chosen.backwardFrom) layout.turn();
    layout.record(i, instruction);
  }
  layout.finish();
  return layout.use;
}

/** Which buffer each value is in, from instruction to instruction. */
class Layout {
  readonly #ops: TrainingOps;
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
    options: { ops: TrainingOps; pool: BufferPool; backend: TrainingBackend },
  ) {
    this.#ops = options.ops;
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

  record(index: number, instruction: Instruction): void {
    const { reads, writes = [], changes = [] } = instruction;
    for (const value of neededBy(instruction)) this.#fetch(value);
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
      this.#ops.copy({ from: this.#placeOf(from), to: this.#placeOf(to), rows: from.rows });
    }
    for (const value of writes) this.#place(value);
    instruction.record(this.#ops, (value) => this.#placeOf(value));
    for (const value of new Set([...neededBy(instruction), ...madeBy(instruction)])) {
      if (taken.has(value)) continue;
      const next = this.#nextUse(value, index);
      if (next === undefined) this.#free(value);
      else if (index < this.#backwardFrom && next >= this.#backwardFrom) this.#park(value);
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
  #park(value: Value): void {
    if (this.#backend.storage === "f32" || value.kind !== "f32" || value.fixed !== null) return;
    const half = this.#pool.takeHalf(value);
    this.#ops.pack({ values: this.#placeOf(value), half, rows: value.rows });
    this.#parked.set(value, half);
    this.#count(bytesOf(value, 2));
    this.#free(value);
  }

  #fetch(value: Value): void {
    const half = this.#parked.get(value);
    if (half === undefined) return;
    this.#place(value);
    this.#ops.unpack({ values: this.#placeOf(value), half, rows: value.rows });
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
