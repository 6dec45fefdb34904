/** Strict UTF-8, as every name and text of a model file must be. */

/** Never used in streaming mode, so that it keeps no state between calls. */
const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The text, or null where the bytes are not UTF-8. A byte order mark stays in the text. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return STRICT.decode(bytes);
  } catch {
    return null;
  }
}
