import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  formatPaging,
  measurePaging,
  type PagingDriver,
  type PagingSetting,
  pagingSettings,
} from "../../src/bench/paging.ts";
import { contextOf, pagingPrompts } from "../../src/bench/paging_prompts.ts";
import { serveSlowly } from "../../src/bench/slow_server.ts";
import type { Request } from "../../src/bench/wire.ts";
import { main } from "../../src/cli/bench.ts";
import { OptionError } from "../../src/errors.ts";
import { ROOT, TINY_V3 } from "../support/fixtures.ts";

const MODEL = TINY_V3;
const DENSE = new URL("tests/data/goldens/gguf/qwen3/qwen3.q8_0.gguf", ROOT).pathname;

const OPTIONS = {
  model: MODEL,
  expertBytes: 14_082_048,
  threads: 1,
  activations: "q16",
  context: 64,
} as const;

/** Drivers whose paged steps take 20 ms, the others 10 ms, each step choosing ten experts. */
function fakeDrivers() {
  const asked: string[] = [];
  let closed = 0;
  const start = (setting: PagingSetting) => {
    const paged = setting.share !== undefined;
    const driver: PagingDriver = {
      run({ prompt, generate }: Request) {
        asked.push(`${setting.share ?? "all"} ${setting.lookAhead ?? "-"} ${prompt.join()}`);
        const steps = generate - 1;
        return Promise.resolve({
          promptTokens: prompt.length,
          prefillSeconds: 1,
          firstSeconds: 1,
          decodeTokens: steps,
          decodeSeconds: steps * (paged ? 0.02 : 0.01),
          resident: paged ? 60 : 120,
          hits: paged ? 5 * steps : 0,
          prefetched: paged ? 2 * steps : 0,
          misses: paged ? 3 * steps : 0,
          bytesRead: paged ? 3e6 * steps : 0,
          predicted: setting.lookAhead === "on" ? 4 * steps : 0,
          predictedRight: setting.lookAhead === "on" ? 3 * steps : 0,
          answer: setting.lookAhead === "off" ? 8 : 7,
        });
      },
      peakBytes: () => 150e6,
      close: () => Promise.resolve(void closed++),
    };
    return Promise.resolve(driver);
  };
  return { asked, start, closed: () => closed };
}

Deno.test("settings of paging take turns on each kind of prompts, after a round that does not count", async () => {
  const { asked, start, closed } = fakeDrivers();
  const kinds = [
    { kind: "sums", requests: [{ prompt: [1], generate: 9 }, { prompt: [2], generate: 3 }] },
    { kind: "text", requests: [{ prompt: [3], generate: 5 }] },
  ];
  const settings: PagingSetting[] = [
    {},
    { share: 0.5, lookAhead: "on" },
    { share: 0.5, lookAhead: "off" },
  ];
  const figures = await measurePaging({ ...OPTIONS, settings, kinds, runs: 2, start });
  const round = (prompts: number[]) =>
    ["all -", "0.5 on", "0.5 off"].flatMap((name) => prompts.map((id) => `${name} ${id}`));
  const sums = round([1, 2]);
  const text = round([3]);
  assertEquals(asked, [...sums, ...sums, ...sums, ...text, ...text, ...text]);
  assertEquals(closed(), 3);
  assertEquals(figures.map(({ kind }) => kind).join(), "sums,sums,sums,text,text,text");
  const [all, on, off] = figures;
  assertEquals([all.decode.median, on.decode.median].map(Math.round), [100, 50]);
  assertEquals([all.ofFirst, on.ofFirst, all.decode.runs], [1, 0.5, 2]);
  assertEquals([on.hitShare, on.prefetchedShare, on.missShare], [0.5, 0.2, 0.3]);
  assertEquals([all.hitShare, all.rightShare, on.rightShare], [undefined, undefined, 0.75]);
  assertEquals([on.bytesPerToken, on.resident, on.peakBytes], [3e6, 60, 150e6]);
  assertEquals([on.sameAnswers, off.sameAnswers], [true, false]);
  const lines = formatPaging(figures, { experts: 120, latencyMs: 20 }).split("\n");
  assertStringIncludes(lines[0], "20 ms late");
  const row = /look-ahead on +1 +q16 +60 +50\.0 \(50\.0-50\.0\) +0\.50 x +50 % +20 % +30 % +3\.00 /;
  assert(lines.some((line) => row.test(line)), lines.join("\n"));
  assert(lines.some((line) => line.endsWith("look-ahead off: ANOTHER ANSWER")));
});

Deno.test("shares are measured in three ways of looking ahead, a budget of memory in one", () => {
  const settings = pagingSettings({ shares: [0.5, 0.25], memoryBytes: 1e8 });
  assertEquals(settings.length, 8);
  assertEquals(settings[0], {});
  assertEquals(settings.slice(1, 4).map(({ lookAhead }) => lookAhead), ["by itself", "on", "off"]);
  assertEquals(settings.at(-1), { memoryBytes: 1e8, lookAhead: "by itself" });
});

Deno.test("prompts are sums as a user puts them, and pieces of a text that are as long as it allows", async () => {
  const [sums, text] = await pagingPrompts(MODEL, { decode: 8 });
  assertEquals([sums.kind, text.kind], ["sums", "text"]);
  assert(sums.requests.length >= 8 && text.requests.length === 4);
  assert(sums.requests.every(({ stopTokens }) => stopTokens!.length > 0));
  assert(text.requests.every(({ stopTokens, generate }) => !stopTokens && generate === 9));
  assertEquals(new Set(text.requests.map(({ prompt }) => prompt.join())).size, 4);
  const [, short] = await pagingPrompts(MODEL, { text: "the", decode: 8 });
  assertEquals(short.requests.length, 1);
  assertEquals(contextOf([short]), short.requests[0].prompt.length + 9);
  await assertRejects(() => pagingPrompts(MODEL, { text: "", decode: 8 }), OptionError, "is empty");
});

Deno.test("bench refuses to page a model without routed experts", async () => {
  await assertRejects(
    () => main(["--paging", "--model", DENSE]),
    OptionError,
    '--paging has "qwen3.q8_0.gguf", which has no routed experts',
  );
});

const mayRun = Deno.permissions.querySync({ name: "run" }).state === "granted";
if (!mayRun) console.log("skipped: measuring paging needs --allow-run");

Deno.test({
  name: "experts paged from a file and over a slow network give the answers of those in memory",
  ignore: !mayRun,
  async fn() {
    const [sums] = await pagingPrompts(MODEL, { decode: 8 });
    const requests = [{ ...sums.requests[0], generate: 12 }];
    const kinds = [{ kind: "sums", requests }];
    const settings: PagingSetting[] = [{}, { share: 0.25, lookAhead: "on" }];
    const measured = { ...OPTIONS, settings, kinds, runs: 1 };
    const server = serveSlowly({ path: MODEL, latencyMs: 2 });
    try {
      for (const url of [undefined, server.url]) {
        const [all, paged] = await measurePaging({ ...measured, url });
        assertEquals([all.resident, all.bytesPerToken, all.sameAnswers], [120, 0, true]);
        assert(paged.resident > 0 && paged.resident <= 30, `${paged.resident} are resident`);
        assert(paged.bytesPerToken > 0 && paged.missShare! > 0 && paged.rightShare! > 0);
        assertEquals(paged.sameAnswers, true);
      }
    } finally {
      await server.close();
    }
  },
});
