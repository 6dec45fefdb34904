import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import type { Answer, Outcome } from "../../src/bench/serving/client.ts";
import { ask, completionOf, streamsOf } from "../../src/bench/serving/client.ts";
import { burstOf } from "../../src/bench/serving/connections.ts";
import { Mixture } from "../../src/bench/serving/memory.ts";
import { formatServing, measureServing } from "../../src/bench/serving/mod.ts";
import type { ServingOptions } from "../../src/bench/serving/options.ts";
import { RandomPrompts } from "../../src/bench/serving/prompts.ts";
import { isWhole } from "../../src/bench/serving/raw_http.ts";
import { metricOf, parseResident } from "../../src/bench/serving/server_process.ts";
import { figuresOf, parseStreams } from "../../src/bench/serving/streams.ts";
import {
  formatThroughput,
  measureThroughput,
  type StreamsEngine,
} from "../../src/bench/serving/throughput.ts";
import { percentile, type Point, slopeOf } from "../../src/bench/statistics.ts";
import { MARK } from "../../src/bench/wire.ts";
import { readWorkload } from "../../src/bench/workload.ts";
import { main } from "../../src/cli/bench.ts";
import { BENCH_FLAGS } from "../../src/cli/bench_flags.ts";
import { parseFlags } from "../../src/cli/flags.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
import { recordedIo } from "../cli/_io.ts";
import { TINY_V3 } from "../support/fixtures.ts";

const MODEL = TINY_V3;

function parse(...args: string[]) {
  return parseFlags(BENCH_FLAGS, { command: "bench", args, env: () => undefined }).values;
}

async function optionsOf(some: Partial<ServingOptions> = {}): Promise<ServingOptions> {
  return {
    model: MODEL,
    workload: await readWorkload(MODEL),
    unitBytes: 122_880,
    threads: 1,
    activations: "q16",
    serverFlags: {},
    runs: 2,
    streams: [1, 2],
    prompt: 8,
    answer: 4,
    prefix: 80,
    requests: 12,
    idle: 5,
    burst: 6,
    onProgress: () => {},
    ...some,
  };
}

Deno.test("--serving alone means every part, and with a list those it names", () => {
  const all = ["throughput", "prefix", "store", "writing", "connections", "memory", "speculation"];
  assertEquals(parse("--serving").serving, all as never);
  assertEquals(parse("--serving", "--runs", "2").serving, all as never);
  assertEquals(parse("--serving", "prefix,memory").serving, ["prefix", "memory"]);
  assertEquals(parse("--serving=writing").serving, ["writing"]);
  assertEquals(parse("--runs", "2").serving, []);
  assertThrows(() => parse("--serving", "speed"), OptionError, '--serving is "speed"');
});

Deno.test("servers get the further flags that are named, and wrong ones are refused", () => {
  const flags = parse("--server-flags", "kv-type=q8,max-waiting=64")["server-flags"];
  assertEquals(flags, { "kv-type": "q8", "max-waiting": "64" });
  assertThrows(() => parse("--server-flags", "kv-type"), OptionError, "--server-flags is");
});

Deno.test("a percentile is the smallest value with that share at or below it", () => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  assertEquals(percentile(hundred, 0.99), 99);
  assertEquals(percentile(hundred, 0.5), 50);
  assertEquals(percentile([7, 3], 0.99), 7);
  assertEquals(percentile([7, 3], 0), 3);
  assertEquals(percentile([], 0.5), undefined);
});

Deno.test("the slope of points is that of the nearest line, and needs two places", () => {
  assertEquals(slopeOf([[0, 5], [1, 7], [2, 9]]), 2);
  const around: Point[] = [[0, 1], [0, -1], [10, 31], [10, 29]];
  assertEquals(slopeOf(around), 3);
  assertEquals(slopeOf([[4, 1], [4, 2]]), undefined);
  assertEquals(slopeOf([]), undefined);
});

Deno.test("decoding counts from the last stream's first token to the first stream's last", () => {
  const figures = figuresOf([
    { submitted: 0, arrivals: [1, 2, 3, 4], tokens: 4 },
    { submitted: 0, arrivals: [2, 3, 4, 5], tokens: 4 },
  ]);
  // Within (2, 4]: two tokens of each.
  assertEquals(figures.decode, 2);
  assertEquals(figures.endToEnd, 8 / 5);
  assertEquals(figures.firstToken, { median: 1.5, max: 2 });
  assertEquals(figures.gaps, { median: 1, p99: 1, spread: 1 });
});

Deno.test("one stream decodes its tokens after the first, and pieces may hold several", () => {
  const one = figuresOf([{ submitted: 0.5, arrivals: [1, 1.5, 2], tokens: 6 }]);
  assertEquals([one.decode, one.endToEnd, one.firstToken.max], [4, 4, 0.5]);
  assertThrows(() => figuresOf([]), RangeError, "some are empty");
  assertThrows(() => figuresOf([{ submitted: 0, arrivals: [], tokens: 0 }]), RangeError);
});

Deno.test("streams that never decode together have no decode rate", () => {
  const figures = figuresOf([
    { submitted: 0, arrivals: [1, 2], tokens: 2 },
    { submitted: 0, arrivals: [3, 4], tokens: 2 },
  ]);
  assertEquals([figures.decode, figures.endToEnd], [undefined, 1]);
});

Deno.test("gaps while others' prompts are computed are told from those of decoding alone", () => {
  const first = [1, 2, 6, 7, 8, 9];
  const figures = figuresOf([
    { submitted: 0, arrivals: first, tokens: first.length },
    { submitted: 0, arrivals: [6, 7, 8, 9], tokens: 4 },
  ]);
  assertEquals([figures.gaps!.p99, figures.decodeGaps!.p99], [4, 1]);
});

Deno.test("a driver's streams are read, and times that run backwards refused", () => {
  const read = (streams: unknown) => parseStreams(MARK + JSON.stringify({ streams }));
  assertEquals(read([[0.5, 1], [2]]), [
    { submitted: 0, arrivals: [0.5, 1], tokens: 2 },
    { submitted: 0, arrivals: [2], tokens: 1 },
  ]);
  for (const wrong of [[], [[]], [[1, 0.5]], [[-1]], [["1"]], 3, undefined]) {
    assertThrows(() => read(wrong), FormatError, "cannot read a driver's answer");
  }
});

Deno.test("resident bytes and metrics are read as they are written", () => {
  assertEquals(parseResident("VmHWM:\t 9 kB\nVmRSS:\t  123 kB\n"), 123 * 1024);
  assertEquals(parseResident(""), undefined);
  const page = '# TYPE pages gauge\npages{model="a{b}",state="used"} 3\n' +
    'pages{model="a{b}",state="free"} 4\nrunning 1.5\n';
  assertEquals(metricOf(page, { name: "pages" }), 7);
  assertEquals(metricOf(page, { name: "pages", labels: { state: "free" } }), 4);
  assertEquals(metricOf(page, { name: "running" }), 1.5);
  assertEquals(metricOf(page, { name: "page" }), undefined);
});

Deno.test("a response is whole once its last chunk or its last byte is there", () => {
  const head = "HTTP/1.1 200 OK\r\n";
  const chunked = `${head}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`;
  for (let length = 0; length < chunked.length; length++) {
    assertEquals(isWhole(chunked.slice(0, length)), false, chunked.slice(0, length));
  }
  assertEquals(isWhole(chunked), true);
  assertEquals(isWhole(`${head}content-length: 2\r\n\r\n{`), false);
  assertEquals(isWhole(`${head}content-length: 2\r\n\r\n{}`), true);
});

Deno.test("requests at once are counted by what became of them", () => {
  const answer = (outcome: Outcome, status: number, error?: string): Answer => ({
    ...{ outcome, status, error, submitted: 1, ended: 3, text: "" },
    arrivals: outcome === "whole" ? [2] : [],
    usage: undefined,
    timings: undefined,
  });
  const burst = burstOf([
    answer("whole", 200),
    answer("refused", 503),
    answer("refused", 429),
    answer("refused", 500, "a fault"),
    answer("unreachable", 0, "connection reset"),
  ]);
  assertEquals(burst.outcomes, {
    ...{ whole: 1, "refused 503": 1, "refused 429": 1, "refused 500": 1, unreachable: 1 },
  });
  assertEquals([burst.wrong, burst.errors], [2, ["a fault", "connection reset"]]);
  assertEquals([burst.firstToken?.median, burst.refusal?.median], [1, 2]);
});

Deno.test("an answer that isn't whole gives no figures", () => {
  const answer = {
    ...{ outcome: "cut", status: 200, submitted: 0, ended: 1, arrivals: [1], text: "a" } as const,
    ...{ usage: undefined, timings: undefined, error: "reset" },
  };
  assertThrows(() => streamsOf([answer]), Error, "is cut (status 200, 1 pieces)");
});

Deno.test("random prompts differ, and come again with their seed", () => {
  const prompts = () => new RandomPrompts({ vocabSize: 4096, seed: 9 });
  const first = prompts();
  const [a, b] = [first.next(16), first.next(16)];
  assert(a.join() !== b.join());
  assertEquals(prompts().next(16), a);
  assert([...a, ...b].every((id) => id >= 0 && id < 4096));
});

Deno.test("a mixture has all kinds of requests, and its known prompts come again", () => {
  const mixture = new Mixture(new RandomPrompts({ vocabSize: 4096, seed: 9 }));
  const requests = Array.from({ length: 400 }, () => mixture.next());
  const kinds = Map.groupBy(requests, ({ kind }) => kind);
  assertEquals([...kinds.keys()].toSorted(), ["known", "left", "short", "streamed"]);
  for (const some of kinds.values()) assert(some.length > 60, `${some.length} of a kind`);
  const texts = (kind: "known" | "streamed") =>
    new Set(kinds.get(kind)!.map(({ prompt }) => prompt.join())).size;
  assertEquals([texts("known"), texts("streamed")], [16, kinds.get("streamed")!.length]);
  assert(requests.every(({ prompt, answer }) => prompt.length + answer < 256));
});

/** An engine whose tokens come so many seconds apart, whatever the number of streams. */
function fakeEngine(name: string, kind: "own" | "peer", gap: number) {
  const asked: number[] = [];
  let closed = 0;
  const engine: StreamsEngine = {
    ...{ name, kind, version: `${name} 1.0` },
    run(prompts, generate) {
      asked.push(prompts.length);
      return Promise.resolve(prompts.map(() => ({
        submitted: 0,
        arrivals: Array.from({ length: generate }, (_, i) => 1 + i * gap),
        tokens: generate,
      })));
    },
    cpuSeconds: () => undefined,
    close: () => Promise.resolve(void closed++),
  };
  return { engine, asked, closed: () => closed };
}

Deno.test("engines take turns with each number of streams, after a round that does not count", async () => {
  const ours = fakeEngine("sluice", "own", 0.25);
  const theirs = fakeEngine("theirs", "peer", 0.5);
  const start = () => Promise.resolve({ engines: [ours.engine, theirs.engine], skipped: [] });
  const figures = await measureThroughput(await optionsOf(), start);
  assertEquals([ours.asked, theirs.asked], [[1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2]]);
  assertEquals([ours.closed(), theirs.closed()], [1, 1]);
  assertEquals(figures.rows.map(({ streams, decode }) => [streams, decode?.median]), [
    ...[[1, 4], [2, 8], [1, 2], [2, 4]],
  ]);
  assertEquals(figures.rows.map(({ ofFirst, decode }) => [ofFirst, decode?.runs]), [
    ...[[1, 2], [2, 2], [1, 2], [2, 2]],
  ]);
  assertEquals(figures.ratios.map(({ streams, decode }) => [streams, decode]), [[1, 2], [2, 2]]);
  const text = formatThroughput(figures).join("\n");
  assert(/^sluice +2 +8\.00 \(8\.00-8\.00\) +2\.00 x /m.test(text), text);
  assertStringIncludes(text, "sluice / theirs");
});

Deno.test("a part that fails is named, and the others' figures stand", async () => {
  const options = await optionsOf({ prefix: 5000 });
  const figures = await measureServing(["prefix"], options);
  assertEquals(figures.failed.map(({ name }) => name), ["prefix"]);
  assertStringIncludes(figures.failed[0].reason, "must fit the model's");
  assertStringIncludes(formatServing([figures]), "prefix failed: cannot bench:");
});

Deno.test("a server that isn't there makes an answer that is unreachable", async () => {
  const answer = await ask({ url: "http://127.0.0.1:1" }, { body: completionOf([1], 1) });
  assertEquals([answer.outcome, answer.status], ["unreachable", 0]);
});

const mayRun = Deno.permissions.querySync({ name: "run" }).state === "granted";
if (!mayRun) console.log("skipped: measuring a server needs --allow-run");

Deno.test({
  name: "a server's answers side by side and its connections are measured",
  ignore: !mayRun,
  async fn() {
    const parts = ["throughput", "connections"] as const;
    const figures = await measureServing(parts, await optionsOf({ runs: 1, streams: [2] }));
    assertEquals(figures.failed, []);
    const { throughput, connections } = figures;
    assertEquals(throughput!.rows.map(({ streams }) => streams), [2]);
    assert(throughput!.rows.every(({ endToEnd }) => endToEnd!.median > 0));
    assertEquals([connections!.idle.opened, connections!.burst.wrong], [5, 0]);
    assert(connections!.health.requests > 0 && connections!.health.p99 > 0);
  },
});

// Deno gives /proc/PID to nobody with fewer permissions.
const mayAll = Deno.permissions.querySync({ name: "read", path: "/proc" }).state === "granted" &&
  isReadable(`/proc/${Deno.pid}/status`);
if (!mayAll) console.log("skipped: measuring a server's memory needs to read /proc (-A)");

function isReadable(path: string): boolean {
  try {
    Deno.readTextFileSync(path);
    return true;
  } catch {
    return false;
  }
}

Deno.test({
  name: "a server's memory is measured over mixed requests",
  ignore: !mayRun || !mayAll,
  async fn() {
    const figures = await measureServing(["memory"], await optionsOf({ runs: 1, streams: [2] }));
    assertEquals(figures.failed, []);
    const { memory } = figures;
    const counted = Object.values(memory!.outcomes).reduce((sum, count) => sum + count, 0);
    assertEquals([counted, memory!.leftRunning, memory!.pages.used], [12, 0, 0]);
    assert(memory!.kvBytes! > 0 && memory!.kvBytes! <= memory!.kvBudget);
  },
});

Deno.test("bench ends with 1 where a part of a server could not be measured, and prints what failed", async () => {
  const { stdout, stderr, ...printed } = recordedIo();
  const args = ["--serving", "prefix", "--prefix", "5000", "--model", MODEL, "--threads", "1"];
  assertEquals(await main([...args, "--json"], { stdout, stderr }), 1);
  const [{ failed }] = JSON.parse(printed.out()).serving;
  assertEquals(failed.map(({ name }: { name: string }) => name), ["prefix"]);
});

Deno.test("bench refuses to serve a model that isn't there", async () => {
  await assertRejects(() => main(["--serving", "prefix", "--model", "/nowhere.gguf"]));
});
