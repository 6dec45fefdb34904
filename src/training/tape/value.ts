/**
 * What a recording is made of: values, each written once, and instructions that make them of others. Which
 * buffer a value lies in is decided when all instructions are known, see `program.ts`.
 */

import type { Buffer } from "../../backend/backend.ts";
import type { TrainingOps } from "../../backend/training.ts";

/** Where a value lies while an instruction is recorded. */
export type Places = (value: Value) => Buffer;

/** How to make a value again from others, where keeping it would cost more. */
export interface Recipe {
  readonly reads: readonly Value[];
  /** Records ops that write the value to `to`. */
  record(ops: TrainingOps, at: Places, to: Buffer): void;
}

/** One state of a buffer: what an instruction leaves in it. */
export class Value {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
  /** The buffer of a value that lies in one for good, as what the host writes does. */
  readonly fixed: Buffer | null;
  readonly recipe: Recipe | null;
  /** The model's buffer that holds it in the forward pass. */
  readonly handle: Buffer | null;

  constructor(
    shape: { kind?: Buffer["kind"]; rows: number; width: number },
    options: { fixed?: Buffer; recipe?: Recipe; handle?: Buffer } = {},
  ) {
    this.kind = shape.kind ?? "f32";
    this.rows = shape.rows;
    this.width = shape.width;
    this.fixed = options.fixed ?? null;
    this.recipe = options.recipe ?? null;
    this.handle = options.handle ?? null;
  }

  /** Another value of this shape, without a place or recipe. */
  twin(): Value {
    return new Value(this, this.handle ? { handle: this.handle } : {});
  }
}

/** A change in place: `to` takes `from`'s buffer where nobody needs `from` any more. */
export interface Change {
  readonly from: Value;
  readonly to: Value;
}

export interface Instruction {
  readonly reads: readonly Value[];
  /** Values that it makes, whatever lay there before. */
  readonly writes?: readonly Value[];
  readonly changes?: readonly Change[];
  /** It does more than make values: adds to gradients of weights or to totals. */
  readonly acts?: boolean;
  record(ops: TrainingOps, at: Places): void;
  /** Instead of `record`: what the host does with values, between the plans before and after it. */
  readonly host?: (at: Places) => HostWork;
}

/** Work between two plans: what the one has computed is read, and what the other needs is written. */
export type HostWork = () => Promise<void>;

/** Ways to make some of the same values, the cheapest first: the first that makes all that are needed is taken. */
export type Step = readonly Instruction[];

/** What an instruction makes. */
export function madeBy(
  { writes = [], changes = [] }: Pick<Instruction, "writes" | "changes">,
): Value[] {
  return [...writes, ...changes.map(({ to }) => to)];
}

/** What an instruction needs. */
export function neededBy({ reads, changes = [] }: Instruction): Value[] {
  return [...reads, ...changes.map(({ from }) => from)];
}

/** The instruction with other values in the place of its own. */
export function renamed(instruction: Instruction, rename: (value: Value) => Value): Instruction {
  const { reads, writes, changes, acts, host } = instruction;
  return {
    reads: reads.map(rename),
    ...(writes && { writes: writes.map(rename) }),
    ...(changes && {
      changes: changes.map(({ from, to }) => ({ from: rename(from), to: rename(to) })),
    }),
    ...(acts && { acts }),
    record: (ops, at) => instruction.record(ops, (value) => at(rename(value))),
    ...(host && { host: (at) => host((value) => at(rename(value))) }),
  };
}
