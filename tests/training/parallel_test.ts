/** Members of a grid against one trainer: the same gradients, whoever computes what. */

import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { createWasmTrainingBackend } from "../../src/backend/wasm/training/mod.ts";
import { OptionError } from "../../src/errors.ts";
import { allReduce, connect, PortCommunicator } from "../../src/training/parallel/communicator.ts";
import { Crew } from "../../src/training/parallel/crew.ts";
import type { Grid } from "../../src/training/parallel/grid.ts";
import { idealBubble, schedule1F1B } from "../../src/training/parallel/pipeline.ts";
import { chromeTrace, sharesOf } from "../../src/training/parallel/timeline.ts";
import type { TrainerOptions } from "../../src/training/trainer.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { alone, batches, OPTIONS, RATES, together } from "./_grid.ts";
import { DENSE, MIXTURE } from "./_tiny.ts";

const MICRO_BATCHES = 4;

/** Untied, so that no parameter has two ends. */
const LLAMA = { ...DENSE, architectures: ["LlamaForCausalLM"], tie_word_embeddings: false };
/** Norms of heads, which all parts share; over fewer numbers than 8 they would amplify rounding. */
const QWEN3 = { ...LLAMA, architectures: ["Qwen3ForCausalLM"], head_dim: 8 };
/** Queries that are projected at once, and a softmax gate without a correction bias. */
const V2 = {
  ...MIXTURE,
  architectures: ["DeepseekV2ForCausalLM"],
  q_lora_rank: null,
  topk_method: "greedy",
};

/** Adam's first steps divide tiny gradients by themselves; with this they stay tiny. */
const SMOOTH: TrainerOptions = {
  ...OPTIONS,
  rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-3 },
};

for (const [name, config] of [["dense", DENSE], ["mixture", MIXTURE]] as const) {
  const steps = [batches(MICRO_BATCHES, 61), batches(MICRO_BATCHES, 62)];

  Deno.test(`${name}: a pipeline of stages gives one trainer's bits`, async (t) => {
    const expected = await alone(config, { steps });
    for (const [stages, checkpoint] of [[2, false], [3, false], [3, true]] as const) {
      await t.step(`${stages} stages${checkpoint ? ", layers run again" : ""}`, async () => {
        const grid = { replicas: 1, stages };
        const trainer = { ...OPTIONS, checkpoint };
        const { trained, events } = await together(config, {
          ...{ grid, steps, trainer, like: expected },
        });
        // In the first step nothing has been shortened yet: gradients are the same to the bit.
        for (const [parameter, gradient] of expected.firstGradients) {
          const own = trained.firstGradients.get(parameter)!;
          // A tied embedding's gradient is the sum of two stages' parts.
          const isTied = config.tie_word_embeddings && parameter.includes("embed_tokens");
          if (isTied) assertClose(own, gradient, parameter);
          else assertSameBits(own, gradient, parameter);
        }
        // The norm of all stages is added up in another order, so what is shortened by it may differ.
        assertAllClose(trained.gradients, expected.gradients);
        const { computing, idle } = sharesOf(events);
        assert(computing > 0 && idle >= 0 && computing + idle <= 1.001);
      });
    }
  });
}

const GRIDS: readonly Grid[] = [
  { replicas: 2, stages: 1 },
  { replicas: 2, stages: 2 },
  { replicas: 1, stages: 1, tensor: 2 },
  { replicas: 2, stages: 2, tensor: 2 },
  { replicas: 1, stages: 1, expert: 4 },
  { replicas: 1, stages: 3, expert: 2 },
  { replicas: 2, stages: 1, expert: 2, tensor: 2 },
];

for (
  const [name, config] of [
    ["Qwen2", DENSE],
    ["Llama", LLAMA],
    ["Qwen3", QWEN3],
    ["DeepSeek-V2", V2],
    ["DeepSeek-V3", MIXTURE],
  ] as const
) {
  const isDense = !("n_routed_experts" in config);
  const steps = [batches(MICRO_BATCHES, 61), batches(MICRO_BATCHES, 62)];
  Deno.test(`${name}: a grid of members gives one trainer's gradients, and who holds the same has the same bits`, async (t) => {
    const expected = await alone(config, { steps, trainer: SMOOTH });
    for (const grid of GRIDS.filter(({ expert }) => expert === undefined || !isDense)) {
      await t.step(gridText(grid), async () => {
        const done = await together(config, { grid, steps, trainer: SMOOTH, like: expected });
        const { trained } = done;
        assertAllClose(trained.firstGradients, expected.firstGradients);
        assertAllClose(trained.gradients, expected.gradients, 3e-6);
        assertAllClose(trained.values, expected.values);
        assertSameBitsEverywhere(done);
      });
    }
  });
}

Deno.test("layers that run again exchange again, and give the same bits", async () => {
  const steps = [batches(MICRO_BATCHES, 65)];
  const like = await alone(MIXTURE, { steps });
  const grid = { replicas: 1, stages: 2, tensor: 2, expert: 2 };
  const kept = await together(MIXTURE, { grid, steps, like });
  const again = await together(MIXTURE, {
    ...{ grid, steps, like, trainer: { ...OPTIONS, checkpoint: true } },
  });
  for (const [parameter, gradient] of kept.trained.gradients) {
    assertSameBits(again.trained.gradients.get(parameter)!, gradient, parameter);
  }
});

Deno.test("the wasm backend's members give its one trainer's gradients", async (t) => {
  const steps = [batches(MICRO_BATCHES, 68)];
  const open = () => createWasmTrainingBackend({ threads: 1 });
  for (
    const [config, grid] of [
      [DENSE, { replicas: 1, stages: 2, tensor: 2 }],
      [MIXTURE, { replicas: 1, stages: 1, tensor: 2, expert: 2 }],
    ] as const
  ) {
    await t.step(`${config.architectures[0]}, ${gridText(grid)}`, async () => {
      const expected = await alone(config, { steps, open });
      const { trained } = await together(config, { grid, steps, open, like: expected });
      // Its products are sums in float32, which parts cut elsewhere.
      assertAllClose(trained.gradients, expected.gradients, 3e-6);
    });
  }
});

Deno.test("members hold their own part of the weights only", async (t) => {
  const steps = [batches(MICRO_BATCHES, 63)];
  const like = await alone(MIXTURE, { steps });
  const bytesOf = async (grid: Grid) => (await together(MIXTURE, { grid, steps, like })).bytes;
  const [whole] = await bytesOf({ replicas: 1, stages: 1 });
  await t.step("stages have what one has, between them", async () => {
    const bytes = await bytesOf({ replicas: 1, stages: 3 });
    assertEquals(bytes.reduce((sum, each) => sum + each, 0), whole);
    assert(bytes.every((each) => each < 0.6 * whole), `${bytes} of ${whole}`);
  });
  await t.step("expert parts have half of the experts, and all of the rest", async () => {
    const bytes = await bytesOf({ replicas: 1, stages: 1, expert: 2 });
    const { n_routed_experts: experts, moe_intermediate_size: width, hidden_size } = MIXTURE;
    const half = whole - 2 * (experts / 2) * 3 * width * hidden_size * 4;
    assertEquals(bytes, [half, half]);
  });
  await t.step("tensor parts have half of what is cut, and all of the rest", async () => {
    const bytes = await bytesOf({ replicas: 1, stages: 1, tensor: 2 });
    assert(bytes.every((each) => each > 0.5 * whole && each < 0.65 * whole), `${bytes}`);
  });
});

Deno.test("a model that cannot be divided as the grid says is refused with what is in the way", async () => {
  const cases = [
    [DENSE, { tensor: 4 }, "its heads of keys are 2, must be a multiple of 4"],
    [DENSE, { expert: 2 }, "expert parts are 2, must be 1 for a dense model"],
    [MIXTURE, { expert: 7 }, "expert parts are 7, must be at most the 6 experts of a layer"],
    [MIXTURE, { stages: 4 }, "stages are 4, must be at most the 3 layers"],
  ] as const;
  const steps = [batches(MICRO_BATCHES, 64)];
  for (const [config, axes, message] of cases) {
    const grid = { replicas: 1, stages: 1, ...axes };
    const like = { parameters: [], gradients: new Map() };
    await assertRejects(() => together(config, { grid, steps, like }), OptionError, message);
  }
  const trainer: TrainerOptions = {
    ...OPTIONS,
    rule: { kind: "lamb", beta1: 0.9, beta2: 0.95, eps: 1e-6 },
  };
  await assertRejects(
    () =>
      together(DENSE, {
        ...{ grid: { replicas: 1, stages: 1, tensor: 2 }, steps, trainer },
        like: { parameters: [], gradients: new Map() },
      }),
    OptionError,
    "the rule must be adamw",
  );
});

Deno.test("a stage keeps no more micro-batches than there are stages behind it, and one", () => {
  for (const stages of [1, 2, 4]) {
    for (let stage = 0; stage < stages; stage++) {
      for (const microBatches of [1, 3, 8]) {
        const steps = schedule1F1B({ stage, stages }, microBatches);
        const done = { forward: [] as number[], backward: [] as number[] };
        for (const { pass, microBatch } of steps) {
          done[pass].push(microBatch);
          const kept = done.forward.length - done.backward.length;
          assert(kept >= 0 && kept <= Math.min(stages - stage, microBatches));
        }
        const all = Array.from({ length: microBatches }, (_, i) => i);
        assertEquals(done, { forward: all, backward: all });
      }
    }
  }
});

Deno.test("a pipeline of equal passes idles as the formula says", () => {
  const [forward, backward] = [1, 2];
  for (const [stages, microBatches] of [[1, 4], [2, 4], [3, 8], [4, 4]]) {
    const ends = new Map<string, number>();
    const free = new Array(stages).fill(0);
    const plans = free.map((_, stage) => schedule1F1B({ stage, stages }, microBatches));
    // Rounds, until every stage has done what waits for the stages beside it.
    while (plans.some((steps) => steps.length > 0)) {
      for (const [stage, steps] of plans.entries()) {
        const [{ pass, microBatch } = { pass: "forward", microBatch: -1 }] = steps;
        const beside = pass === "forward" ? stage - 1 : stage + 1;
        const isFirst = beside < 0 || beside === stages;
        const ready = isFirst ? 0 : ends.get(`${pass} ${beside} ${microBatch}`);
        if (steps.length === 0 || ready === undefined) continue;
        steps.shift();
        free[stage] = Math.max(free[stage], ready) + (pass === "forward" ? forward : backward);
        ends.set(`${pass} ${stage} ${microBatch}`, free[stage]);
      }
    }
    const busy = microBatches * (forward + backward) / Math.max(...free);
    assertAlmostEquals(1 - busy, idealBubble({ stages }, microBatches), 1e-12);
  }
});

Deno.test("sums over ranks have the same bits everywhere, whoever is late", async () => {
  const size = 3;
  const communicators = connect(size).map((ports, rank) => new PortCommunicator({ rank, ports }));
  const values = communicators.map((_, rank) =>
    Float32Array.from({ length: 7 }, (_, i) => Math.sin(rank * 7 + i) * 10 ** (i - 3))
  );
  const expected = Float32Array.from(
    { length: 7 },
    (_, i) => values.map((own) => own[i]).reduce((sum, value) => Math.fround(sum + value)),
  );
  await Promise.all(communicators.map(async (communicator, rank) => {
    await new Promise((resolve) => setTimeout(resolve, 5 * (size - rank)));
    await allReduce(communicator, "test", values[rank]);
  }));
  for (const own of values) assertSameBits(own, expected, "the sum");
  for (const communicator of communicators) communicator.close();
});

Deno.test("a timeline becomes a trace with a line for each rank", async () => {
  const steps = [batches(MICRO_BATCHES, 64)];
  const like = await alone(DENSE, { steps });
  const { events } = await together(DENSE, {
    ...{ grid: { replicas: 1, stages: 2 }, steps, like },
  });
  const { traceEvents } = JSON.parse(chromeTrace(events));
  const named = (name: string) =>
    // deno-lint-ignore no-explicit-any -- a JSON document
    traceEvents.filter((event: any) => event.name === name);
  assertEquals(named("thread_name").length, 2);
  assertEquals(named("forward micro-batch 3").length, 2);
  assertEquals(named("backward micro-batch 0").length, 2);
  assert(
    named("forward micro-batch 0").every(({ ts, dur }: { ts: number; dur: number }) =>
      ts >= 0 && dur > 0
    ),
  );
});

Deno.test("threads with memories of their own give one trainer's gradients, and go on from another grid's state", async () => {
  const steps = [batches(MICRO_BATCHES, 66), batches(MICRO_BATCHES, 67)];
  const expected = await alone(MIXTURE, { steps, trainer: SMOOTH });
  const { parameters } = expected;
  const trained = parameters.filter(({ names }) => expected.gradients.has(names[0]));
  const start = (grid: Grid, seed: number) =>
    Crew.start({
      // deno-lint-ignore no-explicit-any -- a JSON document
      ...{ grid, model: { kind: "initial", config: MIXTURE as any, seed, deviation: 0.15 } },
      ...{ backend: { kind: "reference" }, trainer: SMOOTH as TrainerOptions },
    });
  const first = await start({ replicas: 1, stages: 2 }, 5);
  const { clock } = await first.step(steps[0], RATES);
  const slots = [["value", parameters], ["first", trained], ["second", trained]] as const;
  const states = await Promise.all(slots.map(([slot, own]) => first.read(slot, own)));
  const events = await first.timeline();
  assertEquals(new Set(events.map(({ rank }) => rank)).size, 2);
  first.close();

  const second = await start({ replicas: 1, stages: 1, tensor: 2, expert: 2 }, 6);
  for (const [i, [slot, own]] of slots.entries()) {
    const wholes = own.map((parameter, j) => ({ parameter, values: states[i][j] }));
    await second.write(slot, wholes);
  }
  await second.setClock(clock);
  await second.step(steps[1], RATES);
  const gradients = await second.read("gradient", trained);
  const values = await second.read("value", parameters);
  second.close();
  trained.forEach(({ names }, i) =>
    assertClose(gradients[i], expected.gradients.get(names[0])!, names[0], 3e-6)
  );
  parameters.forEach(({ names }, i) =>
    assertClose(values[i], expected.values.get(names[0])!, names[0], 1e-6)
  );
});

function gridText({ replicas, stages, tensor = 1, expert = 1 }: Grid): string {
  return `${replicas} replicas, ${stages} stages, ${tensor} tensor and ${expert} expert parts`;
}

/** Whoever holds a tensor, or the same part of one, has the same bits of it. */
function assertSameBitsEverywhere(
  { members, values: all, trained }: Awaited<ReturnType<typeof together>>,
): void {
  const first = new Map<string, Float32Array>();
  for (const [rank, { parameters, member }] of members.entries()) {
    for (const [i, { names, rows, cols }] of parameters.entries()) {
      const [name] = names;
      const whole = trained.parameters.find((parameter) => parameter.names.includes(name))!;
      const isCut = whole.rows !== rows || whole.cols !== cols;
      const key = isCut ? `${name} ${member.place.tensor}` : name;
      const values = all.get(rank)![i];
      const known = first.get(key);
      if (known === undefined) first.set(key, values);
      else assertSameBits(values, known, name);
    }
  }
}

function assertAllClose(
  actual: ReadonlyMap<string, Float32Array>,
  expected: ReadonlyMap<string, Float32Array>,
  tolerance?: number,
): void {
  assertEquals([...actual.keys()].sort(), [...expected.keys()].sort());
  for (const [name, values] of expected) assertClose(actual.get(name)!, values, name, tolerance);
}

function assertClose(
  actual: Float32Array,
  expected: Float32Array,
  what: string,
  tolerance = 1e-6,
): void {
  assertEquals(actual.length, expected.length, what);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expected.forEach((value, i) =>
    assert(
      Math.abs(actual[i] - value) <= tolerance * largest + 1e-9,
      `${what} at ${i} is ${actual[i]}, must be about ${value}`,
    )
  );
}
