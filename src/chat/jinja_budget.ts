/** What rendering a chat template may cost, and the meter that holds it to that. */

import { CapacityError } from "../errors.ts";
import { countOf, isContainer, measure, textOf, type Value } from "./jinja_values.ts";

export interface RenderBudget {
  /** Wall-clock time. */
  readonly milliseconds: number;
  /** Evaluated nodes; an iteration of a loop counts as several. */
  readonly steps: number;
  /** UTF-16 units of the output, and of every string on the way. */
  readonly outputUnits: number;
}

export const DEFAULT_BUDGET: RenderBudget = Object.freeze({
  milliseconds: 50,
  steps: 1_000_000,
  outputUnits: 1024 * 1024,
});

/** Steps between two looks at the clock. */
const STEPS_PER_LOOK = 64;
/** Elements a list made by a template may have. */
export const MAX_LIST = 100_000;
/** Spaces that `tojson` and `indent` may put in front of a line. */
export const MAX_INDENT = 64;

/** The error of a budget that is used up. */
export function exceeded(what: string, limit: string): CapacityError {
  return new CapacityError(`cannot render the chat template: ${what} exceeds ${limit}`);
}

/** Counts down one rendering's budget; every method throws CapacityError where it is used up. */
export class RenderMeter {
  readonly #budget: RenderBudget;
  readonly #deadline: number;
  #steps = 0;

  constructor(budget: RenderBudget) {
    this.#budget = budget;
    this.#deadline = performance.now() + budget.milliseconds;
  }

  charge(steps: number): void {
    const before = this.#steps;
    this.#steps += steps;
    if (this.#steps > this.#budget.steps) throw exceeded("its work", `${this.#budget.steps} steps`);
    if (Math.floor(before / STEPS_PER_LOOK) === Math.floor(this.#steps / STEPS_PER_LOOK)) return;
    if (performance.now() > this.#deadline) {
      throw exceeded("its time", `${this.#budget.milliseconds} ms`);
    }
  }

  /** The value, unless it is too large to be written out or compared. */
  measured(value: Value): Value {
    if (isContainer(value)) this.checkUnits(measure(value, this.#budget.outputUnits));
    return value;
  }

  /** Checks a value's own size and charges for it, since whatever is done with it may take as long. */
  checkSize(value: Value): void {
    const text = textOf(value);
    if (text !== undefined) {
      this.checkUnits(text.length);
      this.charge(text.length >> 10);
      return;
    }
    const count = countOf(value);
    if (count > MAX_LIST) throw exceeded("a list", `${MAX_LIST} elements`);
    this.charge(count >> 5);
  }

  checkUnits(units: number): void {
    if (units > this.#budget.outputUnits) {
      throw exceeded("its output", `${this.#budget.outputUnits} characters`);
    }
  }

  /** Checks the arguments of a filter, of which numbers are indentations. */
  checkIndents(values: readonly Value[]): void {
    if (values.some((value) => typeof value.value === "number" && value.value > MAX_INDENT)) {
      throw exceeded("an indentation", `${MAX_INDENT} spaces`);
    }
  }

  /** Checks how long `operand.replace(...values)` will be. */
  checkReplace(operand: Value, values: readonly Value[]): void {
    const [subject, from, to] = [textOf(operand), textOf(values[0]), textOf(values[1])];
    if (subject === undefined || from === undefined || to === undefined) return;
    let count = subject.length + 1;
    if (from !== "") {
      count = 0;
      for (let at = subject.indexOf(from); at >= 0; at = subject.indexOf(from, at + from.length)) {
        count++;
      }
    }
    this.checkUnits(subject.length + count * Math.max(0, to.length - from.length));
  }
}
