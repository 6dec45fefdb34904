/** Lines of a byte stream with where they end, so that reading can go on from there. */

/** A longer line is passed over, so that a file without line ends cannot fill the memory. */
export const MAX_LINE_BYTES = 16 * 1024 * 1024;

export interface Line {
  /** Without its end; null for a line that is too long. Bytes that are not UTF-8 become U+FFFD. */
  readonly text: string | null;
  /** Bytes from the stream's start up to the next line. */
  readonly end: number;
}

const NEWLINE = 0x0a;

/** The lines of a stream; empty ones are among them. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Line> {
  const decoder = new TextDecoder();
  let pieces: Uint8Array[] = [];
  let length = 0;
  let end = 0;
  const take = (bytes: Uint8Array) => {
    length += bytes.length;
    end += bytes.length;
    if (length <= MAX_LINE_BYTES) pieces.push(bytes);
    else pieces = [];
  };
  const line = (): Line => {
    const text = length > MAX_LINE_BYTES ? null : decodePieces(decoder, pieces);
    pieces = [];
    length = 0;
    return { text, end };
  };
  for await (const chunk of stream) {
    let from = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
      take(chunk.subarray(from, at + 1));
      yield line();
      from = at + 1;
    }
    if (from < chunk.length) take(chunk.slice(from));
  }
  if (length > 0) yield line();
}

function decodePieces(decoder: TextDecoder, pieces: readonly Uint8Array[]): string {
  const whole = pieces.length === 1 ? pieces[0] : joined(pieces);
  return decoder.decode(whole).replace(/\r?\n$/, "");
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.length;
  }
  return whole;
}
