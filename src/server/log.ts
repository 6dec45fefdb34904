/**
 * Log lines. Each entry is one line whatever its values hold: control characters and line separators
 * are escaped, so that nobody who sends a request can forge a line or steer a terminal.
 */

export type LogLevel = "info" | "warn" | "error";

/** Undefined fields are left out. */
export interface LogEntry {
  readonly level: LogLevel;
  /** What happened, in a word. */
  readonly event: string;
  readonly [field: string]: string | number | boolean | undefined;
}

export type LogFormat = "text" | "json";

/** What JSON leaves as it is and terminals or readers of logs may not: C1, DEL, separators, bidi. */
const UNSAFE = /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
/** Values that need no quotes in a text line. */
const PLAIN = /^[A-Za-z0-9_.:/@+*,{}-]+$/;

function escaped(value: string | number | boolean): string {
  return JSON.stringify(value).replace(
    UNSAFE,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function rounded(value: string | number | boolean): string | number | boolean {
  return typeof value === "number" ? Math.round(value * 1_000) / 1_000 : value;
}

/** An entry as one line without its end: an object in JSON, or `name=value` words. */
export function logLine(entry: LogEntry, { format, time }: { format: LogFormat; time: Date }) {
  const fields: [string, string | number | boolean][] = [["time", time.toISOString()]];
  for (const [name, value] of Object.entries(entry)) {
    if (value !== undefined) fields.push([name, rounded(value)]);
  }
  if (format === "json") {
    return `{${fields.map(([name, value]) => `${escaped(name)}:${escaped(value)}`).join(",")}}`;
  }
  return fields.map(([name, value]) => {
    const plain = typeof value !== "string" || PLAIN.test(value);
    return `${name}=${plain ? value : escaped(value)}`;
  }).join(" ");
}
