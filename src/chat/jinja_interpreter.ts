/**
 * The library's interpreter under a budget: every evaluated node is a step, the clock is looked at now
 * and then, and whatever could grow without bound inside one step is checked before it runs. Where the
 * library is laxer than Python (so that a template which must fail would not), Python's rule holds.
 */

import { type Environment, Interpreter } from "@huggingface/jinja";
import { CapacityError } from "../errors.ts";
import { filterName, type JinjaProgram } from "./jinja_program.ts";
import {
  capitalize,
  countOf,
  isContainer,
  isList,
  isString,
  measure,
  type Node,
  pythonEquals,
  pythonText,
  strip,
  toValue,
  type Value,
} from "./jinja_values.ts";

/** What rendering may cost. */
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
/** What a loop's iteration costs beside its body: the library makes two scopes and ten values. */
const STEPS_PER_ITERATION = 20;
/** Elements a list made by a template may have. */
const MAX_LIST = 100_000;
/** Spaces that `tojson` and `indent` may put in front of a line. */
const MAX_INDENT = 64;

/** Filters whose result Python computes lazily, so that it is no list and not JSON. */
const GENERATORS: ReadonlySet<string> = new Set([
  "map",
  "select",
  "reject",
  "selectattr",
  "rejectattr",
  "unique",
  "items",
]);

/** Nodes with the fields that are used here; the library does not export their types. */
interface BinaryNode {
  readonly operator: { readonly value: string };
  readonly left: Node;
  readonly right: Node;
}
interface FilterNode {
  readonly operand: Node;
  readonly filter: Node & { readonly args?: readonly Node[] };
}

/** A method of a value, as the library calls it. */
type Method = (args: Value[], scope: Environment) => Value;

export class BudgetedInterpreter extends Interpreter {
  readonly #program: JinjaProgram;
  readonly #budget: RenderBudget;
  readonly #deadline: number;
  #steps = 0;
  /** Values computed ahead of the library, which it gets when it evaluates their nodes. */
  readonly #ready = new Map<Node, Value>();
  /** Values that would be generators in Python. */
  readonly #generators = new WeakSet<Value>();

  constructor(scope: Environment, options: { program: JinjaProgram; budget: RenderBudget }) {
    super(scope);
    this.#program = options.program;
    this.#budget = options.budget;
    this.#deadline = performance.now() + options.budget.milliseconds;
  }

  /** Renders the template; CapacityError where the budget is used up. */
  render(): string {
    return this.run(this.#program.root).value as string;
  }

  override evaluate(node: Node | undefined, scope: Environment): Value {
    if (node === undefined || node === null) return super.evaluate(node, scope);
    const ready = this.#ready.get(node);
    if (ready !== undefined) {
      this.#ready.delete(node);
      return ready;
    }
    this.#charge(1 + (this.#program.sizes.get(node) ?? 0));
    const value = this.#evaluate(node, scope);
    this.#checkSize(value);
    if (!this.#program.outputs.has(node) || isString(value) || value.type === "UndefinedValue") {
      return value;
    }
    return toValue(pythonText(this.#measured(value)));
  }

  #evaluate(node: Node, scope: Environment): Value {
    switch (node.type) {
      case "BinaryExpression":
        return this.#binary(node as Node & BinaryNode, scope);
      case "FilterExpression":
        return this.#filter(node as Node & FilterNode, scope);
      case "MemberExpression":
        return this.#member(node as Node & { object: Node }, scope);
      case "For":
        return this.#for(node as Node & { iterable: Node & { lhs?: Node } }, scope);
      default:
        return super.evaluate(node, scope);
    }
  }

  #binary(node: Node & BinaryNode, scope: Environment): Value {
    const operator = node.operator.value;
    if (operator === "and" || operator === "or") return super.evaluate(node, scope);
    const left = this.evaluate(node.left, scope);
    const right = this.evaluate(node.right, scope);
    switch (operator) {
      case "==":
      case "!=": {
        const equal = pythonEquals(this.#measured(left), this.#measured(right));
        return toValue(equal === (operator === "=="));
      }
      case "~":
        return toValue(pythonText(this.#measured(left)) + pythonText(this.#measured(right)));
      case "+":
        if (isString(left) !== isString(right)) {
          throw new TypeError(`can only concatenate strings, got ${left.type} and ${right.type}`);
        }
        break;
      case "*":
        if (isString(left) && right.type === "IntegerValue") return this.#repeat(left, right);
        if (isString(right) && left.type === "IntegerValue") return this.#repeat(right, left);
        break;
    }
    return this.#with([[node.left, left], [node.right, right]], () => super.evaluate(node, scope));
  }

  #repeat(text: Value, times: Value): Value {
    const count = Math.max(0, times.value as number);
    this.#checkUnits((text.value as string).length * count);
    return toValue((text.value as string).repeat(count));
  }

  #filter(node: Node & FilterNode, scope: Environment): Value {
    const operand = this.evaluate(node.operand, scope);
    const argumentNodes = (node.filter.args ?? []).map(innerNode);
    const values = argumentNodes.map((argument) => this.evaluate(argument, scope));
    const name = filterName(node.filter);
    const own = this.#ownFilter(name, operand, values);
    if (own !== undefined) return own;
    this.#checkFilter(name, operand, values);
    const ready: [Node, Value][] = argumentNodes.map((argument, i) => [argument, values[i]]);
    ready.push([node.operand, operand]);
    // The first of no elements is missing altogether in the library.
    const value = this.#with(ready, () => super.evaluate(node, scope)) ?? toValue(undefined);
    if (GENERATORS.has(name) && isList(value)) this.#generators.add(value);
    return value;
  }

  /** Filters that the library lacks or does otherwise than Python. */
  #ownFilter(name: string, operand: Value, values: readonly Value[]): Value | undefined {
    switch (name) {
      case "string":
        return toValue(pythonText(this.#measured(operand)));
      case "list":
        // A list of its own: the generator it was made of stays one.
        return isList(operand) ? copyList(operand) : undefined;
      case "trim":
        return isString(operand)
          ? toValue(
            strip(operand.value as string, { chars: text(values[0]), left: true, right: true }),
          )
          : undefined;
      case "capitalize":
        return isString(operand) ? toValue(capitalize(operand.value as string)) : undefined;
    }
    return undefined;
  }

  /** Throws where the filter's result would be too large, or where Python's filter throws. */
  #checkFilter(name: string, operand: Value, values: readonly Value[]): void {
    switch (name) {
      case "tojson":
        if (operand.type === "UndefinedValue" || this.#generators.has(operand)) {
          throw new TypeError(`a value of type ${operand.type} is not JSON serializable`);
        }
        this.#measured(operand);
        this.#checkIndents(values);
        break;
      case "length":
      case "count":
      case "last":
        if (this.#generators.has(operand)) throw new TypeError("a generator has no length");
        break;
      case "join": {
        this.#measured(operand);
        const separator = text(values[0]) ?? "";
        const count = isString(operand) ? (operand.value as string).length : countOf(operand);
        this.#checkUnits(count * separator.length);
        break;
      }
      case "replace":
        this.#checkReplace(operand, values);
        break;
      case "indent": {
        this.#checkIndents(values);
        const lines = isString(operand) ? (operand.value as string).split("\n").length : 0;
        this.#checkUnits(lines * MAX_INDENT);
        break;
      }
    }
  }

  #checkIndents(values: readonly Value[]): void {
    if (
      values.some((value) => value.type === "IntegerValue" && value.value as number > MAX_INDENT)
    ) {
      throw exceeded("an indentation", `${MAX_INDENT} spaces`);
    }
  }

  #checkReplace(operand: Value, values: readonly Value[]): void {
    const [from, to] = [text(values[0]), text(values[1])];
    if (!isString(operand) || from === undefined || to === undefined) return;
    const length = (operand.value as string).length;
    let count = length + 1;
    if (from !== "") {
      count = 0;
      const subject = operand.value as string;
      for (let at = subject.indexOf(from); at >= 0; at = subject.indexOf(from, at + from.length)) {
        count++;
      }
    }
    this.#checkUnits(length + count * Math.max(0, to.length - from.length));
  }

  /** Methods of strings are wrapped on their way out, for they may be called under another name. */
  #member(node: Node & { object: Node }, scope: Environment): Value {
    const object = this.evaluate(node.object, scope);
    const value = this.#with([[node.object, object]], () => super.evaluate(node, scope));
    if (!isString(object) || value.type !== "FunctionValue") return value;
    const subject = object.value as string;
    const method = value.value as Method;
    const builtins = object.builtins as ReadonlyMap<string, Value>;
    const is = (name: string) => builtins.get(name) === value;
    const wrap = (run: Method) => new (value.constructor as new (run: Method) => Value)(run);
    if (is("replace")) {
      return wrap((args, inner) => {
        this.#checkReplace(object, args);
        return method(args, inner);
      });
    }
    for (const [name, left, right] of STRIPS) {
      if (is(name)) {
        return wrap(([chars]) => toValue(strip(subject, { chars: text(chars), left, right })));
      }
    }
    return is("capitalize") ? wrap(() => toValue(capitalize(subject))) : value;
  }

  #for(node: Node & { iterable: Node & { lhs?: Node } }, scope: Environment): Value {
    const source = node.iterable.type === "SelectExpression" ? node.iterable.lhs! : node.iterable;
    const list = this.evaluate(source, scope);
    this.#charge(countOf(list) * STEPS_PER_ITERATION);
    // What is undefined has no elements in Jinja; the library would refuse it.
    const items = list.type === "UndefinedValue" ? toValue([]) : list;
    return this.#with([[source, items]], () => super.evaluate(node, scope));
  }

  /** Runs the library's own evaluation with values it need not compute again. */
  #with(values: readonly (readonly [Node, Value])[], run: () => Value): Value {
    for (const [node, value] of values) this.#ready.set(node, value);
    const result = run();
    for (const [node] of values) this.#ready.delete(node);
    return result;
  }

  /** The value, unless it is too large to be written out or compared. */
  #measured(value: Value): Value {
    if (isContainer(value)) this.#checkUnits(measure(value, this.#budget.outputUnits));
    return value;
  }

  #checkSize(value: Value): void {
    if (isString(value)) this.#checkUnits((value.value as string).length);
    else if (isList(value) && (value.value as Value[]).length > MAX_LIST) {
      throw exceeded("a list", `${MAX_LIST} elements`);
    }
  }

  #checkUnits(units: number): void {
    if (units > this.#budget.outputUnits) {
      throw exceeded("its output", `${this.#budget.outputUnits} characters`);
    }
  }

  #charge(steps: number): void {
    const before = this.#steps;
    this.#steps += steps;
    if (this.#steps > this.#budget.steps) throw exceeded("its work", `${this.#budget.steps} steps`);
    if (Math.floor(before / STEPS_PER_LOOK) === Math.floor(this.#steps / STEPS_PER_LOOK)) return;
    if (performance.now() > this.#deadline) {
      throw exceeded("its time", `${this.#budget.milliseconds} ms`);
    }
  }
}

const STRIPS = Object.freeze(
  [["strip", true, true], ["lstrip", true, false], ["rstrip", false, true]] as const,
);

function exceeded(what: string, limit: string): CapacityError {
  return new CapacityError(`cannot render the chat template: ${what} exceeds ${limit}`);
}

/** The expression inside an argument: `name=x`, `*x` and `**x` evaluate x. */
function innerNode(argument: Node): Node {
  const fields = argument as Node & { value?: Node; argument?: Node };
  if (argument.type === "KeywordArgumentExpression") return fields.value!;
  if (argument.type === "SpreadExpression" || argument.type === "KeywordSpreadExpression") {
    return fields.argument!;
  }
  return argument;
}

function text(value: Value | undefined): string | undefined {
  return value !== undefined && isString(value) ? value.value as string : undefined;
}

function copyList(list: Value): Value {
  const make = list.constructor as new (items: Value[]) => Value;
  return new make((list.value as Value[]).slice());
}
