/** Reads of paged experts that fail end the requests that needed them, and no others. */

import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { ExpertReadError } from "../../src/errors.ts";
import { openEngine } from "../../src/engine/open_engine.ts";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { Engine, EngineOptions } from "../../src/engine/types.ts";
import { EXPERT_BYTES, MIXTURE, withCopy } from "../backend/paging/_paged.ts";
import { goldens } from "../model/_goldens.ts";
import { withRangeServer } from "../support/range_server.ts";
import { answerOf, toyRequest } from "./toy.ts";

const OPTIONS = {
  backend: "wasm",
  activations: "f32",
  threads: 2,
  slots: 3,
  chunkTokens: 16,
  expertCacheBytes: 10 * EXPERT_BYTES,
} as const;

const BYTES = Deno.readFileSync(MIXTURE);
const GOLDEN = goldens().find(({ id }) => id === "gguf/deepseek_v3.q8_0")!;

type Open = (options: EngineOptions) => Promise<Engine>;

async function withEngine(
  { open, model }: { open: Open; model: string },
  body: (engine: Engine) => Promise<void>,
): Promise<void> {
  const engine = await open({ ...OPTIONS, model });
  try {
    await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

/** All recorded answers, asked for at the same time. */
async function assertRight(engine: Engine): Promise<void> {
  const { sequences, greedy } = GOLDEN;
  const answers = await Promise.all(
    sequences.map((tokens) => answerOf(engine.generate(toyRequest(tokens, { maxTokens: 16 })))),
  );
  assertEquals(answers, greedy.map((tokens) => [...tokens]));
}

/** A long answer, in the midst of which `spoil` is called, must end with an error. */
async function assertEnds(engine: Engine, spoil: () => unknown): Promise<ExpertReadError> {
  const tokens: number[] = [];
  const run = async () => {
    const request = toyRequest(GOLDEN.sequences[1], { maxTokens: 200 });
    for await (const event of engine.generate(request)) {
      if (event.type !== "token") continue;
      tokens.push(event.token);
      if (tokens.length === 4) await spoil();
    }
  };
  const error = await assertRejects(run, ExpertReadError);
  assert(tokens.length >= 4 && tokens.length < 200, `${tokens.length} tokens came before`);
  const expected = [...GOLDEN.greedy[1]].slice(0, tokens.length);
  assertEquals(tokens.slice(0, expected.length), expected);
  return error;
}

for (const [name, open] of [["local engine", openLocalEngine], ["worker", openEngine]] as const) {
  Deno.test(`the ${name} ends a request whose experts cannot be read, and answers again later`, async () => {
    await withCopy(async (model) => {
      await withEngine({ open, model }, async (engine) => {
        await assertRight(engine);
        const spoil = () => Deno.truncate(model, BYTES.length / 2);
        const { message } = await assertEnds(engine, spoil);
        const start = 'cannot read an expert from "copied.gguf": the file ends at byte ';
        assert(message.startsWith(start), message);
        // As long as it lasts, each request ends so, and none stays.
        const requests = GOLDEN.sequences.map((tokens) =>
          answerOf(engine.generate(toyRequest(tokens, { maxTokens: 16 })))
        );
        for (const { status, ...result } of await Promise.allSettled(requests)) {
          assertEquals(status, "rejected");
          assertInstanceOf((result as PromiseRejectedResult).reason, ExpertReadError);
        }
        const { running, waiting } = engine.stats();
        assertEquals([running, waiting], [0, 0]);
        await Deno.writeFile(model, BYTES);
        await assertRight(engine);
        const { layers } = await engine.routingStats();
        assert(layers.every(({ traffic }) => traffic!.misses > 0 && traffic!.bytesRead > 0));
      });
    });
  });
}

Deno.test("the worker pages from a URL, also after its file was gone or another one", async () => {
  await withRangeServer({ files: { "served.gguf": MIXTURE } }, async (server) => {
    const model = `${server.url}served.gguf`;
    await withEngine({ open: openEngine, model }, async (engine) => {
      await assertRight(engine);
      for (
        const [spoil, restore, expected] of [
          [() => delete server.files["served.gguf"], () => {
            server.files["served.gguf"] = MIXTURE;
          }, "its answer is 404"],
          [() => server.etag = `"2"`, () => server.etag = `"1"`, "the file has changed"],
        ] as const
      ) {
        const { message } = await assertEnds(engine, spoil);
        assert(message.includes(expected), message);
        restore();
        await assertRight(engine);
      }
    });
  });
});

Deno.test("an engine that waits for experts from a slow server can be closed", async () => {
  await withRangeServer({ files: { "served.gguf": MIXTURE }, latencyMs: 5 }, async (server) => {
    await withEngine({ open: openEngine, model: `${server.url}served.gguf` }, async (engine) => {
      server.latencyMs = 100;
      const request = toyRequest(GOLDEN.sequences[1], { maxTokens: 500 });
      const answer = answerOf(engine.generate(request)).catch(() => []);
      const before = server.requests.length;
      while (server.requests.length < before + 3) await new Promise((go) => setTimeout(go, 10));
      await engine.close({ graceMs: 0 });
      assert((await answer).length < 500);
    });
  });
});
