/** A corpus's report as a table for people. */

import type { Report, Tally } from "../training/data/build/finish.ts";
import type { PackStatistics } from "../training/data/packing/packer.ts";
import { formatBytes, formatCount } from "./terminal.ts";

/** Rows in, rows out, and why not, for each source and for all of them. */
export function reportText(report: Report): string {
  const rows = [
    ["source", "read", "train", "held out", "characters", "left out"],
    ...report.sources.map((source) => cells(source.name, source)),
    ...(report.sources.length > 1 ? [cells("all", report.total)] : []),
  ];
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const lines = rows.map((row) =>
    row.map((cell, column) =>
      column === 0 || column === row.length - 1
        ? cell.padEnd(widths[column])
        : cell.padStart(widths[column])
    ).join("  ").trimEnd()
  );
  const notes = report.sources.flatMap(({ name, note }) =>
    note === undefined ? [] : [`${name} ${note}`]
  );
  return [...lines, ...notes].map((line) => `${line}\n`).join("");
}

function cells(name: string, tally: Tally): string[] {
  const reasons = Object.entries(tally.dropped).sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${count} ${reason}`);
  return [
    name,
    String(tally.read),
    String(tally.train),
    String(tally.heldout),
    formatBytes(tally.characters).replace(/B$/, "").trim(),
    reasons.join(", "),
  ];
}

export function packText(statistics: PackStatistics): string {
  const { samples, sequences, tokens, targets, padding, overlong, cut } = statistics;
  const filled = tokens / Math.max(1, tokens + padding);
  return `packed: ${formatCount(samples)} samples in ${sequences} sequences, ` +
    `${formatCount(tokens)} tokens (${formatCount(targets)} count), ` +
    `${(100 * filled).toFixed(1)} % filled, ${overlong} too long, ${cut} cut in pieces\n`;
}
