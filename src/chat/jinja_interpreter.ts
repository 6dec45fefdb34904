/**
 * The library's interpreter under a budget: every evaluated node is a step, the clock is looked at now
 * and then, and whatever could grow without bound inside one step is checked before it runs. Where the
 * library is laxer than Python (so that a template which must fail would not) or renders something
 * else, Python's rule holds.
 */

import { Environment, Interpreter } from "@huggingface/jinja";
import { exceeded, MAX_INDENT, type RenderBudget, RenderMeter } from "./jinja_budget.ts";
import { filterName, type JinjaProgram } from "./jinja_program.ts";
import {
  capitalize,
  copyList,
  countOf,
  isList,
  isMapping,
  isString,
  type Node,
  pythonEquals,
  pythonText,
  strip,
  textOf,
  toValue,
  type Value,
} from "./jinja_values.ts";

/** What a loop's iteration costs beside its body: a scope and a dozen values. */
const STEPS_PER_ITERATION = 20;

/** How deep evaluations may nest: what a template itself may, and as much again in macros. */
const MAX_DEPTH = 600;

/** Filters whose result Python computes lazily, so that it has no length and is not JSON. */
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
interface IfNode {
  readonly test: Node;
  readonly body: readonly Node[];
  readonly alternate: readonly Node[];
}
interface ForNode {
  readonly loopvar: Node & { readonly value: string | readonly (Node & { value: string })[] };
  readonly iterable: Node & { readonly lhs?: Node; readonly test?: Node };
  readonly body: readonly Node[];
  readonly defaultBlock: readonly Node[];
}

/** A method of a value, as the library calls it. */
type Method = (args: Value[], scope: Environment) => Value;

/** Thrown by `break` and `continue`; takes along what the blocks it leaves have written. */
class LoopControl extends Error {
  readonly ends: boolean;
  text = "";

  constructor(ends: boolean) {
    super("break or continue outside of a loop");
    this.ends = ends;
  }
}

export class BudgetedInterpreter extends Interpreter {
  readonly #program: JinjaProgram;
  readonly #meter: RenderMeter;
  /** Evaluations that are under way, one in the other; an error that is caught resets it. */
  #depth = 0;
  /** Values computed ahead of the library, which it gets when it evaluates their nodes. */
  readonly #ready = new Map<Node, Value>();
  /** Values that would be generators in Python. */
  readonly #generators = new WeakSet<Value>();

  constructor(scope: Environment, options: { program: JinjaProgram; budget: RenderBudget }) {
    super(scope);
    this.#program = options.program;
    this.#meter = new RenderMeter(options.budget);
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
    this.#meter.charge(1 + (this.#program.sizes.get(node) ?? 0));
    // Counted here, since the library takes a full stack for a variable that does not exist.
    if (++this.#depth > MAX_DEPTH) throw exceeded("its recursion", `${MAX_DEPTH} levels`);
    const value = this.#evaluate(node, scope);
    this.#depth--;
    this.#meter.checkSize(value);
    if (!this.#program.outputs.has(node) || isString(value) || value.type === "UndefinedValue") {
      return value;
    }
    return toValue(this.#text(value));
  }

  #evaluate(node: Node, scope: Environment): Value {
    switch (node.type) {
      case "BinaryExpression":
        return this.#binary(node as Node & BinaryNode, scope);
      case "FilterExpression":
        return this.#filter(node as Node & FilterNode, scope);
      case "MemberExpression":
        return this.#member(node as Node & { object: Node }, scope);
      case "If": {
        const { test, body, alternate } = node as Node & IfNode;
        const holds = this.evaluate(test, scope).__bool__().value;
        return toValue(this.#block(holds ? body : alternate, scope));
      }
      case "For":
        return toValue(this.#for(node as Node & ForNode, scope));
      case "Break":
      case "Continue":
        throw new LoopControl(node.type === "Break");
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
        const equal = pythonEquals(this.#meter.measured(left), this.#meter.measured(right));
        return toValue(equal === (operator === "=="));
      }
      case "~":
        return toValue(this.#text(left) + this.#text(right));
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
    this.#meter.checkUnits((text.value as string).length * count);
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
        return toValue(this.#text(operand));
      case "trim": {
        const chars = textOf(values[0]);
        return toValue(strip(this.#text(operand), { chars, left: true, right: true }));
      }
      case "upper":
        return toValue(this.#text(operand).toUpperCase());
      case "lower":
        return toValue(this.#text(operand).toLowerCase());
      case "capitalize":
        return toValue(capitalize(this.#text(operand)));
      case "list":
        // A list of its own: the generator it was made of stays one.
        return isList(operand) ? copyList(operand) : undefined;
    }
    return undefined;
  }

  /** Throws where the filter's result would be too large, or where Python's filter throws. */
  #checkFilter(name: string, operand: Value, values: readonly Value[]): void {
    const meter = this.#meter;
    switch (name) {
      case "tojson":
        if (operand.type === "UndefinedValue" || this.#generators.has(operand)) {
          throw new TypeError(`a value of type ${operand.type} is not JSON serializable`);
        }
        meter.measured(operand);
        meter.checkIndents(values);
        break;
      case "length":
      case "last":
        if (this.#generators.has(operand)) throw new TypeError("a generator has no length");
        break;
      case "join": {
        meter.measured(operand);
        const count = textOf(operand)?.length ?? countOf(operand);
        meter.checkUnits(count * (textOf(values[0])?.length ?? 0));
        break;
      }
      case "replace":
        meter.checkReplace(operand, values);
        break;
      case "indent":
        meter.checkIndents(values);
        meter.checkUnits((textOf(operand)?.split("\n").length ?? 0) * MAX_INDENT);
        break;
    }
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
        this.#meter.checkReplace(object, args);
        return method(args, inner);
      });
    }
    for (const [name, left, right] of STRIPS) {
      if (is(name)) {
        return wrap(([chars]) => toValue(strip(subject, { chars: textOf(chars), left, right })));
      }
    }
    return is("capitalize") ? wrap(() => toValue(capitalize(subject))) : value;
  }

  /** What a block of statements writes. */
  #block(statements: readonly Node[], scope: Environment): string {
    let text = "";
    try {
      for (const statement of statements) text += textOf(this.evaluate(statement, scope)) ?? "";
    } catch (error) {
      if (error instanceof LoopControl) error.text = text + error.text;
      throw error;
    }
    return text;
  }

  /** What a loop writes. Each iteration has a scope of its own, as in Python. */
  #for(node: Node & ForNode, scope: Environment): string {
    const { iterable, loopvar } = node;
    const isFiltered = iterable.type === "SelectExpression";
    let items = elements(this.evaluate(isFiltered ? iterable.lhs! : iterable, scope));
    this.#meter.charge(items.length * STEPS_PER_ITERATION);
    if (isFiltered) {
      items = items.filter((item) => {
        const inner = new Environment(scope);
        assign(inner, loopvar, item);
        return this.evaluate(iterable.test!, inner).__bool__().value;
      });
    }
    if (items.length === 0) return this.#block(node.defaultBlock, scope);
    const depth = this.#depth;
    let text = "";
    for (let i = 0; i < items.length; i++) {
      const inner = new Environment(scope);
      assign(inner, loopvar, items[i]);
      inner.setVariable("loop", loopState(items, i));
      try {
        text += this.#block(node.body, inner);
      } catch (error) {
        if (!(error instanceof LoopControl)) throw error;
        this.#depth = depth;
        text += error.text;
        if (error.ends) break;
      }
    }
    return text;
  }

  /** Runs the library's own evaluation with values it need not compute again. */
  #with(values: readonly (readonly [Node, Value])[], run: () => Value): Value {
    for (const [node, value] of values) this.#ready.set(node, value);
    const result = run();
    for (const [node] of values) this.#ready.delete(node);
    return result;
  }

  #text(value: Value): string {
    return pythonText(this.#meter.measured(value));
  }
}

const STRIPS = Object.freeze(
  [["strip", true, true], ["lstrip", true, false], ["rstrip", false, true]] as const,
);

/** What a loop runs over: elements, keys, characters, or nothing where the value is undefined. */
function elements(value: Value): readonly Value[] {
  if (isList(value)) return value.value as Value[];
  if (value.type === "UndefinedValue") return [];
  if (isString(value)) return Array.from(value.value as string, toValue);
  if (isMapping(value)) return Array.from((value.value as Map<string, Value>).keys(), toValue);
  throw new TypeError(`a value of type ${value.type} is not iterable`);
}

/** Gives a loop's variable, or each of several, its value. */
function assign(scope: Environment, target: ForNode["loopvar"], value: Value): void {
  if (typeof target.value === "string") {
    scope.setVariable(target.value, value);
    return;
  }
  const parts = elements(value);
  if (parts.length !== target.value.length) {
    throw new TypeError(`expected ${target.value.length} values to unpack, got ${parts.length}`);
  }
  target.value.forEach((name, i) => scope.setVariable(name.value, parts[i]));
}

/** The `loop` variable of iteration `i`. */
function loopState(items: readonly Value[], i: number): Value {
  const { length } = items;
  const state = toValue({
    index: i + 1,
    index0: i,
    revindex: length - i,
    revindex0: length - i - 1,
    first: i === 0,
    last: i === length - 1,
    length,
  });
  const fields = state.value as Map<string, Value>;
  fields.set("previtem", items[i - 1] ?? toValue(undefined));
  fields.set("nextitem", items[i + 1] ?? toValue(undefined));
  return state;
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
