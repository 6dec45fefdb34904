/** What backends share of routed experts: the check before they take some, and traffic where all stay. */

import { FormatError } from "../errors.ts";
import type {
  ExpertReplacement,
  Experts,
  ExpertTensors,
  ExpertTraffic,
  TensorData,
} from "./backend.ts";

/**
 * Checks that a layer's experts are complete and of one shape and type each; throws FormatError, since
 * a file says what they are.
 */
export function checkExpertTensors({ layer, gate, up, down, biases }: ExpertTensors): void {
  const action = `load the experts of layer ${layer}`;
  if (gate.length === 0) throw FormatError.of(action, "their number", 0, "at least 1");
  const { rows: intermediate, cols: hidden } = gate[0];
  const check = (what: string, tensors: readonly TensorData[], [rows, cols]: [number, number]) => {
    if (tensors.length !== gate.length) {
      throw FormatError.of(action, `the number of ${what}`, tensors.length, `${gate.length}`);
    }
    const right = `${tensors[0].type} [${rows}, ${cols}]`;
    for (const tensor of tensors) {
      const is = `${tensor.type} [${tensor.rows}, ${tensor.cols}]`;
      if (is !== right) throw FormatError.of(action, tensor.name, is, right);
    }
  };
  check("gate matrices", gate, [intermediate, hidden]);
  check("up matrices", up, [intermediate, hidden]);
  check("down matrices", down, [hidden, intermediate]);
  if (biases === undefined) return;
  check("gate biases", biases.gate, [1, intermediate]);
  check("up biases", biases.up, [1, intermediate]);
  check("down biases", biases.down, [1, hidden]);
}

/**
 * Checks that one expert of the shapes of a layer's, which are `biased` or not, takes the place of one
 * that is there. Throws RangeError for a slot that is none, FormatError for tensors that aren't such an
 * expert's.
 */
export function checkReplacement(
  experts: Experts,
  { slot, tensors, biased }: ExpertReplacement & { biased: boolean },
): void {
  const { layer, hidden, intermediate } = experts;
  const action = `replace an expert of layer ${layer}`;
  checkSlot(experts, slot);
  checkExpertTensors(tensors);
  const { gate } = tensors;
  if (gate.length !== 1) throw FormatError.of(action, "the number of experts", gate.length, "1");
  const [{ name, rows, cols }] = gate;
  if (rows !== intermediate || cols !== hidden) {
    throw FormatError.of(action, name, `[${rows}, ${cols}]`, `[${intermediate}, ${hidden}]`);
  }
  const biases = (are: boolean) => are ? "there" : "missing";
  const areThere = tensors.biases !== undefined;
  if (areThere !== biased) {
    throw FormatError.of(action, "its biases", biases(areThere), biases(biased));
  }
}

/** The traffic of layers whose experts are all in memory. */
export function residentTraffic(
  layers: readonly Pick<Experts, "layer" | "count">[],
): ExpertTraffic[] {
  return layers.map(({ layer, count }) => ({
    layer,
    resident: count,
    hits: 0,
    prefetched: 0,
    misses: 0,
    predictions: { made: 0, right: 0 },
    bytesRead: 0,
  }));
}

/** Throws RangeError for a slot that the layer doesn't have. */
export function checkSlot({ layer, count }: Experts, slot: number): void {
  if (Number.isInteger(slot) && slot >= 0 && slot < count) return;
  throw new RangeError(
    `cannot replace an expert of layer ${layer}: its slot is ${slot}, must be 0 to ${count - 1}`,
  );
}

/** All tensors of a layer's first expert: gate, up, down, and their biases where there are. */
export function firstExpert({ gate, up, down, biases }: ExpertTensors): TensorData[] {
  return [gate, up, down, ...(biases ? [biases.gate, biases.up, biases.down] : [])]
    .map(([first]) => first);
}
