/** What backends share of routed experts: the check before they take some, and traffic where all stay. */

import { FormatError } from "../errors.ts";
import type { Experts, ExpertTensors, ExpertTraffic, TensorData } from "./backend.ts";

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
