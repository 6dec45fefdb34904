/**
 * A server of files by range requests on the loopback address, for tests and measurements of models
 * that come over the network: with the latency and the faults that they ask for.
 */

/** What a server is asked for; `range` is [first, last] as asked, absent where all is wanted. */
export interface RangeRequest {
  /** The file's name: the path without its first slash. */
  readonly file: string;
  /** Counts from 0 over all requests of the server. */
  readonly index: number;
  readonly range?: readonly [number, number];
  readonly headers: Headers;
}

export interface RangeServerOptions {
  /** By name: the bytes, or the path of a file on disk. Read again at every request. */
  readonly files: Record<string, Uint8Array<ArrayBuffer> | string>;
  /** Milliseconds that each answer is held back. */
  readonly latencyMs?: number;
  /** By default one that is free. */
  readonly port?: number;
}

export class RangeServer {
  /** "http://127.0.0.1:PORT/". */
  readonly url: string;
  readonly files: Record<string, Uint8Array<ArrayBuffer> | string>;
  /** All requests so far, in the order of arrival. */
  readonly requests: RangeRequest[] = [];
  latencyMs: number;
  /** The ETag of every answer; none where null. */
  etag: string | null = `"1"`;
  lastModified: string | null = null;
  /**
   * Makes another answer than the proper one, or the proper one where it returns undefined. A header
   * set on the proper answer is a lie; see also `cutShort` and `stalling`.
   */
  fault: ((request: RangeRequest, proper: Response) => Response | undefined) | null = null;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #stalled = new Set<() => void>();

  constructor(options: RangeServerOptions) {
    this.files = { ...options.files };
    this.latencyMs = options.latencyMs ?? 0;
    this.#server = Deno.serve(
      {
        hostname: "127.0.0.1",
        port: options.port ?? 0,
        onListen: () => {},
        onError: () => new Response(null),
      },
      (request) => this.#answer(request),
    );
    this.url = `http://127.0.0.1:${this.#server.addr.port}/`;
  }

  /** An answer like the proper one that ends in order after `bytes` bytes, its length not stated. */
  cutShort(proper: Response, bytes: number): Response {
    let left = bytes;
    const cut = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(piece, controller) {
        controller.enqueue(piece.subarray(0, left));
        left = Math.max(0, left - piece.length);
      },
    });
    return this.#withBody(proper, proper.body!.pipeThrough(cut));
  }

  /** An answer like the proper one whose connection breaks after `bytes` bytes. */
  broken(proper: Response, bytes: number): Response {
    return this.#withBody(
      proper,
      new ReadableStream({
        async start(controller) {
          controller.enqueue((await proper.bytes()).subarray(0, bytes));
        },
        async pull(controller) {
          // What was sent must leave before the connection does.
          await delay(20);
          controller.error(new Error("broken off on purpose"));
        },
      }, { highWaterMark: 0 }),
    );
  }

  /** An answer like the proper one that stays silent after its head until the server is closed. */
  stalling(proper: Response): Response {
    return this.#withBody(
      proper,
      new ReadableStream({
        start: (controller) => {
          this.#stalled.add(() => controller.close());
        },
      }),
    );
  }

  async close(): Promise<void> {
    for (const end of this.#stalled) {
      try {
        end();
      } catch {
        // The reader has gone away meanwhile.
      }
    }
    await this.#server.shutdown();
  }

  async #answer(request: Request): Promise<Response> {
    const file = decodeURIComponent(new URL(request.url).pathname.slice(1));
    const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    const asked: RangeRequest = {
      file,
      index: this.requests.length,
      headers: request.headers,
      ...(match && { range: [Number(match[1]), Number(match[2])] }),
    };
    this.requests.push(asked);
    if (this.latencyMs > 0) await delay(this.latencyMs);
    const proper = this.#proper(asked);
    return this.fault?.(asked, proper) ?? proper;
  }

  #proper({ file, range }: RangeRequest): Response {
    const content = Object.hasOwn(this.files, file) ? this.files[file] : undefined;
    if (content === undefined) return new Response("no such file", { status: 404 });
    const size = typeof content === "string" ? Deno.statSync(content).size : content.length;
    const headers = new Headers({ "accept-ranges": "bytes" });
    if (this.etag !== null) headers.set("etag", this.etag);
    if (this.lastModified !== null) headers.set("last-modified", this.lastModified);
    if (range === undefined) return new Response(part(content, [0, size]), { headers });
    const [first, last] = [range[0], Math.min(range[1], size - 1)];
    if (first > last) {
      headers.set("content-range", `bytes */${size}`);
      return new Response(null, { status: 416, headers });
    }
    headers.set("content-range", `bytes ${first}-${last}/${size}`);
    return new Response(part(content, [first, last + 1]), { status: 206, headers });
  }

  #withBody(proper: Response, body: ReadableStream<Uint8Array<ArrayBuffer>>): Response {
    const headers = new Headers(proper.headers);
    headers.delete("content-length");
    return new Response(body, { status: proper.status, headers });
  }
}

/** Runs `body` with a server and closes it afterwards. */
export async function withRangeServer(
  options: RangeServerOptions,
  body: (server: RangeServer) => Promise<void>,
): Promise<void> {
  const server = new RangeServer(options);
  try {
    await body(server);
  } finally {
    await server.close();
  }
}

function part(
  content: Uint8Array<ArrayBuffer> | string,
  [start, end]: readonly [number, number],
): Uint8Array<ArrayBuffer> {
  if (typeof content !== "string") return content.slice(start, end);
  using file = Deno.openSync(content);
  file.seekSync(start, Deno.SeekMode.Start);
  const bytes = new Uint8Array(end - start);
  for (let filled = 0; filled < bytes.length;) {
    const count = file.readSync(bytes.subarray(filled));
    if (count === null) throw new Error(`${content} ends early`);
    filled += count;
  }
  return bytes;
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
