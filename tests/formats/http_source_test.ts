import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { HttpSource } from "../../src/formats/http_source.ts";
import type { SourceVersion } from "../../src/formats/tensor_source.ts";
import { type RangeServer, withRangeServer } from "../support/range_server.ts";

const SIZE = 12_000_000;

/** Bytes of which no two stretches of the lengths read here are alike. */
const CONTENT = new Uint8Array(new Uint32Array(SIZE / 4).map((_, i) => i * 2654435761).buffer);

function withServer(body: (server: RangeServer, url: string) => Promise<void>): Promise<void> {
  const options = { files: { "model.gguf": CONTENT } };
  return withRangeServer(options, (server) => body(server, `${server.url}model.gguf`));
}

async function assertReads(
  source: HttpSource,
  range: { offset: number; length: number; until?: number },
): Promise<void> {
  const { offset, length, until } = range;
  const into = new Uint8Array(length);
  await source.read(offset, into, { until });
  const differs = into.findIndex((byte, i) => byte !== CONTENT[offset + i]);
  assertEquals(differs, -1, `bytes ${offset}..${offset + length} differ`);
}

/** Opens, lets `spoil` change the server, and returns the message of the next read's error. */
async function messageAfter(
  server: RangeServer,
  spoil: (server: RangeServer) => void,
): Promise<string> {
  const source = await HttpSource.open(`${server.url}model.gguf`, { stallMs: 50 });
  spoil(server);
  const read = () => source.read(1_000_000, new Uint8Array(500_000));
  const { message } = await assertRejects(read, FormatError);
  source.close();
  server.fault = null;
  return message;
}

Deno.test("an opened URL knows its size, name and version, and reads any range", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url);
    assertEquals([source.size, source.name, source.location], [SIZE, "model.gguf", url]);
    assertEquals(source.version, { size: SIZE, etag: `"1"` });
    for (const offset of [0, 1, 262_143, 262_144, 5_000_000]) {
      for (const length of [0, 1, 300_000, 5_000_000]) {
        await assertReads(source, { offset, length });
      }
    }
    await assertReads(source, { offset: SIZE - 10, length: 10 });
    for (const offset of [-1, SIZE - 1]) {
      const read = () => source.read(offset, new Uint8Array(2));
      await assertRejects(read, FormatError, `within 0..${SIZE}`);
    }
    const shared = new Uint8Array(new SharedArrayBuffer(700_000));
    await source.read(3_000_000, shared);
    assertEquals(shared.findIndex((byte, i) => byte !== CONTENT[3_000_000 + i]), -1);
    source.close();
    await assertRejects(() => source.read(0, new Uint8Array(1)), FormatError, "the file is closed");
    assertEquals(server.requests.every(({ range }) => range !== undefined), true);
  });
});

Deno.test("small reads share requests, and an announced run of reads takes few", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url);
    for (let offset = 0; offset < 262_144; offset += 1000) {
      await assertReads(source, { offset, length: 100 });
    }
    assertEquals(server.requests.length, 1);
    await assertReads(source, { offset: 1_000_000, length: 16 });
    await assertReads(source, { offset: 800_000, length: 100_000 });
    assertEquals(server.requests[1].range, [3 * 262_144, 4 * 262_144 - 1]);
    assertEquals(server.requests.length, 2);
    const [start, until, step] = [1_500_000, SIZE - 5, 524_288];
    for (let offset = start; offset < until; offset += step) {
      await assertReads(source, { offset, length: Math.min(step, until - offset), until });
    }
    const ahead = server.requests.slice(2);
    assert(ahead.length <= 3, `${ahead.length} requests`);
    assertEquals(ahead.at(-1)?.range?.[1], until - 1);
    source.close();
  });
});

Deno.test("the next piece of a run is on its way while the present one is used", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url);
    await assertReads(source, { offset: 300_000, length: 500_000, until: SIZE });
    assertEquals(server.requests.length, 3);
    source.close();
  });
});

Deno.test("without read-ahead a read is one request for its bytes", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url, { readAhead: false });
    await assertReads(source, { offset: 7, length: 20, until: 1000 });
    await assertReads(source, { offset: 7, length: 20 });
    assertEquals(server.requests.map(({ range }) => range), [[0, 0], [7, 26], [7, 26]]);
    source.close();
  });
});

Deno.test("reads side by side get their own bytes", async () => {
  await withServer(async (server, url) => {
    server.latencyMs = 5;
    for (const readAhead of [true, false]) {
      const source = await HttpSource.open(url, { readAhead });
      const reads = Array.from({ length: 40 }, (_, i) => ({
        offset: (i * 7_368_787) % (SIZE - 600_000),
        length: i % 3 === 0 ? 600_000 : 5000,
        until: i % 4 === 0 ? SIZE : undefined,
      }));
      await Promise.all(reads.map((range) => assertReads(source, range)));
      source.close();
    }
  });
});

Deno.test("a file that changed after it was opened is refused by what changed", async () => {
  await withServer(async (server, url) => {
    const changed = "(the file has changed since it was opened)";
    assertEquals(
      await messageAfter(server, (server) => server.etag = `"2"`),
      `cannot read "model.gguf": its ETag is "2", must be "1" ${changed}`,
    );
    server.etag = `"1"`;
    assertStringIncludes(
      await messageAfter(server, (server) => server.etag = null),
      `its ETag is missing, must be "1" ${changed}`,
    );
    // A weak tag says nothing about bytes, and so the date counts.
    [server.etag, server.lastModified] = [`W/"1"`, "Mon, 05 Jan 2026 00:00:00 GMT"];
    const source = await HttpSource.open(url);
    assertEquals(source.version, { size: SIZE, lastModified: server.lastModified });
    source.close();
    assertStringIncludes(
      await messageAfter(server, (server) => server.lastModified = "another day"),
      "its date is another day, must be Mon, 05 Jan 2026 00:00:00 GMT",
    );
    [server.etag, server.lastModified] = [null, null];
    for (const size of [SIZE - 1, 500]) {
      const cut = (server: RangeServer) => server.files["model.gguf"] = CONTENT.slice(0, size);
      const message = await messageAfter(server, cut);
      assertStringIncludes(message, `its size is ${size}, must be ${SIZE} ${changed}`);
      server.files["model.gguf"] = CONTENT;
    }
  });
});

Deno.test("another reader opens the same version or none", async () => {
  await withServer(async (server, url) => {
    const first = await HttpSource.open(url);
    const expected: SourceVersion = structuredClone(first.version);
    const second = await HttpSource.open(url, { expected });
    await assertReads(second, { offset: 3, length: 5 });
    first.close();
    second.close();
    server.etag = `"2"`;
    const open = () => HttpSource.open(url, { expected });
    await assertRejects(
      open,
      FormatError,
      `cannot open "model.gguf": its ETag is "2", must be "1"`,
    );
  });
});

Deno.test("an answer that is not the wanted bytes is refused", async () => {
  await withServer(async (server) => {
    const lie = (header: string) => (server: RangeServer) => {
      server.fault = (_, proper) => {
        proper.headers.set("content-range", header);
        return proper;
      };
    };
    const cases: readonly [(server: RangeServer) => void, string][] = [
      [
        (server) => server.fault = () => new Response(CONTENT),
        "its answer is 200, must be 206 (the server must answer range requests)",
      ],
      [(server) => server.fault = () => new Response(null, { status: 404 }), "404 (not found)"],
      [(server) => server.fault = () => new Response(null, { status: 416 }), "416 (no such range)"],
      [
        (server) => server.fault = (_, proper) => server.cutShort(proper, 1000),
        "the length of its answer is 1000 bytes, must be 500000 bytes",
      ],
      [
        (server) =>
          server.fault = (_, { headers }) =>
            new Response(CONTENT.slice(0, 500_001), { status: 206, headers }),
        "the length of its answer is more than 500000 bytes",
      ],
      [
        lie(`bytes 1000001-1500000/${SIZE}`),
        "the range of its answer is bytes 1000001..1500001, must be 1000000..1500000",
      ],
      [
        lie("bytes 1000000-1499999/*"),
        `"content-range" of its answer is "bytes 1000000-1499999/*"`,
      ],
      [lie(`bytes 9-8/${SIZE}`), `must be "bytes FIRST-LAST/SIZE"`],
      [lie("bytes 0-9/99999999999999999999"), `must be "bytes FIRST-LAST/SIZE"`],
    ];
    for (const [spoil, message] of cases) {
      const before = server.requests.length;
      assertStringIncludes(await messageAfter(server, spoil), message);
      assertEquals(server.requests.length - before, 2, "asked again without hope");
    }
  });
});

Deno.test("what is no file with ranges is refused at opening", async () => {
  await withServer(async (server, url) => {
    const cases: readonly [string, string][] = [
      [`${server.url}none.gguf`, `cannot open "none.gguf": its answer is 404 (not found)`],
      ["http://", "its URL is not valid"],
      ["ftp://host/a.gguf", "its URL is not valid"],
    ];
    for (const [place, message] of cases) {
      await assertRejects(() => HttpSource.open(place), FormatError, message);
    }
    server.fault = () => new Response(CONTENT);
    await assertRejects(() => HttpSource.open(url), FormatError, "must answer range requests");
    server.fault = (_, { headers, body }) => {
      headers.delete("content-range");
      return new Response(body, { status: 206, headers });
    };
    await assertRejects(() => HttpSource.open(url), FormatError, "is missing, must be");
    server.fault = null;
    server.files["empty"] = new Uint8Array(0);
    server.files["tiny"] = new Uint8Array([1, 2, 3]);
    for (const name of ["empty", "tiny"]) {
      const source = await HttpSource.open(server.url + name);
      const into = new Uint8Array(source.size);
      await source.read(0, into);
      assertEquals(into, server.files[name]);
      source.close();
    }
  });
});

Deno.test("a fault that passes costs a pause, one that stays ends in an error after three tries", async () => {
  await withServer(async (server, url) => {
    const faults: readonly [string, (proper: Response) => Response][] = [
      ["its answer is 503, must be 206", () => new Response("busy", { status: 503 })],
      ["its answer is broken off, must be complete", (proper) => server.broken(proper, 1000)],
      ["its server is silent", (proper) => server.stalling(proper)],
    ];
    for (const [message, fault] of faults) {
      const source = await HttpSource.open(url, { readAhead: false, stallMs: 200 });
      let left = 2;
      const start = server.requests.length;
      server.fault = (_, proper) => left-- > 0 ? fault(proper) : undefined;
      await assertReads(source, { offset: 1_000_000, length: 500_000 });
      assertEquals(server.requests.length - start, 3);
      server.fault = (_, proper) => fault(proper);
      const read = () => source.read(1_000_000, new Uint8Array(500_000));
      const error = await assertRejects(read, FormatError, message);
      assertStringIncludes(error.message, "(tried 3 times)");
      assertEquals(server.requests.length - start, 6);
      // The source is usable again once its server is.
      server.fault = null;
      await assertReads(source, { offset: 1_000_000, length: 500_000 });
      source.close();
    }
  });
});

Deno.test("a read that broke off goes on where it was, with a range of the same version", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url, { readAhead: false });
    const start = server.requests.length;
    server.fault = ({ index }, proper) => index === start ? server.broken(proper, 4096) : undefined;
    await assertReads(source, { offset: 1_000_000, length: 50_000 });
    const [, again] = server.requests.slice(start);
    assertEquals(again.range, [1_004_096, 1_049_999]);
    server.fault = ({ index }, proper) => {
      if (index === start + 2) return server.broken(proper, 4096);
      proper.headers.set("etag", `"2"`);
      return proper;
    };
    const read = () => source.read(1_000_000, new Uint8Array(50_000));
    await assertRejects(read, FormatError, `its ETag is "2", must be "1"`);
    source.close();
  });
});

Deno.test("a read ahead that failed is asked for again by the next reader", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url);
    server.fault = () => new Response(null, { status: 404 });
    const read = () => assertReads(source, { offset: 1_000_000, length: 10, until: SIZE });
    await assertRejects(read, FormatError, "404");
    server.fault = null;
    await read();
    source.close();
  });
});

Deno.test("nobody listening is said without the address", async () => {
  let url = "";
  await withServer((_, where) => {
    url = where.replace("//", "//user:secret@");
    return Promise.resolve();
  });
  const { message } = await assertRejects(() => HttpSource.open(url), FormatError);
  assertEquals(
    message,
    `cannot open "model.gguf": its server is unreachable, must be reachable (tried 3 times)`,
  );
});

Deno.test("closing ends the reads under way", async () => {
  await withServer(async (server, url) => {
    const source = await HttpSource.open(url);
    server.fault = (_, proper) => server.stalling(proper);
    const reads = [[1_000_000, 10], [2_000_000, 600_000]].map(([offset, length]) =>
      assertRejects(
        () => source.read(offset, new Uint8Array(length)),
        FormatError,
        "the file is closed, must be open",
      )
    );
    while (server.requests.length < 3) await new Promise((resolve) => setTimeout(resolve, 1));
    source.close();
    await Promise.all(reads);
  });
});

Deno.test("a user and a password of the URL are sent, and not shown", async () => {
  await withServer(async (server) => {
    const url = server.url.replace("//", "//user:s%C3%A9cret@");
    const source = await HttpSource.open(`${url}model.gguf?token=hidden`);
    assertEquals(source.name, "model.gguf");
    // RFC 7617: base64 of "user:sécret" in UTF-8.
    assertEquals(server.requests[0].headers.get("authorization"), "Basic dXNlcjpzw6ljcmV0");
    server.fault = () => new Response(null, { status: 401 });
    const read = () => source.read(1_000_000, new Uint8Array(10));
    const { message } = await assertRejects(read, FormatError, "401 (not authorised)");
    assert(!/user|cret|hidden/.test(message), message);
    source.close();
  });
});

Deno.test("redirects are followed", async () => {
  await withServer(async (server) => {
    server.fault = ({ file }) =>
      file === "moved" ? Response.redirect(`${server.url}model.gguf`, 302) : undefined;
    const source = await HttpSource.open(`${server.url}moved`);
    await assertReads(source, { offset: 5_000_000, length: 500_000 });
    assertEquals([source.name, source.location], ["moved", `${server.url}moved`]);
    source.close();
  });
});
