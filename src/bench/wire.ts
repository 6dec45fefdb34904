/**
 * What the benchmark and its drivers say to each other. A driver is a process that holds one engine
 * with one model: it prints `ready` once, then one `timing` per request read from standard input (one
 * JSON object a line), and ends with its input. Lines without the mark are an engine's own chatter.
 */

import { FormatError } from "../errors.ts";

/** Marks a driver's lines. */
export const MARK = "@bench ";

export interface Ready {
  /** Seconds from the call that opens the model until it can take a request. */
  readonly loadSeconds: number;
  /** What the engine calls itself, with its version. */
  readonly version: string;
}

/** Evaluate the prompt from scratch, then generate greedily, end-of-text tokens included. */
export interface Request {
  readonly prompt: readonly number[];
  /** Tokens to generate, at least one: the first one belongs to the prefill. */
  readonly generate: number;
  /** Sequences decoded side by side, where the driver can do that; 1 where absent. */
  readonly sequences?: number;
  /** Tokens that end the answer early, where the driver can do that; none where absent. */
  readonly stopTokens?: readonly number[];
}

/** What decoding an answer asked of routed experts, from a driver that pages them. */
export interface PagingCounts {
  /** Experts of all layers in memory at the end. */
  readonly resident: number;
  /** Of the choices: in memory, asked for ahead, waited for. */
  readonly hits: number;
  readonly prefetched: number;
  readonly misses: number;
  readonly bytesRead: number;
  /** Experts that looking ahead expected, and those of them that were chosen. */
  readonly predicted: number;
  readonly predictedRight: number;
  /** A checksum of the answer's tokens. */
  readonly answer: number;
}

export interface Timing extends Partial<PagingCounts> {
  /** Tokens of the prompt by the engine's own count. */
  readonly promptTokens: number;
  /** Seconds in which the prompt was evaluated. */
  readonly prefillSeconds: number;
  /** Seconds from the request to its first token, as the engine's caller sees it. */
  readonly firstSeconds: number;
  /** Tokens after the first one, and the seconds they took. */
  readonly decodeTokens: number;
  readonly decodeSeconds: number;
  /** Different experts that were chosen, on average over a step's layers with routed experts. */
  readonly expertsRead?: number;
}

const READY = { loadSeconds: "number", version: "string" } as const;
const TIMING = {
  promptTokens: "number",
  prefillSeconds: "number",
  firstSeconds: "number",
  decodeTokens: "number",
  decodeSeconds: "number",
} as const;
const OPTIONAL_OF_TIMING = {
  expertsRead: "number",
  resident: "number",
  hits: "number",
  prefetched: "number",
  misses: "number",
  bytesRead: "number",
  predicted: "number",
  predictedRight: "number",
  answer: "number",
} as const;

/** Reads a marked line's `ready`; throws FormatError where it is something else. */
export function parseReady(line: string): Ready {
  return parseMarked<Ready>(line, { kind: "ready", fields: READY });
}

/** Reads a marked line's `timing`; throws FormatError where it is something else. */
export function parseTiming(line: string): Timing {
  return parseMarked<Timing>(line, {
    kind: "timing",
    fields: TIMING,
    optional: OPTIONAL_OF_TIMING,
  });
}

/** `numbers` are a list of them. */
type FieldTypes = Readonly<Record<string, "number" | "numbers" | "string">>;

/** Reads a marked line's object of this kind; throws FormatError where it is something else. */
export function parseMarked<T>(
  line: string,
  { kind, fields, optional = {} }: { kind: string; fields: FieldTypes; optional?: FieldTypes },
): T {
  const refuse = () =>
    FormatError.of(
      "read a driver's answer",
      "the line",
      JSON.stringify(line.slice(0, 200)),
      `${MARK}{"${kind}": {${Object.keys(fields).join(", ")}}}, numbers finite and not negative`,
    );
  if (!line.startsWith(MARK)) throw refuse();
  let value: unknown;
  try {
    value = JSON.parse(line.slice(MARK.length))[kind];
  } catch {
    throw refuse();
  }
  if (typeof value !== "object" || value === null) throw refuse();
  const record = value as Record<string, unknown>;
  for (const [name, type] of Object.entries({ ...fields, ...optional })) {
    const field = record[name];
    if (field === undefined && name in optional) continue;
    const isRight = type === "string"
      ? typeof field === "string"
      : type === "numbers"
      ? Array.isArray(field) && field.every(isAmount)
      : isAmount(field);
    if (!isRight) throw refuse();
  }
  return record as T;
}

function isAmount(value: unknown): boolean {
  return Number.isFinite(value) && (value as number) >= 0;
}
