/**
 * The backward pass while it is written down: which gradient belongs to which value, and what the forward
 * pass has left of it.
 */

import type { Buffer } from "../../backend/backend.ts";
import type { GradientTarget } from "../../backend/training_params.ts";
import {
  type Change,
  type Instruction,
  madeBy,
  neededBy,
  renamed,
  type Step,
  Value,
} from "./value.ts";

/** Where an instruction's contribution to a gradient goes. */
export interface Contribution {
  readonly value: Value;
  readonly accumulate: boolean;
  /** What the instruction has to state of it. */
  readonly writes: readonly Value[];
  readonly changes: readonly Change[];
}

/** The target of an op whose contribution lies at `buffer`. */
export function targetOf({ accumulate }: Contribution, buffer: Buffer): GradientTarget {
  return { buffer, accumulate };
}

export class Gradients {
  readonly steps: Step[] = [];
  readonly #gradients = new Map<Value, Value>();
  /**
   * Values that are made anew for the backward pass, by those of the forward pass. Those with a recipe are
   * made by it, whether their op runs again or not, so that gradients are the same in both cases.
   */
  readonly #again = new Map<Value, Value>();
  readonly #gradientValues = new Set<Value>();

  /** The gradient of a value as contributed so far; undefined where nothing depends on the value. */
  of(value: Value): Value | undefined {
    return this.#gradients.get(value);
  }

  set(value: Value, gradient: Value): void {
    this.#gradients.set(value, gradient);
    this.#gradientValues.add(gradient);
  }

  /** Says which value is to be read in the place of one of the forward pass. */
  name(value: Value, instead: Value): void {
    this.#again.set(value, instead);
  }

  /** Adds to the gradient of a value, or begins it. */
  contribute(value: Value): Contribution {
    const from = this.#gradients.get(value);
    const to = value.twin();
    this.set(value, to);
    if (from === undefined) return { value: to, accumulate: false, writes: [to], changes: [] };
    return { value: to, accumulate: true, writes: [], changes: [{ from, to }] };
  }

  /** A gradient that is changed in place into that of another value. */
  change(from: Value, value: Value): Change {
    const to = value.twin();
    this.set(value, to);
    return { from, to };
  }

  /** A value of the backward pass alone. */
  temporary(shape: { kind?: Buffer["kind"]; rows: number; width: number }): Value {
    const value = new Value(shape);
    this.#gradientValues.add(value);
    return value;
  }

  emit(instruction: Instruction): void {
    // Now, since layers that run again later have other names for the same values.
    const names = new Map(
      [...neededBy(instruction), ...madeBy(instruction)].map((
        value,
      ) => [value, this.#ready(value)]),
    );
    this.steps.push([renamed(instruction, (value) => names.get(value) ?? value)]);
  }

  /** Runs steps of the forward pass again; later instructions read what these make. */
  again(steps: readonly Step[]): void {
    const names = new Map<Value, Value>();
    for (const step of steps) {
      for (const value of step.flatMap(madeBy)) {
        if (names.has(value)) continue;
        const twin = value.twin();
        names.set(value, twin);
        if (value.recipe === null) this.#again.set(value, twin);
      }
      this.steps.push(step.map((way) => renamed(way, (value) => names.get(value) ?? value)));
    }
  }

  /** The value to read in the place of one of the forward pass: itself, or what was made in its place. */
  #ready(value: Value): Value {
    if (this.#gradientValues.has(value)) return value;
    const known = this.#again.get(value);
    if (known !== undefined) return known;
    const { recipe } = value;
    if (recipe === null) return value;
    const twin = value.twin();
    this.#again.set(value, twin);
    this.emit({
      reads: recipe.reads,
      writes: [twin],
      record: (ops, at) => recipe.record(ops, at, at(twin)),
    });
    return twin;
  }
}
