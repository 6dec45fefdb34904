/** Whether tensors fill a data section: nothing overlaps, nothing is left over, nothing ends late. */

import type { FormatError } from "../errors.ts";
import { quoted } from "./byte_source.ts";

/** A tensor's bytes [start, end) in the data section. */
export interface Extent {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

export interface TilingOptions {
  /** Bytes of the data section, up to the end of the file. */
  readonly size: number;
  /** Each tensor starts at the end of the one before, rounded up to this. */
  readonly alignment: number;
  /** Builds the error from what is wrong, what it is, and what it must be. */
  readonly error: (what: string, is: unknown, must: string) => FormatError;
}

/** Throws the first of: overlap, hole, end beyond the file, bytes after the last tensor. */
export function checkTiling(extents: readonly Extent[], options: TilingOptions): void {
  const { size, alignment, error } = options;
  const sorted = [...extents].sort((a, b) => a.start - b.start || a.end - b.end);
  let expected = 0;
  let previous: Extent | undefined;
  for (const extent of sorted) {
    const what = `tensor ${quoted(extent.name)}`;
    if (extent.start !== expected) {
      const after = previous === undefined
        ? "the start of the data"
        : `the end of tensor ${quoted(previous.name)}`;
      const kind = extent.start < expected ? "overlapping" : "leaving a hole";
      throw error(
        what,
        `at data byte ${extent.start} (${kind})`,
        `at byte ${expected}, ${after}`,
      );
    }
    if (extent.end > size) {
      throw error(`the end of ${what}`, `data byte ${extent.end}`, `at most ${size} (end of file)`);
    }
    expected = Math.ceil(extent.end / alignment) * alignment;
    previous = extent;
  }
  if (size > expected) {
    throw error("the data section", `${size} bytes long`, `${expected} as its tensors need`);
  }
}
