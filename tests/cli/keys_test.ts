import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { openKeyFile } from "../../src/cli/key_file.ts";
import { main as keys } from "../../src/cli/keys.ts";
import { main as start } from "../../src/cli/start.ts";
import { OptionError } from "../../src/errors.ts";
import type { Server } from "../../src/server/serve.ts";
import { recordedIo, TINY_MODEL } from "./_io.ts";

/** A key and its line, as `deno task keys new` gives them. */
function made(...words: string[]): { key: string; line: string } {
  const io = recordedIo();
  assertEquals(keys(["new", ...words], io), 0);
  return { key: /sk-sluice-\S+/.exec(io.err())![0], line: io.out() };
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 5_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error("it never came to hold");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

Deno.test("the task keys shows a key once and prints the line that lets it in", () => {
  const { key, line } = made("alice", "rate=5/s", "concurrency=2");
  assert(/^alice sha256:[0-9a-f]{64} rate=5\/s concurrency=2\n$/.test(line), line);
  assert(!line.includes(key));
  assert(made("alice").key !== key);
  const run = (...words: string[]) => () => keys(words, recordedIo());
  assertThrows(run(), OptionError, "must be: deno task keys new NAME");
  assertThrows(run("new"), OptionError, "must be: deno task keys new NAME");
  assertThrows(run("new", "a/b"), OptionError, "its name is");
  assertThrows(run("new", "a", "rate=fast"), OptionError, 'the word "rate=fast"');
});

Deno.test("a key file that changes is read again; one that is wrong then changes nothing", async () => {
  const path = await Deno.makeTempFile();
  const [one, two] = [made("one"), made("two")];
  const errors: unknown[] = [];
  await Deno.writeTextFile(path, one.line);
  const file = await openKeyFile(path, { onError: (error) => errors.push(error), checkMs: 10 });
  try {
    assertEquals([file.keys.find(one.key)?.name, file.keys.find(two.key)], ["one", undefined]);
    await Deno.writeTextFile(path, `${one.line}${two.line}`);
    await until(() => file.keys.find(two.key) !== undefined);
    for (const wrong of ["", "garbage"]) {
      const before = errors.length;
      await Deno.writeTextFile(path, wrong);
      await until(() => errors.length > before);
      assertEquals(file.keys.find(one.key)?.name, "one");
    }
    await Deno.remove(path);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assertEquals(file.keys.find(one.key)?.name, "one");
    // As editors and `mv` do it.
    await Deno.writeTextFile(`${path}.new`, two.line);
    await Deno.rename(`${path}.new`, path);
    await until(() => file.keys.find(one.key) === undefined);
    assertEquals(file.keys.find(two.key)?.name, "two");
  } finally {
    file.close();
    await Deno.remove(path).catch(() => {});
  }
});

Deno.test({
  name: "a key file is read again at SIGHUP",
  ignore: Deno.build.os === "windows",
  async fn() {
    const path = await Deno.makeTempFile();
    const [one, two] = [made("one"), made("two")];
    await Deno.writeTextFile(path, one.line);
    const file = await openKeyFile(path, { onError: () => {}, checkMs: 60_000 });
    try {
      await Deno.writeTextFile(path, two.line);
      Deno.kill(Deno.pid, "SIGHUP");
      await until(() => file.keys.find(two.key) !== undefined);
      assertEquals(file.keys.find(one.key), undefined);
    } finally {
      file.close();
      await Deno.remove(path);
    }
  },
});

Deno.test("start serves those who have a key, and logs them by name", async () => {
  const path = await Deno.makeTempFile();
  const { key, line } = made("alice", "rate=3/min");
  await Deno.writeTextFile(path, line);
  const io = recordedIo();
  const stop = Promise.withResolvers<void>();
  const listening = Promise.withResolvers<Server>();
  const flags = ["--api-keys-file", path, "--log", "json", "--drain", "1", "--metrics", "off"];
  const code = start(["--port", "0", "--model", TINY_MODEL, "--threads", "1", ...flags], {
    ...io,
    stopped: stop.promise,
    onListening: listening.resolve,
  });
  try {
    const { url } = await listening.promise;
    await until(() => io.out() !== "");
    const ask = async (authorization: string, path = "completions") => {
      const response = await fetch(`${url}/v1/${path}`, {
        method: "POST",
        headers: { authorization },
        body: JSON.stringify({ prompt: [5, 6], max_tokens: 2 }),
      });
      await response.body?.cancel();
      return response.status;
    };
    assertEquals(await ask("Bearer sk-wrong"), 401);
    assertEquals(await ask(`Bearer ${key}`), 200);
    assertEquals(await ask(`Bearer ${key}`, "metrics"), 404);
    assertEquals(await ask(`Bearer ${key}`), 200);
    await until(() => io.err().split("\n").length > 4);
  } finally {
    stop.resolve();
    await Deno.remove(path);
  }
  assertEquals(await code, 0);
  const entries = io.err().trim().split("\n").map((entry) => JSON.parse(entry));
  assertEquals(entries.map(({ status, key }) => [status, key]), [
    [401, undefined],
    [200, "alice"],
    [404, "alice"],
    [200, "alice"],
  ]);
  assert(!io.err().includes(key));
});

Deno.test("start refuses a key file that is missing, wrong or empty, naming the line", async () => {
  const path = await Deno.makeTempFile();
  const run = () =>
    start(["--port", "0", "--model", TINY_MODEL, "--api-keys-file", path], {
      ...recordedIo(),
      stopped: new Promise(() => {}),
    });
  await assertRejects(run, OptionError, "has none, must have one");
  await Deno.writeTextFile(path, "# keys\nalice secret\n");
  const error = await run().catch((error) => error);
  assertStringIncludes(error.message, "line 2");
  await Deno.remove(path);
  await assertRejects(run, OptionError, "is unreadable");
});
