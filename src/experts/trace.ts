/**
 * Recorded routing: which experts the gates of a model chose, step by step, for real prompts. A trace is
 * a text of JSON lines. The first says whose routing it is:
 *
 *   {"format":"sluice-routing-trace","version":1,"model":{"name":"…","fingerprint":"…"},
 *    "layers":[3,4,…],"experts":256,"topK":8}
 *
 * A document begins with `{"kind":"arithmetic"}`; each line after it is one forward pass over some rows
 * of it, `experts` having one list a routed layer, `topK` ids a row, row after row:
 *
 *   {"rows":2,"prefill":true,"experts":[[17,4,…],…],"predicted":[[],[4,17,…],…]}
 *
 * `predicted`, where it is there, has the experts that were foreseen for each layer before it ran, in no
 * order and for all rows together; a layer for which nothing was foreseen has an empty list.
 */

import { FormatError } from "../errors.ts";
import { quoted } from "../formats/byte_source.ts";
import { type JsonValue, parseStrictJson } from "../formats/json.ts";

export interface TraceHeader {
  readonly model: { readonly name: string; readonly fingerprint: string };
  /** Numbers of the model's routed layers, first to last. */
  readonly layers: readonly number[];
  /** Experts a layer. */
  readonly experts: number;
  readonly topK: number;
}

/** One forward pass. */
export interface TraceStep {
  readonly rows: number;
  readonly prefill: boolean;
  /** One entry a routed layer: `[rows, topK]` ids. */
  readonly experts: readonly (readonly number[])[];
  /** One entry a routed layer: ids foreseen for it. */
  readonly predicted?: readonly (readonly number[])[];
}

export interface TraceDocument {
  /** What sort of text it is; hit rates are told by kind. */
  readonly kind: string;
  readonly steps: readonly TraceStep[];
}

export interface Trace extends TraceHeader {
  readonly documents: readonly TraceDocument[];
}

const FORMAT = "sluice-routing-trace";
const VERSION = 1;

const MAX_LAYERS = 4096;
const MAX_EXPERTS = 65_536;
const MAX_ROWS = 65_536;
const MAX_TEXT = 256;

/** The first line of a trace, with its line end. */
export function headerLine({ model, layers, experts, topK }: TraceHeader): string {
  return `${JSON.stringify({ format: FORMAT, version: VERSION, model, layers, experts, topK })}\n`;
}

/** The line that begins a document, with its line end. */
export function documentLine(kind: string): string {
  return `${JSON.stringify({ kind })}\n`;
}

/** The line of a step, with its line end. */
export function stepLine({ rows, prefill, experts, predicted }: TraceStep): string {
  return `${JSON.stringify({ rows, prefill, experts, ...(predicted && { predicted }) })}\n`;
}

/** The whole text of a trace. */
export function formatTrace(trace: Trace): string {
  const parts = [headerLine(trace)];
  for (const { kind, steps } of trace.documents) {
    parts.push(documentLine(kind), ...steps.map(stepLine));
  }
  return parts.join("");
}

/**
 * Reads a trace; `name` is the file's, for messages. Throws FormatError naming the line and the field
 * for whatever is not as described above.
 */
export function parseTrace(text: string, name: string): Trace {
  const lines = text.split("\n");
  if (lines[lines.length - 1] === "") lines.pop();
  const header = new Line(lines[0] ?? "", { name, number: 1 });
  const facts = readHeader(header);
  const documents: { kind: string; steps: TraceStep[] }[] = [];
  for (let i = 1; i < lines.length; i++) {
    const line = new Line(lines[i], { name, number: i + 1 });
    if (line.has("kind")) {
      line.onlyKeys(["kind"]);
      documents.push({ kind: line.text("kind"), steps: [] });
      continue;
    }
    const document = documents[documents.length - 1];
    if (document === undefined) {
      throw line.error("the line", "a step without a document", 'after a line with "kind"');
    }
    document.steps.push(readStep(line, facts));
  }
  return { ...facts, documents };
}

function readHeader(line: Line): TraceHeader {
  line.onlyKeys(["format", "version", "model", "layers", "experts", "topK"]);
  const format = line.text("format");
  if (format !== FORMAT) throw line.error('"format"', quoted(format), `"${FORMAT}"`);
  line.whole("version", { minimum: VERSION, maximum: VERSION });
  const model = line.get("model");
  if (!(model instanceof Map)) throw line.error('"model"', "no object", "an object");
  const texts = ["name", "fingerprint"].map((key) => {
    const text = model.get(key);
    if (typeof text === "string" && text.length <= MAX_TEXT) return text;
    throw line.error(`"model.${key}"`, describe(text), `a text of at most ${MAX_TEXT} characters`);
  });
  const experts = line.whole("experts", { minimum: 1, maximum: MAX_EXPERTS });
  const layers = line.numbers(line.get("layers"), { what: '"layers"', below: MAX_LAYERS });
  const ascending = layers.every((layer, i) => i === 0 || layer > layers[i - 1]);
  if (layers.length === 0 || !ascending) {
    throw line.error('"layers"', JSON.stringify(layers).slice(0, 80), "ascending layer numbers");
  }
  return {
    model: { name: texts[0], fingerprint: texts[1] },
    layers,
    experts,
    topK: line.whole("topK", { minimum: 1, maximum: experts }),
  };
}

function readStep(line: Line, { layers, experts, topK }: TraceHeader): TraceStep {
  line.onlyKeys(["rows", "prefill", "experts", "predicted"]);
  const rows = line.whole("rows", { minimum: 1, maximum: MAX_ROWS });
  const prefill = line.get("prefill");
  if (typeof prefill !== "boolean") {
    throw line.error('"prefill"', describe(prefill), "true or false");
  }
  const perLayer = (key: string) => {
    const lists = line.get(key);
    if (!Array.isArray(lists) || lists.length !== layers.length) {
      throw line.error(`"${key}"`, describe(lists), `${layers.length} lists, one a layer`);
    }
    return lists.map((list, i) =>
      line.numbers(list, { what: `"${key}" of layer ${layers[i]}`, below: experts })
    );
  };
  const chosen = perLayer("experts");
  for (const [i, ids] of chosen.entries()) {
    const what = `"experts" of layer ${layers[i]}`;
    if (ids.length !== rows * topK) {
      throw line.error(what, `${ids.length} ids long`, `${rows * topK} (rows times topK)`);
    }
    for (let row = 0; row < rows; row++) {
      const own = ids.slice(row * topK, (row + 1) * topK);
      if (new Set(own).size < topK) {
        throw line.error(`${what}, row ${row}`, `[${own.join(", ").slice(0, 60)}]`, "distinct ids");
      }
    }
  }
  return {
    rows,
    prefill,
    experts: chosen,
    ...(line.has("predicted") && { predicted: perLayer("predicted") }),
  };
}

/** A line's fields, each asked for with what it must be. */
class Line {
  readonly #action: string;
  readonly #fields: ReadonlyMap<string, JsonValue>;

  constructor(text: string, place: { name: string; number: number }) {
    this.#action = `read trace ${quoted(place.name)}, line ${place.number}`;
    const value = parseStrictJson(text, { action: this.#action });
    if (!(value instanceof Map)) throw this.error("the line", describe(value), "a JSON object");
    this.#fields = value as ReadonlyMap<string, JsonValue>;
  }

  has(key: string): boolean {
    return this.#fields.has(key);
  }

  get(key: string): JsonValue | undefined {
    return this.#fields.get(key);
  }

  onlyKeys(keys: readonly string[]): void {
    for (const key of this.#fields.keys()) {
      if (keys.includes(key)) continue;
      throw this.error(`key ${quoted(key)}`, "there", `one of ${keys.join(", ")}`);
    }
  }

  text(key: string): string {
    const value = this.get(key);
    if (typeof value === "string" && value !== "" && value.length <= MAX_TEXT) return value;
    throw this.error(`"${key}"`, describe(value), `a text of 1 to ${MAX_TEXT} characters`);
  }

  whole(key: string, { minimum, maximum }: { minimum: number; maximum: number }): number {
    const value = this.get(key);
    if (typeof value === "number" && Number.isInteger(value)) {
      if (value >= minimum && value <= maximum) return value;
    }
    const must = minimum === maximum ? String(minimum) : `a whole number, ${minimum} to ${maximum}`;
    throw this.error(`"${key}"`, describe(value), must);
  }

  /** A list of whole numbers from 0 to below a bound. */
  numbers(value: JsonValue | undefined, { what, below }: { what: string; below: number }) {
    if (!Array.isArray(value)) throw this.error(what, describe(value), "a list of numbers");
    for (const item of value) {
      const fits = typeof item === "number" && Number.isInteger(item) && item >= 0 && item < below;
      if (!fits) throw this.error(`an entry of ${what}`, describe(item), `from 0 to ${below - 1}`);
    }
    return value as number[];
  }

  error(what: string, is: string, must: string): FormatError {
    return FormatError.of(this.#action, what, is, must);
  }
}

function describe(value: JsonValue | undefined): string {
  if (value === undefined) return "missing";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value instanceof Map) return "an object";
  return typeof value === "string" ? quoted(value) : String(value);
}
