/** Lines of a byte stream. */

/** A longer line is cut into several, so that a stream without line ends cannot fill the memory. */
const MAX_LINE = 1 << 20;

/** Yields each line without its end; the last one may lack an end. Invalid UTF-8 becomes U+FFFD. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  const reader = stream.getReader();
  try {
    while (true) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop()!;
      for (const line of lines) yield line.replace(/\r$/, "");
      if (rest.length > MAX_LINE) {
        yield rest;
        rest = "";
      }
      if (done) break;
    }
    if (rest !== "") yield rest.replace(/\r$/, "");
  } finally {
    await reader.cancel().catch(() => {});
  }
}
