/**
 * How work that several do together is recorded and reversed: between two plans the host takes part in an
 * exchange of values. What is exchanged, and with whom, is the caller's.
 */

import type { AddParams, Buffer, ExpertsParams } from "../../../backend/backend.ts";
import type { Contribution, Gradients } from "../gradients.ts";
import { type Node, type Scope, single } from "../node.ts";
import { checkActivation } from "./mixture.ts";
import { type Instruction, madeBy, type Places, type Value } from "../value.ts";

/** Rows of a buffer that the host reads or writes. */
export interface HostRows {
  readonly buffer: Buffer;
  readonly rows: number;
}

/** Adds up the numbers of all who take part, in place. */
export type HostSum = (values: readonly HostRows[]) => Promise<void>;

/** Experts that lie elsewhere too. An exchange belongs to one layer and one micro-batch at a time. */
export interface HostExperts {
  /** Replaces `out` by what experts answer to the rows of `x`, weighted and scaled; f32 [rows, hidden]. */
  forward(
    values: { x: HostRows; expertIds: HostRows; weights: HostRows; out: HostRows },
  ): Promise<void>;
  /** Adds to gradients of experts; replaces those of `x` and of the weights. */
  backward(
    values: { outGradient: HostRows; xGradient: HostRows; weightsGradient: HostRows },
  ): Promise<void>;
}

function atHost(
  parts: Omit<Instruction, "record" | "host">,
  work: (rows: (value: Value) => HostRows) => Promise<void>,
): Instruction {
  return {
    ...parts,
    record() {
      throw new Error("an exchange cannot be recorded, must be the host's");
    },
    host(at: Places) {
      // Now: where values lie is known only while the program is laid out.
      const places = new Map(
        [...parts.reads, ...madeBy(parts)].map((value) => [value, at(value)]),
      );
      return () => work((value) => ({ buffer: places.get(value)!, rows: value.rows }));
    },
  };
}

/** out += x */
export function addNode(scope: Scope, { x: from, out, rows }: AddParams): Node {
  const x = scope.read(from);
  const { from: before, to: after } = scope.change(out);
  return single({
    reads: [x],
    changes: [{ from: before, to: after }],
    record: (ops, at) => ops.add({ x: at(x), out: at(after), rows }),
  }, (gradients) => {
    const gradient = gradients.of(after);
    if (gradient === undefined) return;
    gradients.set(before, gradient);
    if (gradients.of(x) === undefined) gradients.set(x, gradient);
    else deliver(gradients, { from: gradient, to: gradients.contribute(x) });
  });
}

/** The buffer holds zeros. */
export function zeroNode(scope: Scope, { out, rows }: { out: Buffer; rows: number }): Node {
  const value = scope.write(out, { rows });
  return single({
    reads: [],
    writes: [value],
    record: (ops, at) => ops.fill({ buffer: at(value), value: 0 }),
  }, () => {});
}

/** The buffer's numbers are added up over all; the gradient of each part is that of the sum. */
export function sumNode(
  scope: Scope,
  { buffer, sum }: { buffer: Buffer; sum: HostSum },
): Node {
  const { from, to } = scope.change(buffer);
  return single(
    atHost({ reads: [], changes: [{ from, to }] }, (rows) => sum([rows(to)])),
    (gradients) => {
      const gradient = gradients.of(to);
      if (gradient !== undefined) gradients.set(from, gradient);
    },
  );
}

/** From here on all read the same values, each for its own part: their gradients are added up over all. */
export function sumGradientsNode(values: readonly Value[], sum: HostSum): Node {
  return {
    forward: [],
    backward(gradients) {
      const changes = values.flatMap((value) => {
        const gradient = gradients.of(value);
        return gradient === undefined ? [] : [gradients.change(gradient, value)];
      });
      if (changes.length === 0) return;
      gradients.emit(
        atHost({ reads: [], changes }, (rows) => sum(changes.map(({ to }) => rows(to)))),
      );
    },
  };
}

/** As `expertsNode`, but answers replace `out`, and the experts are the exchange's. */
export function exchangedExpertsNode(
  scope: Scope,
  { params, exchange }: { params: ExpertsParams; exchange: HostExperts },
): Node {
  checkActivation(params);
  const { rows } = params;
  const [x, expertIds, weights] = [params.x, params.expertIds, params.weights]
    .map((buffer) => scope.read(buffer));
  const out = scope.write(params.out, { rows });
  const forward = atHost(
    { reads: [x, expertIds, weights], writes: [out] },
    (at) =>
      exchange.forward({
        ...{ x: at(x), expertIds: at(expertIds), weights: at(weights), out: at(out) },
      }),
  );
  return single(forward, (gradients) => {
    const outGradient = gradients.of(out);
    if (outGradient === undefined) return;
    const [xGradient, weightsGradient] = [x, weights].map((shape) => gradients.temporary(shape));
    const made = [xGradient, weightsGradient];
    gradients.emit(
      atHost({ reads: [outGradient], writes: made, acts: true }, (at) =>
        exchange.backward({
          outGradient: at(outGradient),
          xGradient: at(xGradient),
          weightsGradient: at(weightsGradient),
        })),
    );
    deliver(gradients, { from: xGradient, to: gradients.contribute(x) });
    deliver(gradients, { from: weightsGradient, to: gradients.contribute(weights) });
  });
}

/** Adds a value to a gradient, or begins it. */
function deliver(gradients: Gradients, { from, to }: { from: Value; to: Contribution }): void {
  const { value, accumulate, writes, changes } = to;
  const { rows } = value;
  gradients.emit({
    ...{ reads: [from], writes, changes },
    record(ops, at) {
      if (accumulate) ops.add({ x: at(from), out: at(value), rows });
      else ops.copy({ from: at(from), to: at(value), rows });
    },
  });
}
