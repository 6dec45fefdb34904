/**
 * Serves one file by range requests on the loopback address, each answer held back for a while: a
 * network whose only trouble is its latency.
 */

export interface SlowServer {
  /** Where the file is. */
  readonly url: string;
  close(): Promise<void>;
}

/** Starts a server on a free port. */
export function serveSlowly(
  { path, latencyMs }: { path: string; latencyMs: number },
): SlowServer {
  const name = encodeURIComponent(path.split("/").at(-1)!);
  const { size } = Deno.statSync(path);
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => {
      await new Promise((resolve) => setTimeout(resolve, latencyMs));
      if (new URL(request.url).pathname !== `/${name}`) return new Response(null, { status: 404 });
      const headers = new Headers({ "accept-ranges": "bytes", etag: '"1"' });
      const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
      const first = match === null ? 0 : Number(match[1]);
      const last = match === null ? size - 1 : Math.min(size - 1, Number(match[2]));
      const status = match === null ? 200 : first <= last ? 206 : 416;
      const range = status === 416 ? "*" : `${first}-${last}`;
      if (status !== 200) headers.set("content-range", `bytes ${range}/${size}`);
      return new Response(status === 416 ? null : await readRange(path, { first, last }), {
        status,
        headers,
      });
    },
  );
  return {
    url: `http://127.0.0.1:${server.addr.port}/${name}`,
    close: () => server.shutdown(),
  };
}

async function readRange(
  path: string,
  { first, last }: { first: number; last: number },
): Promise<Uint8Array<ArrayBuffer>> {
  using file = await Deno.open(path);
  await file.seek(first, Deno.SeekMode.Start);
  const bytes = new Uint8Array(last - first + 1);
  for (let filled = 0; filled < bytes.length;) {
    const count = await file.read(bytes.subarray(filled));
    if (count === null) throw new Error(`${path} has become shorter`);
    filled += count;
  }
  return bytes;
}
