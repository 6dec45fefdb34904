/** Training together: pipelines and replicas give what one trainer gives. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Parameter, TrainingBackend } from "../../src/backend/training.ts";
import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import { readModelConfig } from "../../src/model/registry.ts";
import type { DecoderConfig } from "../../src/model/decoder_config.ts";
import type { TrainingSequence } from "../../src/training/batch.ts";
import { initialWeights } from "../../src/training/initial_weights.ts";
import { allReduce, connect, PortCommunicator } from "../../src/training/parallel/communicator.ts";
import { Crew } from "../../src/training/parallel/crew.ts";
import type { Grid } from "../../src/training/parallel/grid.ts";
import { placeOf } from "../../src/training/parallel/grid.ts";
import { holds } from "../../src/training/parallel/holding.ts";
import { Member } from "../../src/training/parallel/member.ts";
import { schedule1F1B } from "../../src/training/parallel/pipeline.ts";
import { chromeTrace, sharesOf } from "../../src/training/parallel/timeline.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { shareOf, Trainer, type TrainerOptions } from "../../src/training/trainer.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { DENSE, MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";

const MICRO_BATCHES = 4;
const OPTIONS: TrainerOptions = {
  shape: { rows: 16, logitRows: 16, sequences: 2 },
  objective: { kind: "likelihood" },
  rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
  parameters: { weightDecay: 0.01 },
  maxNorm: 0.5,
  balance: { over: "sequence", alpha: 0.01 },
};

/** Micro-batches of two sequences each; all tokens share the loss alike. */
function batches(count: number, seed: number): TrainingSequence[][] {
  const lengths = Array.from({ length: 2 * count }, (_, i) => 5 + i % 4);
  const sequences = randomSequences(lengths, { seed });
  return Array.from({ length: count }, (_, i) => sequences.slice(2 * i, 2 * i + 2));
}

interface Trained {
  /** By the name of a parameter's first tensor, of each rank that has it. */
  readonly gradients: Map<string, Float32Array[]>;
  readonly values: Map<string, Float32Array[]>;
}

async function collect(
  into: Trained,
  { backend, parameters }: { backend: TrainingBackend; parameters: readonly Parameter[] },
): Promise<void> {
  for (const parameter of parameters) {
    const [name] = parameter.names;
    for (const [slot, map] of [["gradient", into.gradients], ["value", into.values]] as const) {
      const list = map.get(name) ?? [];
      map.set(name, list);
      list.push(await backend.readParameter(parameter, slot));
    }
  }
}

const nothing = (): Trained => ({ gradients: new Map(), values: new Map() });

type Config = typeof DENSE | typeof MIXTURE;

/** Two steps of one trainer over all micro-batches. */
async function alone(config: Config, steps: readonly TrainingSequence[][][]): Promise<Trained> {
  const inner = createReferenceTrainingBackend();
  const tape = new TapeBackend(inner);
  const model = await tinyModel(config, { tape, maxRows: OPTIONS.shape.rows });
  const trainer = new Trainer({ tape, model }, OPTIONS);
  for (const step of steps) trainer.step(step, { rate: 1e-2, biasRate: 1e-3 });
  const trained = nothing();
  await collect(trained, { backend: inner, parameters: trainer.parameters.trained });
  return trained;
}

/** The same by members in one thread, each with a backend of its own. */
async function together(
  config: Config,
  { grid, steps, checkpoint = false }: {
    grid: Grid;
    steps: readonly TrainingSequence[][][];
    checkpoint?: boolean;
  },
) {
  const ranks = grid.replicas * grid.stages;
  const communicators = connect(ranks).map((ports, rank) => new PortCommunicator({ rank, ports }));
  // deno-lint-ignore no-explicit-any -- a JSON document
  const decoder = readModelConfig(initialWeights(config as any, { seed: 5 })) as DecoderConfig;
  const trained = nothing();
  const members = await Promise.all(communicators.map(async (communicator) => {
    const { stage } = placeOf(grid, communicator.rank);
    const inner = createReferenceTrainingBackend();
    const tape = new TapeBackend(inner, {
      holds: holds(decoder, { index: stage, count: grid.stages }),
    });
    const model = await tinyModel(config, { tape, maxRows: OPTIONS.shape.rows });
    const microBatches = steps[0].length / grid.replicas;
    const member = new Member({
      ...{ tape, model, communicator, grid, microBatches },
      trainer: { ...OPTIONS, checkpoint },
    });
    return { inner, member };
  }));
  for (const step of steps) {
    const each = step.length / grid.replicas;
    const whole = shareOf(step.flat());
    await Promise.all(members.map(({ member }) => {
      const { replica } = member.place;
      const own = step.slice(replica * each, (replica + 1) * each);
      return member.step(own, { rate: 1e-2, biasRate: 1e-3, whole });
    }));
  }
  for (const { inner, member } of members) {
    await collect(trained, { backend: inner, parameters: member.parameters.trained });
  }
  for (const communicator of communicators) communicator.close();
  const events = members.flatMap(({ member }) => member.timeline.take());
  const bytes = members.map(({ inner }) => inner.memory().weights);
  return { trained, events, bytes };
}

for (const [name, config] of [["dense", DENSE], ["mixture", MIXTURE]] as const) {
  const steps = [batches(MICRO_BATCHES, 61), batches(MICRO_BATCHES, 62)];

  Deno.test(`${name}: a pipeline of stages gives one trainer's bits`, async (t) => {
    const expected = await alone(config, steps);
    for (const [stages, checkpoint] of [[2, false], [3, false], [3, true]] as const) {
      await t.step(`${stages} stages${checkpoint ? ", layers run again" : ""}`, async () => {
        const grid = { replicas: 1, stages };
        const { trained, events } = await together(config, { grid, steps, checkpoint });
        assertEquals([...trained.values.keys()].sort(), [...expected.values.keys()].sort());
        // The norm of all stages is added up in another order, so what is shortened by it may differ.
        for (const [parameter, [gradient]] of expected.gradients) {
          for (const own of trained.gradients.get(parameter)!) {
            assertClose(own, gradient, `${parameter}'s gradient`);
          }
        }
        const { computing, idle } = sharesOf(events);
        assert(computing > 0 && idle >= 0 && computing + idle <= 1.001);
      });
    }
    // In the first step nothing has been shortened yet: gradients are the same to the bit.
    const first = await alone(config, steps.slice(0, 1));
    const options = { grid: { replicas: 1, stages: 3 }, steps: steps.slice(0, 1) };
    const { trained } = await together(config, options);
    for (const [parameter, [gradient]] of first.gradients) {
      const own = trained.gradients.get(parameter)!;
      // A tied embedding's gradient is the sum of two stages' parts.
      if (own.length > 1) assertClose(own[0], gradient, parameter);
      else assertSameBits(own[0], gradient, parameter);
    }
  });

  Deno.test(`${name}: replicas, of pipelines too, give one trainer's gradients and the same bits each`, async (t) => {
    const expected = await alone(config, steps);
    for (const grid of [{ replicas: 2, stages: 1 }, { replicas: 2, stages: 2 }]) {
      await t.step(`${grid.replicas} x ${grid.stages}`, async () => {
        const { trained } = await together(config, { grid, steps });
        for (const [parameter, [gradient]] of expected.gradients) {
          const [first, ...others] = trained.gradients.get(parameter)!;
          assertClose(first, gradient, `${parameter}'s gradient`);
          for (const other of others) assertSameBits(other, first, `${parameter}'s gradient`);
          const [values, ...rest] = trained.values.get(parameter)!;
          for (const other of rest) assertSameBits(other, values, parameter);
        }
      });
    }
  });
}

Deno.test("a stage holds the weights of its own layers only", async () => {
  const grid = { replicas: 1, stages: 3 };
  const { bytes } = await together(MIXTURE, { grid, steps: [batches(MICRO_BATCHES, 63)] });
  const { bytes: [whole] } = await together(MIXTURE, {
    ...{ grid: { replicas: 1, stages: 1 }, steps: [batches(MICRO_BATCHES, 63)] },
  });
  assertEquals(bytes.reduce((sum, each) => sum + each, 0), whole);
  assert(bytes.every((each) => each < 0.6 * whole), `${bytes} of ${whole}`);
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
  const { events } = await together(DENSE, {
    ...{ grid: { replicas: 1, stages: 2 }, steps: [batches(MICRO_BATCHES, 64)] },
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

Deno.test("a step of another number of micro-batches than planned is refused", async () => {
  const inner = createReferenceTrainingBackend();
  const tape = new TapeBackend(inner);
  const model = await tinyModel(DENSE, { tape, maxRows: 16 });
  const [ports] = connect(1);
  const communicator = new PortCommunicator({ rank: 0, ports });
  const grid = { replicas: 1, stages: 1 };
  const member = new Member({
    ...{ tape, model, communicator, grid, trainer: OPTIONS, microBatches: 2 },
  });
  await assertRejects(
    () => member.step(batches(1, 65), { rate: 0 }),
    RangeError,
    "cannot run a step: its micro-batches are 1, must be 2",
  );
});

Deno.test("threads with memories of their own give one trainer's gradients", async () => {
  const steps = [batches(MICRO_BATCHES, 66), batches(MICRO_BATCHES, 67)];
  const expected = await alone(MIXTURE, steps);
  const crew = await Crew.start({
    grid: { replicas: 1, stages: 2 },
    // deno-lint-ignore no-explicit-any -- a JSON document
    model: { kind: "initial", config: MIXTURE as any, seed: 5, deviation: 0.15 },
    backend: { kind: "reference" },
    trainer: OPTIONS,
    microBatches: MICRO_BATCHES,
  });
  for (const step of steps) await crew.step(step, { rate: 1e-2, biasRate: 1e-3 });
  const gradients = await crew.read("gradient");
  for (const [parameter, [gradient]] of expected.gradients) {
    assertClose(gradients.get(parameter)!, gradient, parameter);
  }
  const events = await crew.timeline();
  assertEquals(new Set(events.map(({ rank }) => rank)).size, 2);
  crew.close();
});

function assertClose(actual: Float32Array, expected: Float32Array, what: string): void {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expected.forEach((value, i) =>
    assert(
      Math.abs(actual[i] - value) <= 1e-6 * largest + 1e-9,
      `${what} at ${i} is ${actual[i]}, must be about ${value}`,
    )
  );
}
