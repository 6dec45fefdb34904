/** Reads of paged experts that fail: what was computed is lost, the backend is not. */

import { assert, assertRejects } from "@std/assert";
import { ExpertReadError, OptionError } from "../../../src/errors.ts";
import { openCheckpoint } from "../../../src/formats/open.ts";
import { assertSameBits } from "../_harness.ts";
import { evaluate, MIXTURE, type Paged, rightLogits, withCopy, withPaged } from "./_paged.ts";
import { ServerThread } from "./_server.ts";

const BYTES = Deno.readFileSync(MIXTURE);

/** Every evaluation must fail with what is given, and show no folders. */
async function assertFails(paged: Paged, message: string): Promise<void> {
  for (let time = 0; time < 2; time++) {
    const error = await assertRejects(() => evaluate(paged), ExpertReadError, message);
    assert(!error.message.includes("/"), error.message);
  }
}

async function assertRight(paged: Paged, right: Float32Array, what: string): Promise<void> {
  assertSameBits(await evaluate(paged), right, what);
}

const WAYS = [
  { slots: 8, threads: 1, readers: 0, lookAhead: false },
  { slots: 8, threads: 2, readers: 2, lookAhead: true },
  { slots: 3, threads: 2, readers: 1 },
  { slots: 20, threads: 2, readers: 1, lookAhead: true, banks: 6, bankBytes: 150 * 1024 },
] as const;

for (const options of WAYS) {
  const way = Object.entries(options).map(([name, value]) => `${name} ${value}`).join(", ");

  Deno.test(`a file that is truncated for a while fails what needs it only then (${way})`, async () => {
    const right = await rightLogits();
    await withCopy(async (path) => {
      await withPaged(path, options, async (paged) => {
        await assertRight(paged, right, "before");
        for (const share of [0.9, 0.5, 0]) {
          await Deno.truncate(path, Math.floor(BYTES.length * share));
          await assertFails(
            paged,
            `cannot read an expert from "copied.gguf": the file ends at byte`,
          );
          await Deno.writeFile(path, BYTES);
          await assertRight(paged, right, `after it had ${share} of its bytes`);
        }
      });
    });
  });
}

Deno.test("a file that has been removed is read on while it is open", async () => {
  const right = await rightLogits();
  await withCopy(async (path) => {
    await withPaged(path, { slots: 4, readers: 0 }, async (paged) => {
      await assertRight(paged, right, "before");
      await Deno.remove(path);
      await assertRight(paged, right, "without a name");
    });
  });
});

Deno.test("a damaged file that is replaced by a right one is opened again", async () => {
  const right = await rightLogits();
  await withCopy(async (path) => {
    await withPaged(path, { slots: 4, readers: 1, lookAhead: true }, async (paged) => {
      await assertRight(paged, right, "before");
      await Deno.truncate(path, 0);
      await Deno.remove(path);
      const missing = "the file is missing, must be where it was";
      await assertFails(paged, `cannot read an expert from "copied.gguf": ${missing}`);
      await Deno.writeFile(path, BYTES);
      await assertRight(paged, right, "after its return");
    });
  });
});

Deno.test("a file of another length in the place of a damaged one is refused", async () => {
  const right = await rightLogits();
  await withCopy(async (path) => {
    await withPaged(path, { slots: 4, readers: 1, lookAhead: true }, async (paged) => {
      await assertRight(paged, right, "before");
      await Deno.truncate(path, 0);
      const must = `must end at ${BYTES.length} as when it was opened`;
      await assertFails(paged, must);
      // Each expert could be read from it.
      await Deno.writeFile(path, new Uint8Array([...BYTES, 0]));
      await assertFails(paged, `the file ends at byte ${BYTES.length + 1}, ${must}`);
      await Deno.writeFile(path, BYTES);
      await assertRight(paged, right, "after its return");
    });
  });
});

Deno.test("experts with NaN in the file are refused and read again later", async () => {
  const right = await rightLogits();
  await withCopy(async (path) => {
    const source = await openCheckpoint(path);
    const { offset } = source.locate!(source.tensors.get("blk.2.ffn_down_exps.weight")!)!;
    const { byteLength } = source.tensors.get("blk.2.ffn_down_exps.weight")!;
    source.close();
    await withPaged(path, { slots: 6, lookAhead: true }, async (paged) => {
      await assertRight(paged, right, "before");
      const damaged = BYTES.slice();
      // As float16, the scale of a block is NaN then.
      damaged.fill(0xff, offset, offset + byteLength);
      await Deno.writeFile(path, damaged);
      await assertFails(
        paged,
        `cannot read an expert from "copied.gguf": one of its values is NaN or infinite`,
      );
      await Deno.writeFile(path, BYTES);
      await assertRight(paged, right, "after");
    });
  });
});

/** Serves the mixture from another thread, on a port that stays the same. */
async function withServer(
  options: { latencyMs?: number },
  body: (server: ServerThread, url: string) => Promise<void>,
): Promise<void> {
  const server = await ServerThread.start({ ...options, files: { "served.gguf": MIXTURE } });
  try {
    await body(server, `${server.url}served.gguf?token=secret`);
  } finally {
    await server.close();
  }
}

const SERVER_FAULTS = [
  ["missing", "its answer is 404 (not found), must be 206"],
  ["cutShort", "the length of its answer is 100 bytes, must be"],
  ["broken", "its answer is broken off, must be complete (tried 3 times)"],
  ["longer", "the length of its answer is more than"],
  ["shifted", "the range of its answer is bytes"],
  ["changed", 'its ETag is "2", must be "1" (the file has changed since it was opened)'],
] as const;

Deno.test("experts come from a URL, and from there again after each of its faults", async () => {
  const right = await rightLogits();
  await withServer({}, async (server, url) => {
    await withPaged(url, { slots: 8, lookAhead: true }, async (paged) => {
      await assertRight(paged, right, "before");
      for (const [kind, message] of SERVER_FAULTS) {
        await server.fault(kind);
        const error = await assertRejects(() => evaluate(paged), ExpertReadError, message);
        const start = `cannot read an expert from "served.gguf": cannot read "served.gguf": `;
        assert(error.message.startsWith(start), error.message);
        assert(!error.message.includes("secret"), error.message);
        await server.fault("none");
        await assertRight(paged, right, `after an answer was ${kind}`);
      }
    });
  });
});

for (const readers of [1, 2]) {
  Deno.test(`experts come again from a server that was down for a while (readers ${readers})`, async () => {
    const right = await rightLogits();
    await withServer({}, async (server, url) => {
      await withPaged(url, { slots: 8, readers }, async (paged) => {
        // The readers open the URL while it is down, and later while it is up.
        for (const what of ["at once", "later"]) {
          await server.stop();
          await assertFails(paged, "its server is unreachable, must be reachable (tried 3 times)");
          await server.restart();
          await assertRight(paged, right, what);
        }
      });
    });
  });
}

Deno.test("paging from a URL needs a reader", async () => {
  await withServer({}, async (_, url) => {
    await assertRejects(
      () => withPaged(url, { slots: 8, readers: 0 }, () => Promise.resolve()),
      OptionError,
      "cannot page experts: their readers are 0, must be 1 to 64",
    );
  });
});

Deno.test("a backend may be closed while experts are being read", async () => {
  const right = await rightLogits();
  for (let time = 0; time < 10; time++) {
    await withPaged(MIXTURE, { slots: 40, readers: 2, lookAhead: true }, async (paged) => {
      assertSameBits(await evaluate(paged), right, `run ${time}`);
    });
  }
  await withServer({ latencyMs: 30 }, async (_, url) => {
    await withPaged(url, { slots: 40, readers: 2, lookAhead: true }, async (paged) => {
      await paged.evaluator.step([{ sequence: 0, ids: [5] }], { logits: "last" });
    });
  });
});
