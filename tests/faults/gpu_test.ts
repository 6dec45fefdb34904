/**
 * Faults of a GPU below an engine in a worker, each at many places: the engine says which one it was,
 * goes on by WASM, and ends streams that have begun with an error; the next one is right in time.
 * `SLUICE_FAULT_RUNS=100` injects each so many times, and prints what became of it.
 */

import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { openEngine } from "../../src/engine/open_engine.ts";
import type { Engine, EngineOptions } from "../../src/engine/types.ts";
import { CapacityError } from "../../src/errors.ts";
import { FAULT_KINDS, type FaultKind, type Faults, parseFaults } from "../../src/faults.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { TINY_V3 } from "../support/fixtures.ts";
import { checkEndings, type Ending, NEXT_ANSWER_MS, within } from "./_streams.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../support/gpu.ts";

const OPTIONS = {
  model: TINY_V3,
  backend: "webgpu",
  // As where it was found to be there: its faults at load lead to WASM too.
  backendChosen: true,
  activations: "f32",
  threads: 1,
  slots: 2,
  chunkTokens: 8,
  contextLength: 128,
} as const satisfies EngineOptions;

/** Software adapters take long to compile kernels for the first time. */
const HANG_MS = 180_000;

const FEW_RUNS = 3;
/** How often each fault is injected. */
const RUNS = Number(Deno.env.get("SLUICE_FAULT_RUNS") ?? FEW_RUNS);
/** Many runs go on when other programs keep the machine busy for a while, and tell what was late. */
const NEXT_MS = RUNS > FEW_RUNS ? HANG_MS : NEXT_ANSWER_MS;

const PROMPTS = [[5, 12, 19, 26, 33, 40], [47, 54, 61, 68, 75, 82, 89, 6]];
const ANSWER_TOKENS = 24;

async function stream(engine: Engine, tokens: readonly number[]): Promise<Ending> {
  const given: number[] = [];
  try {
    const request = {
      ...{ tokens, sampling: NEUTRAL_SAMPLING, maxTokens: ANSWER_TOKENS, stopTokens: [] },
    };
    for await (const event of engine.generate(request)) {
      if (event.type === "token") given.push(event.token);
    }
    return { text: given.join(" "), error: null };
  } catch (error) {
    assertInstanceOf(error, Error);
    return { text: given.join(" "), error: error.message };
  }
}

function allStreams(engine: Engine): Promise<Ending[]> {
  const all = Promise.all(PROMPTS.map((tokens) => stream(engine, tokens)));
  return within(HANG_MS, "the streams", all);
}

async function withEngine<T>(
  options: Partial<EngineOptions>,
  body: (engine: Engine) => Promise<T>,
): Promise<T> {
  const engine = await openEngine({ ...OPTIONS, ...options });
  try {
    return await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

/** What the WASM kernels answer. */
const whole = GPU_SKIPPED !== undefined ? [] : await withEngine(
  { backend: "wasm" },
  async (engine) => (await allStreams(engine)).map(({ text }) => text),
);

/** How often each kind can fail until the model is open, and until its streams have ended twice. */
const places = GPU_SKIPPED !== undefined ? { open: [], all: [] } : await countPlaces();

async function countPlaces(): Promise<{ open: readonly number[]; all: readonly number[] }> {
  const faults = parseFaults("gpu:999999999");
  return await withEngine({ faults }, async (engine) => {
    const open = [...faults.counts];
    // Prompts that are known by now take room to copy a page.
    for (let round = 0; round < 2; round++) {
      assertEquals((await allStreams(engine)).map(({ text }) => text), whole);
    }
    assertEquals(engine.info.backend, "webgpu");
    return { open, all: [...faults.counts] };
  });
}

/** What became of streams and of the next one. */
interface Tally {
  begunAnew: number;
  ended: number;
  /** Milliseconds that the next one took. */
  readonly next: number[];
}

/** Streams that meet a fault somewhere, and the next one; `says` is what is said of the fault. */
async function meet(
  faults: Faults,
  { says, tally }: { says: RegExp; tally: Tally },
): Promise<void> {
  await withEngine({ faults }, async (engine) => {
    let endings: Ending[];
    let failed: number;
    // How many plans an answer takes depends on how long they take, so that a fault may come later.
    do {
      endings = await allStreams(engine);
      failed = checkEndings(endings, whole);
    } while (failed === 0 && engine.info.backend !== "wasm");
    for (const { error } of endings) if (error !== null) assert(says.test(error), error);
    const begin = performance.now();
    const next = await within(NEXT_MS, "the next answer", stream(engine, PROMPTS[0]));
    tally.next.push(performance.now() - begin);
    assertEquals(next, { text: whole[0], error: null });
    assertEquals(engine.info.backend, "wasm");
    const warnings = engine.info.warnings.join("\n");
    // Of a fault at load the next worker's engine knows nothing, nor has it ended a stream.
    if (warnings.includes("the GPU is not used")) assert(says.test(warnings), warnings);
    tally.ended += failed;
    tally.begunAnew += endings.length - failed;
  });
}

interface Case {
  readonly name: string;
  readonly kind: FaultKind;
  readonly says: RegExp;
  /** Between which of the places that the kind has. */
  readonly from?: "open";
  readonly to?: "open";
}

const CASES: readonly Case[] = [
  { name: "a device that is lost", kind: "gpu", says: /on the GPU: the device was lost/ },
  {
    name: "memory that is refused at load",
    kind: "gpu:memory",
    says: /cannot allocate .* on the GPU: it needs \d+ bytes, must fit the 0 left/,
    to: "open",
  },
  {
    name: "memory that is refused while running",
    kind: "gpu:memory",
    says: /cannot allocate .* on the GPU: it needs \d+ bytes, must fit the 0 left/,
    from: "open",
  },
  { name: "a kernel that doesn't compile", kind: "shader", says: /on the GPU: .*[Ss]hader/s },
  {
    name: "a buffer above the device's limit",
    kind: "gpu:limit",
    says: /on the GPU: .*[Bb]uffer.*(size|limit|max)/s,
  },
];

for (const { name, kind, says, from, to } of CASES) {
  Deno.test({
    name: `gpu: ${name} is said, and streams end or go on by WASM${SKIP_NOTE}`,
    ignore: GPU_SKIPPED !== undefined,
    async fn() {
      const [open, all] = [places.open, places.all].map((counts) =>
        counts[FAULT_KINDS.indexOf(kind)]
      );
      const [first, last] = [from === "open" ? open + 1 : 1, to === "open" ? open : all];
      assert(last >= first, `it can fail ${first} to ${last} times`);
      const tally: Tally = { begunAnew: 0, ended: 0, next: [] };
      for (let run = 0; run < RUNS; run++) {
        const share = RUNS === 1 ? 0 : run / (RUNS - 1);
        const at = first + Math.round(share * (last - first));
        const error = await meet(parseFaults(`${kind}:${at}`), { says, tally }).catch((e) => e);
        if (error) throw new Error(`${kind}:${at}: ${error.message}`, { cause: error });
      }
      const { begunAnew, ended, next } = tally;
      next.sort((a, b) => a - b);
      const late = next.filter((time) => time > NEXT_ANSWER_MS).length;
      console.log(
        `${kind}, places ${first} to ${last}, ${RUNS} times: ${begunAnew} streams begun anew, ` +
          `${ended} ended by name; the next one took ${Math.round(next[RUNS >> 1])} ms, ` +
          `at most ${Math.round(next.at(-1)!)}, ${late} times more than ${NEXT_ANSWER_MS}`,
      );
    },
  });
}

Deno.test({
  name: `gpu: memory that is refused is an error where the GPU was asked for by name${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  async fn() {
    const asked = { backendChosen: false, faults: parseFaults("gpu:memory:2") };
    const nothing = () => Promise.resolve();
    await assertRejects(() => withEngine(asked, nothing), CapacityError, "on the GPU");
    const small = { backendChosen: false, gpuBytes: 1 << 20 };
    await assertRejects(() => withEngine(small, nothing), CapacityError, "on the GPU");
  },
});
