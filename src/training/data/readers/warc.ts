/** Web archives: the pages of a WARC file as text. The two libraries are loaded only where one is read. */

import type { Reading } from "./records.ts";

/** A larger page is passed over. */
const MAX_PAGE_BYTES = 8 * 1024 * 1024;

/**
 * One reading for each record of the archive, so that a position is a number of records: a page's text,
 * or why the record has none. Packed archives (.gz) are read as such.
 */
export async function* textsOfWarc(stream: ReadableStream<Uint8Array>): AsyncGenerator<Reading> {
  const { WARCParser } = await import("warcio");
  const { compile } = await import("html-to-text");
  const toText = compile({
    wordwrap: false,
    selectors: [
      { selector: "a", options: { ignoreHref: true } },
      ...["img", "nav", "footer", "aside", "form"].map((selector) => ({
        selector,
        format: "skip",
      })),
    ],
  });
  for await (const record of new WARCParser(stream)) {
    if (record.warcType !== "response" && record.warcType !== "conversion") {
      yield { refused: `record of type ${record.warcType ?? "unknown"}` };
      continue;
    }
    const type = record.warcType === "conversion"
      ? "text/plain"
      : record.httpHeaders?.headers.get("content-type") ?? "";
    if (!/^text\/(?:html|plain)\b/i.test(type)) {
      yield { refused: "neither HTML nor plain text" };
      continue;
    }
    const body = await bodyOf(record);
    if (body === null) yield { refused: "page too large" };
    else {
      const text = (/html/i.test(type) ? toText(body) : body).trim();
      yield text === "" ? { refused: "empty page" } : { kind: "text", text };
    }
  }
}

/** A record's body as text; null where it is too large. */
async function bodyOf(record: AsyncIterable<Uint8Array>): Promise<string | null> {
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for await (const chunk of record) {
    length += chunk.length;
    if (length <= MAX_PAGE_BYTES) text += decoder.decode(chunk, { stream: true });
  }
  return length > MAX_PAGE_BYTES ? null : text + decoder.decode();
}
