/** A run's metrics.jsonl, with the steps of all phases one behind the other. */

import { FormatError } from "../errors.ts";

export interface MetricsLine {
  readonly phase: string;
  /** Steps of the whole run up to here. */
  readonly at: number;
  /** By TRL's names. */
  readonly values: Readonly<Record<string, number>>;
  /** A held-out problem and its answer, where the line is of an evaluation. */
  readonly example?: string;
}

/** The steps of a phase, as places of the whole run: the first is `from` + 1. */
export interface PhaseSpan {
  readonly name: string;
  readonly from: number;
  readonly to: number;
}

export interface RunMetrics {
  readonly lines: readonly MetricsLine[];
  readonly phases: readonly PhaseSpan[];
}

/** Reads the file's text; a last line without its end is being written. Throws FormatError. */
export function readRunMetrics(text: string): RunMetrics {
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  const lines: MetricsLine[] = [];
  const phases: { name: string; from: number; to: number }[] = [];
  for (const [i, line] of whole.split("\n").entries()) {
    if (line === "") continue;
    const { phase, step, ...rest } = parsed(line, i + 1);
    let span = phases.at(-1);
    if (span?.name !== phase) {
      const from = span?.to ?? 0;
      phases.push(span = { name: phase, from, to: from });
    }
    const at = span.from + step;
    span.to = Math.max(span.to, at);
    const numbers = Object.entries(rest).filter((entry): entry is [string, number] =>
      typeof entry[1] === "number"
    );
    const example = (rest as Record<string, unknown>)["eval/example"];
    lines.push({
      ...{ phase, at, values: Object.fromEntries(numbers) },
      ...(typeof example === "string" && { example }),
    });
  }
  return { lines, phases };
}

function parsed(line: string, number: number): { phase: string; step: number } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    value = null;
  }
  const { phase, step } = (value ?? {}) as Record<string, unknown>;
  if (typeof phase === "string" && Number.isSafeInteger(step)) {
    return value as { phase: string; step: number };
  }
  throw FormatError.of(
    "read the metrics",
    `line ${number}`,
    JSON.stringify(line.slice(0, 60)),
    "an object with phase and step",
  );
}
