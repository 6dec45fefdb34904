/** A corpus that has been made: its rows again. */

import { FormatError } from "../../errors.ts";
import type { OutputFolder } from "./build/folder.ts";
import { type Manifest, MANIFEST_FILE } from "./build/finish.ts";
import { linesOf } from "./readers/lines.ts";
import type { Row } from "./rows.ts";

/** The manifest of a corpus; FormatError where there is none, as in one that is not whole. */
export function readManifest(folder: Pick<OutputFolder, "readText">): Manifest {
  const text = folder.readText(MANIFEST_FILE);
  if (text === null) {
    throw FormatError.of(
      "read the corpus",
      MANIFEST_FILE,
      "missing",
      "in the folder of a whole one",
    );
  }
  return JSON.parse(text);
}

/** The rows of one side, in order; `from` skips the first ones. */
export async function* corpusRows(
  folder: Pick<OutputFolder, "readText" | "stream">,
  options: { side: "train" | "heldout"; from?: number },
): AsyncGenerator<Row> {
  let skip = options.from ?? 0;
  for (const { name, rows } of readManifest(folder)[options.side]) {
    if (skip >= rows) {
      skip -= rows;
      continue;
    }
    for await (const { text } of linesOf(await folder.stream(name))) {
      if (skip-- > 0) continue;
      yield JSON.parse(text!);
    }
    skip = 0;
  }
}
