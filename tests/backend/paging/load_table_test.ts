/** The table through which the running thread and the readers speak. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { CapacityError } from "../../../src/errors.ts";
import {
  type ExpertLoad,
  LoadTable,
  type MatrixLoad,
  STATE,
} from "../../../src/backend/wasm/paging/load_table.ts";

/** Requests that a queue keeps; more overwrite the oldest. */
const QUEUE = 4096;

function matrix(parts: Partial<MatrixLoad> = {}): MatrixLoad {
  const plain = { file: 0, offset: 0, byteLength: 64, kind: 8, rows: 2, cols: 32, address: 0 };
  return { ...plain, ...parts };
}

function load(parts: Partial<MatrixLoad> = {}): ExpertLoad {
  return { bank: 0, matrices: [matrix(parts), matrix(parts), matrix(parts)] };
}

Deno.test("a load comes out of the table as it went in, beyond 2^32 as well", () => {
  const table = new LoadTable({ slots: 3 });
  const wanted: ExpertLoad = {
    bank: 5,
    matrices: [
      matrix({ file: 3, offset: 2 ** 32 + 17, byteLength: 2 ** 31 + 5, address: 2 ** 32 - 64 }),
      matrix({ offset: 2 ** 45 - 1, kind: 39, rows: 1536, cols: 7168 }),
      matrix({ offset: 2 ** 31, address: 2 ** 31 }),
    ],
  };
  table.publish(0, load({ address: 1 }), "now");
  table.publish(1, wanted, "ahead");
  table.publish(2, load({ address: 2 }), "now");
  // As another thread sees it.
  const other = new LoadTable({ memory: table.memory });
  assertEquals(other.load(1), wanted);
  assertEquals(other.load(0), load({ address: 1 }));
  assertEquals(other.load(2), load({ address: 2 }));
});

Deno.test("requests come in their order, to each reader, and are claimed once", () => {
  const table = new LoadTable({ slots: 3 });
  for (const slot of [2, 0, 1]) table.publish(slot, load(), "now");
  const readers = [{ now: 0, ahead: 0 }, { now: 0, ahead: 0 }];
  const seen = readers.map((reader) => [1, 2, 3, 4].map(() => table.next(reader, "now")));
  assertEquals(seen, [[2, 0, 1, undefined], [2, 0, 1, undefined]]);
  assertEquals(table.next(readers[0], "ahead"), undefined);
  assertEquals([table.claim(0), table.claim(0)], [true, false]);
  assertEquals(table.state(0), STATE.taken);
  assertEquals([table.claim(1, STATE.idle), table.claim(1)], [true, false]);
  assertEquals(table.state(1), STATE.idle);
});

Deno.test("what was asked for ahead can be asked for at once, unless somebody reads it", () => {
  const table = new LoadTable({ slots: 2 });
  for (const slot of [0, 1]) table.publish(slot, load(), "ahead");
  assert(table.claim(1));
  for (const slot of [0, 1]) table.hurry(slot);
  const reader = { now: 0, ahead: 0 };
  assertEquals([table.next(reader, "now"), table.next(reader, "now")], [0, undefined]);
});

Deno.test("a reader that has fallen behind the queue goes on with the oldest request in it", () => {
  const table = new LoadTable({ slots: QUEUE + 100 });
  for (let slot = 0; slot < QUEUE + 100; slot++) table.publish(slot, load(), "ahead");
  const reader = { now: 0, ahead: 0 };
  const slots = Array.from({ length: QUEUE }, () => table.next(reader, "ahead"));
  assertEquals(slots, Array.from({ length: QUEUE }, (_, i) => i + 100));
  assertEquals(table.next(reader, "ahead"), undefined);
  // One whose request has been overwritten is found again when somebody waits for it.
  table.hurry(7);
  assertEquals(table.next(reader, "now"), 7);
});

Deno.test("the queues go on when the count of requests no longer fits into 32 bits", () => {
  const table = new LoadTable({ slots: 8 });
  // Words 5 and 6 count the requests of the two queues.
  const words = new Int32Array(table.memory);
  for (const start of [2 ** 31 - 3, -3]) {
    words[5] = start;
    const reader = { now: start, ahead: 0 };
    const behind = { now: start, ahead: 0 };
    for (let slot = 0; slot < 8; slot++) {
      table.publish(slot, load(), "now");
      assertEquals(table.next(reader, "now"), slot);
      assertEquals(table.next(reader, "now"), undefined);
    }
    assertEquals(Array.from({ length: 9 }, () => table.next(behind, "now")), [
      ...[0, 1, 2, 3, 4, 5, 6, 7],
      undefined,
    ]);
  }
});

Deno.test("waiting for a slot ends when it has been read or has failed", () => {
  const table = new LoadTable({ slots: 2 });
  assertEquals(table.settled(0), STATE.idle);
  table.setState(0, STATE.done);
  assertEquals(table.settled(0), STATE.done);
  table.fail(1, "cannot read: too dark");
  assertEquals(table.settled(1), STATE.failed);
});

Deno.test("waiting for a slot is ended by another thread", async () => {
  const table = new LoadTable({ slots: 1 });
  table.publish(0, load(), "now");
  assert(table.claim(0));
  const module = new URL("../../../src/backend/wasm/paging/load_table.ts", import.meta.url);
  const script = `
    import { LoadTable } from ${JSON.stringify(module.href)};
    self.onmessage = ({ data }) => {
      const table = new LoadTable({ memory: data });
      self.postMessage("waiting");
      self.postMessage(table.settled(0));
    };`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(script)}`, {
    type: "module",
  });
  try {
    const messages: unknown[] = [];
    const done = new Promise<void>((resolve) => {
      worker.onmessage = ({ data }) => {
        messages.push(data);
        if (messages.length === 1) setTimeout(() => table.setState(0, STATE.done), 20);
        else resolve();
      };
    });
    worker.postMessage(table.memory);
    await done;
    assertEquals(messages, ["waiting", STATE.done]);
  } finally {
    worker.terminate();
  }
});

Deno.test("a failure's text comes through, cut where it is very long", () => {
  const table = new LoadTable({ slots: 1 });
  const other = new LoadTable({ memory: table.memory });
  table.fail(0, `cannot read "größer.gguf": ${"x".repeat(500)}`);
  assertEquals(other.failure, `cannot read "größer.gguf": ${"x".repeat(500)}`);
  table.fail(0, "short");
  assertEquals(other.failure, "short");
  table.fail(0, "y".repeat(100_000));
  assertEquals(other.failure, "y".repeat(4096));
});

Deno.test("files are known by number, with the version that was opened", () => {
  const table = new LoadTable({ slots: 1 });
  const files = Array.from({ length: 300 }, (_, i) => ({
    file: `https://host/${"a long folder's name/".repeat(10)}model-${i}.gguf`,
    version: { size: 5e9 + i, etag: `"${"0".repeat(64)}"` },
  }));
  assertEquals(files.map((file) => table.addFile(file)), [...files.keys()]);
  assertEquals(table.addFile({ file: "größer.gguf" }), 300);
  const other = new LoadTable({ memory: table.memory });
  assertEquals(files.map((_, i) => other.file(i)), files);
  assertEquals(other.file(300), { file: "größer.gguf" });
});

Deno.test("more names of files than there is room for are refused", () => {
  const table = new LoadTable({ slots: 1 });
  table.addFile({ file: "first" });
  assertThrows(
    () => table.addFile({ file: "x".repeat(2 ** 20) }),
    CapacityError,
    "cannot page experts: the names of their files are more than",
  );
  assertEquals(table.addFile({ file: "second" }), 1);
  assertEquals(table.file(1), { file: "second" });
});

Deno.test("each request changes the signal, and so does the end", async () => {
  const table = new LoadTable({ slots: 1 });
  const { signal } = table;
  table.publish(0, load(), "now");
  assert(table.signal !== signal);
  // Both return at once, for the signal is another one by now.
  table.waitForSignal(signal);
  await table.signalled(signal);
  const waiting = table.signalled(table.signal);
  assertEquals(table.stopped, false);
  // Waiting alone does not keep Deno's event loop up, as a worker's messages do.
  const timer = setTimeout(() => {}, 10_000);
  table.stop();
  await waiting;
  clearTimeout(timer);
  assertEquals(table.stopped, true);
});
