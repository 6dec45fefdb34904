/** Parses a chat template within bounds, and notes what the interpreter needs to know of its nodes. */

import { parse, tokenize } from "@huggingface/jinja";
import { FormatError } from "../errors.ts";
import type { Node } from "./jinja_values.ts";

/** Published templates stay below 32 KiB. */
const MAX_TEMPLATE_UNITS = 256 * 1024;
/** The library looks for the `generation` tag in time quadratic in runs of white space. */
const MAX_SPACE_RUN = 1024;
const MAX_NESTING = 300;

/** A node as the walk sees it: fields of any kind. */
type Fields = Readonly<Record<string, unknown>> & { readonly type: string };

/** A template ready to be interpreted. */
export interface JinjaProgram {
  readonly root: ReturnType<typeof parse>;
  /** Expressions whose value is written to the output. */
  readonly outputs: ReadonlySet<unknown>;
  /** Nodes of a macro or call block, whose definition costs a walk over them. */
  readonly sizes: ReadonlyMap<unknown, number>;
}

/** Statements; every other node in a block is an expression that writes its value. */
const STATEMENTS: ReadonlySet<string> = new Set([
  "Set",
  "If",
  "For",
  "Macro",
  "CallStatement",
  "FilterStatement",
  "Break",
  "Continue",
  "Comment",
]);

/** Filters that a block may be piped through: those whose result is no longer than the block. */
const BLOCK_FILTERS: ReadonlySet<string> = new Set(["trim", "upper", "lower", "safe", "string"]);

/** Parses a template as transformers does (trim_blocks, lstrip_blocks); FormatError on damage. */
export function parseTemplate(source: string, options: { action: string }): JinjaProgram {
  const { action } = options;
  if (source.length > MAX_TEMPLATE_UNITS) {
    throw FormatError.of(action, "its length", source.length, `at most ${MAX_TEMPLATE_UNITS}`);
  }
  checkSpaces(source, action);
  let root: ReturnType<typeof parse>;
  try {
    root = parse(tokenize(source, { trim_blocks: true, lstrip_blocks: true }));
  } catch (error) {
    const reason = error instanceof RangeError ? "nested too deeply" : (error as Error).message;
    throw FormatError.of(action, "the template", `not Jinja (${reason})`, "valid");
  }
  const walker = new Walker(action);
  walker.walk(root as unknown as Fields, 0);
  return { root, outputs: walker.outputs, sizes: walker.sizes };
}

function checkSpaces(source: string, action: string): void {
  let run = 0;
  for (let i = 0; i < source.length; i++) {
    run = /\s/.test(source[i]) ? run + 1 : 0;
    if (run > MAX_SPACE_RUN) {
      throw FormatError.of(action, "a run of white space", "longer", `at most ${MAX_SPACE_RUN}`);
    }
  }
}

class Walker {
  readonly outputs = new Set<unknown>();
  readonly sizes = new Map<unknown, number>();
  readonly #action: string;

  constructor(action: string) {
    this.#action = action;
  }

  /** Visits a node and returns how many there are in it. */
  walk(node: Fields, depth: number): number {
    if (depth > MAX_NESTING) {
      throw FormatError.of(this.#action, "its nesting", "deeper", `at most ${MAX_NESTING}`);
    }
    if (node.type === "FilterStatement") this.#checkBlockFilter(node.filter as Fields);
    let size = 1;
    for (const [field, value] of Object.entries(node)) {
      if (isBlock(node, field)) this.#noteOutputs(value as readonly Fields[]);
      size += this.#walkField(value, depth + 1);
    }
    if (node.type === "Macro" || node.type === "CallStatement") this.sizes.set(node, size);
    return size;
  }

  #walkField(value: unknown, depth: number): number {
    let size = 0;
    if (Array.isArray(value)) {
      for (const item of value) size += this.#walkField(item, depth);
    } else if (value instanceof Map) {
      for (const [key, item] of value) {
        size += this.#walkField(key, depth) + this.#walkField(item, depth);
      }
    } else if (typeof value === "object" && value !== null && "type" in value) {
      size += this.walk(value as Fields, depth);
    }
    return size;
  }

  #noteOutputs(block: readonly Fields[]): void {
    for (const statement of block) {
      if (!STATEMENTS.has(statement.type)) this.outputs.add(statement);
    }
  }

  #checkBlockFilter(filter: Fields): void {
    const name = filter.type === "Identifier" ? String(filter.value) : "one with arguments";
    if (!BLOCK_FILTERS.has(name)) {
      const must = `one of ${[...BLOCK_FILTERS].join(", ")}`;
      throw FormatError.of(this.#action, "the filter of a block", name, must);
    }
  }
}

function isBlock(node: Fields, field: string): boolean {
  return field === "body" || field === "defaultBlock" ||
    (field === "alternate" && node.type === "If");
}

/** The name of a filter expression's filter, "" where it has none. */
export function filterName(filter: Node): string {
  const fields = filter as unknown as Fields;
  const name = fields.type === "CallExpression" ? fields.callee as Fields : fields;
  return name.type === "Identifier" ? String(name.value) : "";
}
