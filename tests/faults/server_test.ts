/** Faults below a served model: a process as `deno task start` starts it, with SLUICE_FAULT set. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { linesOf } from "../../src/cli/lines.ts";
import { ROOT } from "../support/fixtures.ts";
import { checkEndings, type Ending, HANG_MS, NEXT_ANSWER_MS, STREAMS, within } from "./_streams.ts";

const mayRun = Deno.permissions.querySync({ name: "run" }).state === "granted";
if (!mayRun) console.log("skipped: starting a process needs --allow-run");

const FLAGS = ["--port=0", "--threads=2", "--slots=4", "--context=256"];
const PROMPTS = Array.from(
  { length: STREAMS },
  (_, stream) => `${"What is 1 + 2? 3. ".repeat(1 + 2 * stream)}What is ${stream} + ${stream}?`,
);

type Ended = Promise<{ code: number; stderr: string }>;

/**
 * Runs `body` beside a server with these faults; `url` is undefined where it ended instead of serving.
 * Returns what the server has written to its standard error.
 */
async function serving(
  faults: string,
  body: (url: string | undefined, ended: Ended) => Promise<void>,
  flags: readonly string[] = [],
): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-prompt", "src/cli/start.ts", ...FLAGS, ...flags],
    cwd: ROOT,
    env: { SLUICE_FAULT: faults, SLUICE_MODEL: "", SLUICE_BACKEND: "", SLUICE_MEMORY: "" },
    ...{ stdin: "null", stdout: "piped", stderr: "piped" },
  }).spawn();
  const hang = setTimeout(() => child.kill("SIGKILL"), 4 * HANG_MS);
  const stderr = new Response(child.stderr).text();
  const ended: Ended = child.status.then(async ({ code }) => ({ code, stderr: await stderr }));
  const lines = linesOf(child.stdout);
  try {
    const { value } = await lines.next();
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(value ?? "")?.[0];
    await body(url, ended);
  } finally {
    clearTimeout(hang);
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended by itself.
    }
    await ended;
    await lines.return(undefined);
  }
  return (await ended).stderr;
}

/** A streamed completion: its text, and the error that ended it. */
async function stream(url: string, prompt: string): Promise<Ending> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({ prompt, max_tokens: 24, temperature: 0, stream: true }),
  });
  const body = await response.text();
  if (response.status !== 200) return { text: "", error: JSON.parse(body).error.message };
  let text = "";
  let error: string | null = null;
  const events = [...body.matchAll(/^data: (.*)$/gm)].map(([, data]) => data);
  for (const data of events) {
    if (data === "[DONE]") continue;
    const event = JSON.parse(data);
    if (event.error !== undefined) error = event.error.message;
    else text += event.choices[0]?.text ?? "";
  }
  // A stream never just ends.
  assertEquals(error === null, events.at(-1) === "[DONE]", body);
  return { text, error };
}

function allStreams(url: string): Promise<Ending[]> {
  const all = Promise.all(PROMPTS.map((prompt) => stream(url, prompt)));
  return within(HANG_MS, "the streams", all);
}

/** The streams' texts from a server without faults. */
async function wholeTexts(): Promise<string[]> {
  let texts: string[] = [];
  await serving("", async (url) => {
    assert(url !== undefined);
    const endings = await allStreams(url);
    assertEquals(endings.map(({ error }) => error), PROMPTS.map(() => null));
    texts = endings.map(({ text }) => text);
  });
  return texts;
}

const whole = mayRun ? await wholeTexts() : [];

/** Asks for /health until told to stop; every answer must be right. */
function watchHealth(url: string): { stop(): Promise<number> } {
  let stopping = false;
  const watching = (async () => {
    let longest = 0;
    while (!stopping) {
      const start = performance.now();
      const response = await fetch(`${url}/health`);
      await response.body?.cancel();
      assertEquals(response.status, 200);
      longest = Math.max(longest, performance.now() - start);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return longest;
  })();
  // Whoever stops it hears of its failure; where a test fails before that, the test's own counts.
  watching.catch(() => {});
  return {
    stop: () => {
      stopping = true;
      return watching;
    },
  };
}

/** Each has as many plans as its longest answer has tokens. */
const ROUNDS = 4;
/** On a busy machine a second thread may come after seconds, and the fault that needs it with it. */
const LATE_MS = 4000;

/** Streams, round after round, in which the fault comes; none need fail, for those not begun go on. */
async function meetFault(url: string): Promise<void> {
  const start = performance.now();
  let failed = 0;
  for (let round = 0; round < ROUNDS || failed === 0; round++) {
    if (round >= ROUNDS && performance.now() - start > LATE_MS) return;
    failed += checkEndings(await allStreams(url), whole);
  }
}

for (const faults of ["worker:1", "worker:14", "worker:60", "vanish:3", "vanish:30"]) {
  Deno.test({
    name:
      `a server that meets ${faults} ends streams with error events, lives on, and answers right`,
    ignore: !mayRun,
    async fn() {
      await serving(faults, async (url) => {
        assert(url !== undefined);
        const health = watchHealth(url);
        await meetFault(url);
        const next = await within(
          NEXT_ANSWER_MS,
          "the next answer",
          stream(url, PROMPTS[0]),
        );
        assertEquals(next, { text: whole[0], error: null });
        assertEquals(checkEndings(await allStreams(url), whole), 0);
        const longest = await health.stop();
        assert(longest < NEXT_ANSWER_MS, `/health took ${longest} ms`);
      });
    },
  });
}

for (
  const faults of [
    "kv:1",
    "kv:2,kv:3,kv:4",
    Array.from({ length: 40 }, (_, i) => `kv:${3 * i + 5}`).join(),
    "kv:slow:300",
    "kv:gone",
  ]
) {
  Deno.test({
    name: `a server whose cache meets ${faults.slice(0, 20)} answers every stream right`,
    ignore: !mayRun,
    async fn() {
      const state = await Deno.makeTempDir();
      try {
        // The second server finds what the first one kept, as far as the faults let both.
        for (let run = 0; run < 2; run++) {
          const stderr = await serving(faults, async (url) => {
            assert(url !== undefined);
            for (let round = 0; round < 3; round++) {
              assertEquals(checkEndings(await allStreams(url), whole), 0);
            }
          }, [`--state=${state}`]);
          if (faults === "kv:gone") assertMatch(stderr, /^warning: .*prefix cache/m);
        }
      } finally {
        await Deno.remove(state, { recursive: true });
      }
    },
  });
}

Deno.test({
  name: "a server that cannot get its memory says so and ends",
  ignore: !mayRun,
  async fn() {
    await serving("grow:1", async (url, ended) => {
      assertEquals(url, undefined);
      const { code, stderr } = await within(HANG_MS, "ending", ended);
      assertEquals(code, 1);
      assertMatch(stderr, /cannot allocate .*: \d+ bytes are asked for/);
    });
  },
});
