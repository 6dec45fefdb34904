/** Faults below an engine in a worker: what its streams become, and whether the next one is right. */

import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { openEngine } from "../../src/engine/open_engine.ts";
import type { Engine, EngineOptions } from "../../src/engine/types.ts";
import { CapacityError } from "../../src/errors.ts";
import { FAULT_KINDS, type Faults, parseFaults } from "../../src/faults.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { TINY_V3 } from "../support/fixtures.ts";
import { checkEndings, type Ending, HANG_MS, NEXT_ANSWER_MS, STREAMS, within } from "./_streams.ts";

const OPTIONS = {
  model: TINY_V3,
  backend: "wasm",
  activations: "q16",
  threads: 2,
  slots: STREAMS,
  chunkTokens: 32,
  contextLength: 256,
} as const satisfies EngineOptions;

/** Prompts of unlike lengths, so that steps mix prompts and answers. */
const PROMPTS = Array.from(
  { length: STREAMS },
  (_, stream) => Array.from({ length: 5 + 30 * stream }, (_, i) => 5 + (i * 7 + stream * 13) % 90),
);
const ANSWER_TOKENS = 24;

async function stream(engine: Engine, tokens: readonly number[]): Promise<Ending> {
  const given: number[] = [];
  let error: string | null = null;
  try {
    const request = {
      tokens,
      sampling: NEUTRAL_SAMPLING,
      maxTokens: ANSWER_TOKENS,
      stopTokens: [],
    };
    for await (const event of engine.generate(request)) {
      if (event.type === "token") given.push(event.token);
    }
  } catch (thrown) {
    assertInstanceOf(thrown, Error);
    error = thrown.message;
  }
  return { text: given.join(" "), error };
}

function allStreams(engine: Engine): Promise<Ending[]> {
  const all = Promise.all(PROMPTS.map((tokens) => stream(engine, tokens)));
  return within(HANG_MS, "the streams", all);
}

async function withEngine(
  faults: Faults | undefined,
  body: (engine: Engine) => Promise<void>,
  options: Partial<EngineOptions> = {},
): Promise<void> {
  const engine = await openEngine({ ...OPTIONS, ...options, faults });
  try {
    await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

/** The streams' texts without faults. */
async function wholeTexts(): Promise<string[]> {
  let texts: string[] = [];
  await withEngine(undefined, async (engine) => {
    const endings = await allStreams(engine);
    assertEquals(endings.map(({ error }) => error), PROMPTS.map(() => null));
    texts = endings.map(({ text }) => text);
  });
  return texts;
}

const whole = await wholeTexts();

/** The next request after a fault is right in time. */
async function checkNext(engine: Engine): Promise<void> {
  const next = await within(NEXT_ANSWER_MS, "the next answer", stream(engine, PROMPTS[0]));
  assertEquals(next, { text: whole[0], error: null });
}

/**
 * Streams, round after round, until a fault has ended some or `isOver`; returns their errors. A fault
 * that meets no stream which has begun ends none: they are all sent to the next worker.
 */
async function untilFault(
  engine: Engine,
  isOver: () => boolean = () => false,
): Promise<string[]> {
  const start = performance.now();
  while (performance.now() - start < HANG_MS) {
    const endings = await allStreams(engine);
    const failed = checkEndings(endings, whole);
    if (failed > 0 || isOver()) return endings.flatMap(({ error }) => error ?? []);
  }
  throw new Error("no fault has come");
}

for (const threads of [1, 2]) {
  for (const kind of ["worker", "vanish"] as const) {
    // One of two that vanishes is missed only after seconds; server_test.ts has it early and late too.
    for (const at of kind === "vanish" && threads === 2 ? [27] : [1, 8, 27]) {
      Deno.test(`${kind}:${at} with ${threads} threads is survived by streams that had not begun, ends the others with an error, and the next is right`, async () => {
        const faults = parseFaults(`${kind}:${at}`);
        // A second thread may come after the plan that the fault names, and one that falls is missed late.
        const late = performance.now() + (threads === 1 ? 0 : HANG_MS / 2);
        const isOver = () =>
          performance.now() >= late && faults.counts[FAULT_KINDS.indexOf(kind)] >= at;
        await withEngine(faults, async (engine) => {
          for (const error of await untilFault(engine, isOver)) {
            assert(error.includes("cannot compute: a kernel failed"), error);
          }
          await checkNext(engine);
          assertEquals(checkEndings(await allStreams(engine), whole), 0);
        }, { threads });
      });
    }
  }
}

Deno.test("threads that fall one after the other are each followed by a right answer", async () => {
  // One thread, so that none comes late and each fault meets the plan that it names.
  const faults = parseFaults("worker:9,worker:60,worker:61,worker:120");
  await withEngine(faults, async (engine) => {
    const isOver = () => faults.counts[FAULT_KINDS.indexOf("worker")] >= 120;
    let failed = 0;
    while (!isOver()) failed += (await untilFault(engine, isOver)).length;
    assert(failed > 0, "some streams had begun");
    await checkNext(engine);
    assertEquals(checkEndings(await allStreams(engine), whole), 0);
  }, { threads: 1 });
});

/** How often memories have been asked to grow. */
const growths = ({ counts }: Faults) => counts[FAULT_KINDS.indexOf("grow")];

Deno.test("whichever growth of several fails, opening refuses by name or the streams are right", async () => {
  const unfailing = parseFaults("grow:999999999");
  await withEngine(unfailing, async (engine) => {
    assertEquals(checkEndings(await allStreams(engine), whole), 0);
  });
  const count = growths(unfailing);
  assert(count >= 3, `${count} growths`);
  let refused = 0;
  for (let at = 1; at <= count; at += 3) {
    const faults = parseFaults(`grow:${at}`);
    let engine: Engine;
    try {
      engine = await openEngine({ ...OPTIONS, faults });
    } catch (error) {
      assertInstanceOf(error, CapacityError);
      assert(error.message.startsWith("cannot allocate "), error.message);
      refused++;
      // Nothing of the failed attempt is in the way of another.
      engine = await openEngine({ ...OPTIONS, faults });
    }
    try {
      // Where opening has not met the fault, streams do.
      if (growths(faults) <= count) checkEndings(await allStreams(engine), whole);
      await checkNext(engine);
    } finally {
      await engine.close({ graceMs: 0 });
    }
  }
  assert(refused > 0, "some growth is needed to open");
});

Deno.test("a memory that doesn't grow when the model is opened again costs the requests that wait, not more", async () => {
  const opening = parseFaults("grow:999999999");
  await withEngine(opening, () => Promise.resolve());
  const faults = parseFaults(`worker:9,grow:${growths(opening) + 2}`);
  await withEngine(faults, async (engine) => {
    const isRefused = (error: string | null) => error?.startsWith("cannot allocate ") ?? false;
    const errors = await untilFault(engine);
    // A stream that the first fault let go on has waited for the memory; else the next ones do.
    if (!errors.some(isRefused)) {
      const endings = await allStreams(engine);
      assertEquals(endings.map(({ text }) => text), PROMPTS.map(() => ""));
      for (const { error } of endings) assert(isRefused(error), String(error));
    }
    await checkNext(engine);
  });
});

Deno.test("an engine whose first opening fails rejects and leaves no worker behind", async () => {
  const faults = parseFaults("grow:1");
  await assertRejects(() => openEngine({ ...OPTIONS, faults }), CapacityError, "cannot allocate");
});
