/** A thread of a crew: opens its part of the model in a memory of its own, and does what it is told. */

import type { TrainingBackend } from "../../backend/training.ts";
import { openCheckpoint } from "../../formats/open.ts";
import type { TensorSource } from "../../formats/tensor_source.ts";
import type { DecoderConfig } from "../../model/decoder_config.ts";
import { loadModel, readModelConfig } from "../../model/registry.ts";
import { initialWeights } from "../initial_weights.ts";
import { TapeBackend } from "../tape/mod.ts";
import { PortCommunicator } from "./communicator.ts";
import { placeOf } from "./grid.ts";
import { holds } from "./holding.ts";
import { Member } from "./member.ts";
import type { Answer, MemberBackend, ModelOrigin, Order } from "./wire.ts";

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<Order>) => void) | null;
  postMessage(answer: Answer): void;
};

/** The member once it has started, and its backend. */
let started: { member: Member; backend: TrainingBackend } | null = null;

scope.onmessage = async ({ data }) => {
  try {
    scope.postMessage(await obey(data));
  } catch (error) {
    scope.postMessage({ kind: "failed", message: String(error) });
  }
};

async function obey(order: Order): Promise<Answer> {
  if (order.kind === "start") {
    started = await start(order);
    return { kind: "started" };
  }
  if (started === null) throw new Error("a member was told to work before it was told to start");
  const { member, backend } = started;
  switch (order.kind) {
    case "step":
      await member.step(order.microBatches, order);
      return { kind: "stepped", totals: await member.totals() };
    case "read": {
      const parameters = [];
      for (const parameter of member.parameters.trained) {
        const values = await backend.readParameter(parameter, order.slot);
        parameters.push({ name: parameter.names[0], values });
      }
      return { kind: "read", parameters };
    }
    case "timeline":
      return { kind: "timeline", events: member.timeline.take() };
  }
}

async function start(
  { rank, ports, grid, model: origin, backend: kind, trainer, microBatches }: Extract<
    Order,
    { kind: "start" }
  >,
) {
  const source = await open(origin);
  const backend = await openBackend(kind);
  const config = readModelConfig(source) as DecoderConfig;
  const { stage } = placeOf(grid, rank);
  const own = holds(config, { index: stage, count: grid.stages });
  const tape = new TapeBackend(backend, { holds: own });
  const { rows, logitRows } = trainer.shape;
  const model = await loadModel({
    ...{ source, backend: tape, maxRows: rows, maxLogitRows: logitRows },
  });
  source.close();
  const communicator = new PortCommunicator({ rank, ports });
  const member = new Member({ tape, model, communicator, grid, trainer, microBatches });
  return { member, backend };
}

async function open(origin: ModelOrigin): Promise<TensorSource> {
  if (origin.kind === "checkpoint") return await openCheckpoint(origin.path);
  return initialWeights(origin.config, origin);
}

async function openBackend(options: MemberBackend): Promise<TrainingBackend> {
  if (options.kind === "reference") {
    const { createReferenceTrainingBackend } = await import(
      "../../backend/reference/training/mod.ts"
    );
    return createReferenceTrainingBackend();
  }
  const { createWasmTrainingBackend } = await import("../../backend/wasm/training/mod.ts");
  return await createWasmTrainingBackend({ threads: options.threads, joinLate: true });
}

scope.postMessage({ kind: "up" });
