/** Reads recorded traces from files. */

import { FormatError } from "../errors.ts";
import { parseTrace, type Trace } from "../experts/trace.ts";
import { baseName, quoted } from "../formats/byte_source.ts";
import { readWholeFile } from "../formats/deno_file.ts";
import { decodeUtf8 } from "../formats/utf8.ts";

const MAX_TRACE_BYTES = 512 * 1024 * 1024;

/** Throws FormatError where the file is missing or no trace. */
export function readTrace(path: string): Trace {
  const name = baseName(path);
  const action = `read trace ${quoted(name)}`;
  const bytes = readWholeFile(path, MAX_TRACE_BYTES);
  if (bytes === null) throw FormatError.of(action, "the file", "missing", "there");
  const text = decodeUtf8(bytes);
  if (text === null) throw FormatError.of(action, "its text", "not UTF-8", "valid UTF-8");
  return parseTrace(text, name);
}
