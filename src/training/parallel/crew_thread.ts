/** A thread of a crew: opens its part of the model in a memory of its own, and does what it is told. */

import type { Parameter, Slot, TrainingBackend } from "../../backend/training.ts";
import { OptionError } from "../../errors.ts";
import { openCheckpoint } from "../../formats/open.ts";
import type { TensorSource } from "../../formats/tensor_source.ts";
import { initialWeights } from "../initial_weights.ts";
import { correctionBiases } from "../model_parameters.ts";
import { PortCommunicator } from "./communicator.ts";
import { type OpenedMember, openMember } from "./open_member.ts";
import type { Answer, MemberBackend, ModelOrigin, Order } from "./wire.ts";

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<Order>) => void) | null;
  postMessage(answer: Answer): void;
};

interface Started extends OpenedMember {
  readonly backend: TrainingBackend;
  /** All that a step changes, those without a gradient last. */
  readonly parameters: readonly Parameter[];
}

let started: Started | null = null;

scope.onmessage = async ({ data }) => {
  try {
    scope.postMessage(await obey(data));
  } catch (error) {
    const refused = error instanceof OptionError;
    scope.postMessage({
      ...{ kind: "failed", refused, message: refused ? error.message : String(error) },
    });
  }
};

async function obey(order: Order): Promise<Answer> {
  if (order.kind === "start") {
    started = await start(order);
    const parameters = started.parameters.map(({ names, rows, cols }) => ({ names, rows, cols }));
    return { kind: "started", parameters };
  }
  if (started === null) throw new Error("a member was told to work before it was told to start");
  const { member, backend, timeline } = started;
  switch (order.kind) {
    case "step":
      await member.step(order.microBatches, order);
      return { kind: "stepped", ...await member.sums() };
    case "read": {
      const values = [];
      for (const parameter of withSlot(started, order.slot)) {
        values.push(await backend.readParameter(parameter, order.slot));
      }
      return { kind: "read", values };
    }
    case "write":
      withSlot(started, order.slot).forEach((parameter, i) =>
        backend.writeParameter(parameter, order.slot, order.values[i])
      );
      return { kind: "written" };
    case "clock":
      member.clock = order.values;
      return { kind: "written" };
    case "timeline":
      return { kind: "timeline", events: timeline.take() };
  }
}

/** The parameters that have such a slot. */
function withSlot({ member, parameters }: Started, slot: Slot): readonly Parameter[] {
  return slot === "value" ? parameters : parameters.slice(0, member.parameters.trained.length);
}

async function start(
  { rank, ports, grid, model, backend: kind, trainer }: Extract<Order, { kind: "start" }>,
): Promise<Started> {
  const source = await open(model);
  const backend = await openBackend(kind);
  const communicator = new PortCommunicator({ rank, ports });
  const opened = await openMember({ backend, source, communicator, grid, trainer });
  source.close();
  const own = opened.member.parameters;
  const biases = correctionBiases(own).map(({ bias }) => backend.parameterOf(bias));
  return { ...opened, backend, parameters: [...own.trained, ...biases] };
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
