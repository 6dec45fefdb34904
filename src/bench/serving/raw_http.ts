/** One request after the other over a connection of our own, which nobody else's pool closes or opens. */

/** Bytes of a connection, answered request by request. */
export class RawConnection {
  readonly #connection: Deno.TcpConn;
  readonly #request: Uint8Array;
  readonly #buffer = new Uint8Array(4096);

  private constructor(connection: Deno.TcpConn, request: Uint8Array) {
    this.#connection = connection;
    this.#request = request;
  }

  /** Connects to a server; every `get` asks it for `path`. */
  static async open(url: string, path: string): Promise<RawConnection> {
    const { hostname, port, host } = new URL(url);
    const connection = await Deno.connect({ hostname, port: Number(port) });
    connection.setNoDelay(true);
    const request = `GET ${path} HTTP/1.1\r\nhost: ${host}\r\n\r\n`;
    return new RawConnection(connection, new TextEncoder().encode(request));
  }

  /** The status of the next answer, once all of it is there. Throws where the connection ends before. */
  async get(): Promise<number> {
    await this.#connection.write(this.#request);
    let text = "";
    while (!isWhole(text)) {
      const count = await this.#connection.read(this.#buffer);
      if (count === null) throw new Error("the server has closed the connection");
      text += new TextDecoder().decode(this.#buffer.subarray(0, count));
    }
    return Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]);
  }

  /** Resolves when the connection has been closed, by whichever side. */
  async closed(): Promise<void> {
    try {
      while (await this.#connection.read(this.#buffer) !== null);
    } catch {
      // Reset, or closed by us.
    }
  }

  close(): void {
    try {
      this.#connection.close();
    } catch {
      // The server was faster.
    }
  }
}

/** Whether a response of ASCII text has arrived as a whole. */
export function isWhole(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return false;
  const [head, body] = [text.slice(0, end), text.slice(end + 4)];
  if (/\r\ntransfer-encoding: *chunked/i.test(head)) return /(^|\r\n)0\r\n\r\n$/.test(body);
  return body.length >= Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
}
