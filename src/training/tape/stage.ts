/**
 * A part of a model's layers as two programs: one for what comes in from the layers before, one for the
 * gradients that come back from the layers behind. Pipelines are made of such stages.
 */

import type { Buffer, Plan } from "../../backend/backend.ts";
import type { TrainingBackend } from "../../backend/training.ts";
import { Gradients } from "./gradients.ts";
import { type LayerRange, layersOf, type Range } from "./layers.ts";
import type { Loss } from "./mod.ts";
import type { Node } from "./node.ts";
import { BufferPool } from "./pool.ts";
import { type ActivationUse, recordProgram } from "./program.ts";
import { type HostWork, type Instruction, renamed, type Step, Value } from "./value.ts";

/** Which of so many equal parts, of the layers for instance. */
export interface StagePlace {
  readonly index: number;
  readonly count: number;
}

/** Where a part of so many things begins and ends. */
export function partOf(all: number, { index, count }: StagePlace): [from: number, to: number] {
  return [Math.floor(index * all / count), Math.floor((index + 1) * all / count)];
}

export interface StageOptions {
  readonly backend: TrainingBackend;
  readonly nodes: readonly Node[];
  readonly place: StagePlace;
  /** What the last stage makes of the logits. */
  readonly logits: Value;
  readonly loss: Loss;
  readonly checkpoint: boolean;
}

/** What a stage runs for one micro-batch at a time, in order, and the buffers at its ends. */
export interface RecordedStage {
  readonly forward: readonly (Plan | HostWork)[];
  readonly backward: readonly (Plan | HostWork)[];
  /** f32 [rows, hidden]: the residual stream from the stage before; absent in the first one. */
  readonly received?: Buffer;
  /** The gradient of that, for the stage before. */
  readonly returned?: Buffer;
  /** f32 [rows, hidden]: the residual stream for the next stage; absent in the last one. */
  readonly sent?: Buffer;
  /** Where the gradient of that is to be. */
  readonly answered?: Buffer;
  readonly activations: ActivationUse;
}

/** The nodes of a stage: its layers, and what comes before the first or behind the last. */
export function stageRange(
  nodes: readonly Node[],
  { index, count }: StagePlace,
): Range & { first: LayerRange; last: LayerRange; layers: readonly LayerRange[] } {
  const all = layersOf(nodes);
  if (count > all.length) {
    throw new RangeError(
      `cannot cut ${all.length} layers into ${count} stages: must be at most ${all.length}`,
    );
  }
  const [from, to] = partOf(all.length, { index, count });
  const layers = all.slice(from, to);
  const [first, last] = [layers[0], layers[layers.length - 1]];
  const start = index === 0 ? 0 : first.start;
  return { start, end: index === count - 1 ? nodes.length : last.end, first, last, layers };
}

/**
 * Records one stage. Each call has buffers of its own, so that several micro-batches may be between
 * their forward and backward passes, one for each call.
 */
export function recordStage(options: StageOptions): RecordedStage {
  const { backend, nodes, place, logits, loss, checkpoint } = options;
  const { start, end, first, last, layers } = stageRange(nodes, place);
  const isFirst = place.index === 0;
  const isLast = place.index === place.count - 1;
  const bufferOf = ({ rows, width }: Value) => backend.createBuffer({ kind: "f32", rows, width });
  const received = isFirst ? undefined : bufferOf(first.input);
  const returned = isFirst ? undefined : bufferOf(first.input);
  const sent = isLast ? undefined : bufferOf(last.output);
  const answered = isLast ? undefined : bufferOf(last.output);

  // What comes in lies where the host puts it.
  const input = received && new Value(first.input, { fixed: received });
  const rename = (value: Value) => input !== undefined && value === first.input ? input : value;
  const own = nodes.slice(start, end);
  const steps: Step[] = own.map(({ forward }) => forward.map((way) => renamed(way, rename)));
  const gradients = new Gradients();
  if (input !== undefined) gradients.name(first.input, input);
  if (isLast) {
    gradients.set(logits, loss.write(logits, steps));
  } else {
    steps.push([copyTo(last.output, sent!)]);
    const answer = new Value(last.output, { fixed: answered! });
    gradients.set(last.output, answer);
  }
  const backwardFrom = steps.length;
  for (let i = end - 1; i >= start; i--) {
    const layer = checkpoint ? layers.find((layer) => layer.end === i + 1) : undefined;
    if (layer !== undefined) {
      const again = nodes.slice(layer.start, layer.end);
      gradients.again(again.map(({ forward }) => forward.map((way) => renamed(way, rename))));
    }
    nodes[i].backward(gradients);
  }
  steps.push(...gradients.steps);
  const gradient = isFirst ? undefined : gradients.of(first.input);
  if (gradient !== undefined) steps.push([copyTo(gradient, returned!)]);
  const { forward, backward, use } = recordProgram(
    { steps, backwardFrom, apart: true },
    { pool: new BufferPool(backend), backend },
  );
  return {
    ...{ forward, backward, activations: use },
    ...(received && { received, returned }),
    ...(sent && { sent, answered }),
  };
}

function copyTo(value: Value, to: Buffer): Instruction {
  return {
    reads: [value],
    acts: true,
    record: (ops, at) => ops.copy({ from: at(value), to, rows: value.rows }),
  };
}
