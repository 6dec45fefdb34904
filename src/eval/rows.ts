/** Rows of data sets, with fields that are looked at before they are used. */

import { FormatError } from "../errors.ts";
import { quoted } from "../formats/byte_source.ts";

/** A row of a JSONL file; `name` and its line are for messages. */
export class DataRow {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #action: string;
  readonly #line: number;

  constructor(fields: Readonly<Record<string, unknown>>, place: { name: string; line: number }) {
    this.#fields = fields;
    this.#line = place.line;
    this.#action = `read ${quoted(place.name)}, line ${place.line}`;
  }

  /** The row's own id, or else its line. */
  get id(): string {
    const { id } = this.#fields;
    return typeof id === "string" || typeof id === "number" ? String(id) : `line ${this.#line}`;
  }

  get(key: string): unknown {
    return this.#fields[key];
  }

  text(key: string): string {
    const value = this.#fields[key];
    if (typeof value === "string" && value.trim() !== "") return value;
    throw this.error(key, value, "a text that is not empty");
  }

  error(key: string, is: unknown, must: string): FormatError {
    const shown = is === undefined ? "missing" : JSON.stringify(is).slice(0, 60);
    return FormatError.of(this.#action, `"${key}"`, shown, must);
  }
}

/** All rows of a JSONL text. Throws FormatError for a line that is no object, and where there is none. */
export function readRows(text: string, name: string): DataRow[] {
  const rows: DataRow[] = [];
  for (const [i, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    rows.push(
      new DataRow(parseObject(line, `${quoted(name)}, line ${i + 1}`), {
        name,
        line: i + 1,
      }),
    );
  }
  if (rows.length > 0) return rows;
  throw FormatError.of(`read ${quoted(name)}`, "the file", "empty", "JSON lines");
}

function parseObject(text: string, place: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw FormatError.of(`read ${place}`, "the line", "not JSON", "a JSON object");
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw FormatError.of(`read ${place}`, "the line", "something else", "a JSON object");
}
