import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { ENGINE_FLAGS, loadOptions } from "../../src/cli/engine_flags.ts";
import { parseFlags } from "../../src/cli/flags.ts";
import { main as generate } from "../../src/cli/generate.ts";
import { SERVING_FLAGS } from "../../src/cli/serving_flags.ts";
import { describeServing, hostsFor, main } from "../../src/cli/start.ts";
import { FormatError, OptionError } from "../../src/errors.ts";
import type { Server } from "../../src/server/serve.ts";
import type { EngineInfo } from "../../src/engine/types.ts";
import { formatTrace } from "../../src/experts/trace.ts";
import { randomTrace } from "../experts/_traces.ts";
import { FakeEngine } from "../routes/_fake_engine.ts";
import { recordedIo, TINY_MODEL } from "./_io.ts";

const never = new Promise<void>(() => {});

/** Starts a server, waits until it is ready, and stops it after `use`. */
async function started(
  args: readonly string[],
  use: (url: string) => Promise<void>,
): Promise<{ out: string; code: number }> {
  const io = recordedIo();
  const stop = Promise.withResolvers<void>();
  const listening = Promise.withResolvers<Server>();
  const code = main(["--port", "0", ...args], {
    ...io,
    stopped: stop.promise,
    onListening: listening.resolve,
  });
  const server = await listening.promise;
  try {
    const deadline = performance.now() + 20_000;
    while (true) {
      const response = await fetch(`${server.url}/health`);
      await response.body?.cancel();
      if (response.status === 200) break;
      assertEquals(response.status, 503);
      assert(performance.now() < deadline, "the model did not load in time");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await use(server.url);
  } finally {
    stop.resolve();
  }
  return { out: io.out(), code: await code };
}

Deno.test("start serves a model, says what it is in one line, drains and exits with 0", async () => {
  const { out, code } = await started(["--model", TINY_MODEL, "--threads", "1"], async (url) => {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({
        messages: [{ role: "user", content: "hidden" }],
        max_tokens: 5,
        temperature: 0,
        logprobs: true,
        top_logprobs: 2,
      }),
    });
    assertEquals(response.status, 200);
    const answer = await response.json();
    assertEquals(answer.model, "qwen3.q8_0");
    assert(answer.usage.completion_tokens <= 5 && answer.usage.prompt_tokens > 0);
  });
  assertEquals(code, 0);
  const lines = out.trim().split("\n");
  assertEquals(lines.length, 1);
  for (
    const part of [
      ...["199.3k parameters", "Q8_0", "wasm backend (chosen by itself), q16 activations"],
      ...["| 1 thread |", "256 tokens"],
    ]
  ) assertStringIncludes(lines[0], part);
  assertStringIncludes(lines[0], "http://127.0.0.1:");
});

Deno.test("the line that start prints names the GPU, whose choice it was, and threads only where they compute", () => {
  const { info } = new FakeEngine({
    vocabSize: 8,
    script: () => {
      throw new Error("unasked");
    },
  });
  const backendOf = (fields: Partial<EngineInfo>) =>
    describeServing({ ...info, ...fields }, "http://x").split(" | ").slice(3, 5);
  const adapter = "NVIDIA H200";
  assertEquals(
    backendOf({ backend: "webgpu", adapter, backendChosen: true, activations: "f32" }),
    [
      `webgpu backend on ${adapter} (chosen by itself), f32 activations`,
      "1 B weights + 1 B KV + 1 B workspace",
    ],
  );
  assertEquals(
    backendOf({ backend: "hybrid", adapter, activations: "q16", threads: 8 }),
    [`hybrid backend on ${adapter} (as asked), q16 activations`, "8 threads"],
  );
});

Deno.test("a hybrid's flags become its options, and a trace is read for no other backend", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const size = { layers: 2, experts: 5, topK: 2, documents: 1, decodeSteps: 3, prefillRows: 4 };
    await Deno.writeTextFile(`${folder}/trace`, formatTrace(randomTrace({ seed: 1, ...size })));
    const optionsOf = (...args: string[]) => {
      const options = { command: "start", args, env: () => undefined };
      return loadOptions(parseFlags(ENGINE_FLAGS, options).values, "m");
    };
    const hybrid = ["--backend", "hybrid", "--gpu-memory", "3GB"];
    const { backend, gpuBytes, hybrid: split } = optionsOf(
      ...hybrid,
      "--routing",
      `${folder}/trace`,
    );
    assertEquals([backend, gpuBytes, split!.always], ["hybrid", 3e9, false]);
    assertEquals(split!.counts!.map(({ layer, counts }) => [layer, counts.length]), [[1, 5], [
      2,
      5,
    ]]);
    assertEquals(optionsOf(...hybrid, "--hybrid", "always").hybrid?.always, true);
    assertEquals(optionsOf("--backend", "wasm", "--routing", "missing").hybrid, undefined);
    assertThrows(() => optionsOf(...hybrid, "--routing", `${folder}/none`), FormatError, "missing");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("--reward is a preset or weights of functions, and is refused by name otherwise", async () => {
  const weightsOf = (...args: string[]) =>
    parseFlags(SERVING_FLAGS, { command: "start", args, env: () => undefined }).values.reward;
  assertEquals(weightsOf(), { solution_accuracy: 0.9, format: 0.1 });
  assertEquals(weightsOf("--reward", "article").logical_consistency, 0.4);
  assertEquals(weightsOf("--reward=efficiency:2, format:0.5"), { efficiency: 2, format: 0.5 });
  for (const wrong of ["best", "format", "format:-1", "format:0", "luck:1", "format:1,"]) {
    assertThrows(
      () => weightsOf("--reward", wrong),
      OptionError,
      `--reward is "${wrong}", must be one of article, verifiable, or weights such as`,
    );
  }
  await started(["--model", TINY_MODEL, "--threads", "1", "--reward", "format:1"], async (url) => {
    const body = JSON.stringify({ query: ["a <think>b</think>2"], prompts: ["a "], labels: ["1"] });
    const response = await fetch(`${url}/get_reward`, { method: "POST", body });
    assertEquals((await response.json()).rewards, [1]);
  });
});

Deno.test("scores of a prompt over HTTP are those of its own greedy answer", async () => {
  await started(["--model", TINY_MODEL, "--backend", "reference"], async (url) => {
    const ask = async (fields: Record<string, unknown>) => {
      const body = JSON.stringify({ temperature: 0, logprobs: 1, ...fields });
      const response = await fetch(`${url}/v1/completions`, { method: "POST", body });
      return await response.json();
    };
    const prompt = [5, 60, 200, 30];
    const generated = (await ask({ prompt, max_tokens: 6, ignore_eos: true, echo: true }))
      .choices[0].logprobs;
    assertEquals(generated.tokens.length, prompt.length + 6);
    const { tokens } = await (await fetch(`${url}/tokenize`, {
      method: "POST",
      body: JSON.stringify({ prompt: generated.tokens.slice(4, 10).join("") }),
    })).json();
    const both = await ask({ prompt: [prompt, [...prompt, 7]], max_tokens: 1, echo: true });
    assert(tokens.length > 0);
    for (const [i, choice] of both.choices.entries()) {
      const { token_logprobs: own, top_logprobs: top } = choice.logprobs;
      assertEquals(own.length, prompt.length + i + 1);
      assertEquals(own[0], null);
      // The prompt's first tokens score the same in whatever it stands.
      assertEquals(own.slice(1, 4), generated.token_logprobs.slice(1, 4));
      // The answer is greedy: bit for bit the largest.
      assert(Object.is(own.at(-1), Math.max(...Object.values<number>(top.at(-1)))));
    }
    assertEquals(both.choices[0].logprobs.token_logprobs[4], generated.token_logprobs[4]);
  });
});

for (const backend of ["wasm", "reference"]) {
  Deno.test(`start without a model serves the built-in one, which thinks and adds (${backend})`, async () => {
    const { out } = await started(["--backend", backend], async (url) => {
      const ask = async (path: string, body?: unknown) => {
        const response = await fetch(`${url}/v1/${path}`, {
          method: body === undefined ? "GET" : "POST",
          body: JSON.stringify(body),
        });
        assertEquals(response.status, 200);
        return await response.json();
      };
      // As a client sends it that knows nothing of temperatures.
      const messages = [{ role: "user", content: "What is 47 + 38?" }];
      const fields = { return_routed_experts: true, return_prompt_routed_experts: true };
      const answer = await ask("chat/completions", { messages, ...fields });
      assertEquals(answer.model, "sluice_26m_a7m.q8_0");
      const [{ message, finish_reason: finish, routed_experts: routed }] = answer.choices;
      assertStringIncludes(message.content, "85");
      assertStringIncludes(message.reasoning_content, "47 + 38");
      assertEquals(finish, "stop");
      const { prompt_tokens: asked, completion_tokens: said } = answer.usage;
      assertEquals([answer.prompt_routed_experts.length, routed.length], [asked, said]);
      const { layers, tokens } = await ask("moe/stats");
      assertEquals(tokens, asked + said);
      assertEquals(layers.map(({ layer }: { layer: number }) => layer), [1, 2, 3, 4, 5, 6, 7]);
      for (const [i, { experts, top_k: topK, load }] of layers.entries()) {
        assertEquals([experts, topK, load.length], [32, 4, 32]);
        const counted = new Array(32).fill(0);
        for (const token of [...answer.prompt_routed_experts, ...routed]) {
          assertEquals(new Set(token[i]).size, 4);
          for (const expert of token[i]) counted[expert]++;
        }
        assertEquals(load, counted);
      }
    });
    for (const part of ["26.3M parameters", "Q8_0", "1024 tokens"]) assertStringIncludes(out, part);
  });
}

Deno.test("start refuses wrong flags, folders and files before it serves", async () => {
  const run = (...args: string[]) => main(args, { ...recordedIo(), stopped: never });
  await assertRejects(() => run("--port", "x", "--model", "m"), OptionError, "--port is");
  await assertRejects(
    () => run("--model", "m", "--allowed-hosts", "a:80"),
    OptionError,
    "host names without port",
  );
  await assertRejects(
    () => run("--model", "m", "--state", TINY_MODEL),
    OptionError,
    "must be a folder",
  );
  for (const url of ["kv.example", "ftp://kv.example", "http://", "http://a b", "https://a:b@c"]) {
    await assertRejects(
      () => run("--model", "m", "--kv", url),
      OptionError,
      "must be an http(s) URL without user and password",
    );
  }
  await assertRejects(
    () => run("--model", "m", "--cache-files", "files"),
    OptionError,
    "must come with --state or --kv",
  );
  await assertRejects(() => run("--model", "/nowhere/m", "--port", "0"), FormatError, "missing");
  await assertRejects(
    () => run("--model", TINY_MODEL, "--port", "0", "--context", "1000"),
    OptionError,
    "must be at most 256",
  );
});

Deno.test("start takes sizes and groups of experts, and refuses what is none", async () => {
  const run = (...args: string[]) =>
    main([...args, "--model", "/nowhere/m", "--port", "0"], { ...recordedIo(), stopped: never });
  for (const groups of ["8", "4,8", "0,0", "8,0", "a,b", "8,4,2"]) {
    await assertRejects(
      () => run("--expert-groups", groups),
      OptionError,
      `--expert-groups is "${groups}", must be two whole numbers`,
    );
  }
  await assertRejects(() => run("--memory", "much"), OptionError, "--memory is");
  await assertRejects(() => run("--expert-cache", "-1"), OptionError, "--expert-cache is");
  await assertRejects(
    () => run("--expert-policy", "oracle"),
    OptionError,
    '--expert-policy is "oracle", must be one of lru, lfu, least-stale',
  );
  const sizes = ["--memory", "2GiB", "--expert-cache", "512MiB"];
  const right = [...sizes, "--expert-policy", "least-stale", "--expert-groups", "8,4"];
  await assertRejects(() => run(...right), FormatError, "missing");
  const { values } = parseFlags(ENGINE_FLAGS, {
    command: "start",
    args: right,
    env: () => undefined,
  });
  const { memoryBytes, expertCacheBytes, expertPolicy, expertGroups } = loadOptions(values, "m");
  assertEquals([memoryBytes, expertCacheBytes, expertPolicy], [2 ** 31, 2 ** 29, "least-stale"]);
  assertEquals(expertGroups, { count: 8, used: 4 });
});

Deno.test("start reads its flags from the environment as well", async () => {
  const io = recordedIo({ env: { SLUICE_MODEL: "m", SLUICE_THREADS: "0" } });
  await assertRejects(
    () => main([], { ...io, stopped: never }),
    OptionError,
    'SLUICE_THREADS is "0", must be a whole number from 1 to 64',
  );
});

Deno.test("the hosts a server answers to follow from the address it listens on", () => {
  const loopback = ["127.0.0.1", "localhost", "[::1]"];
  assertEquals(hostsFor("127.0.0.1", []), [...loopback, "127.0.0.1"]);
  assertEquals(hostsFor("0.0.0.0", ["a.b"]), [...loopback, "any-address", "a.b"]);
  assertEquals(hostsFor("fe80::1", []), [...loopback, "[fe80::1]"]);
});

Deno.test("help is printed without a model", async () => {
  const io = recordedIo();
  assertEquals(await main(["--help"], { ...io, stopped: never }), 0);
  for (const flag of ["--model", "--port", "--state", "--allowed-hosts"]) {
    assertStringIncludes(io.out(), flag);
  }
});

Deno.test("generate prints one answer, the same for the same seed", async () => {
  const run = async (...args: string[]) => {
    const io = recordedIo();
    const flags = ["--model", TINY_MODEL, "--threads", "1", "--max-tokens", "12"];
    assertEquals(await generate([...flags, "--prompt", "hidden", ...args], io), 0);
    assertEquals(io.err(), "");
    return io.out();
  };
  const greedy = await run();
  assert(greedy.endsWith("\n") && greedy.length > 1);
  assertEquals(await run(), greedy);
  const random = await run("--temperature", "2", "--seed", "1");
  assertEquals(await run("--temperature", "2", "--seed", "1"), random);
  assert(await run("--temperature", "2", "--seed", "2") !== random);
  assert(await run("--raw") !== greedy);
});

Deno.test("generate without a prompt is refused", async () => {
  await assertRejects(
    () => generate(["--model", TINY_MODEL], recordedIo()),
    OptionError,
    "--prompt is missing",
  );
});
