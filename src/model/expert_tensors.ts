/**
 * Routed experts as checkpoints keep them, one matrix an expert and purpose as backends take them:
 * stacked (GGUF), a tensor each, gate and up projections in one tensor, or as GPT-OSS has them,
 * with rows and columns exchanged or in MXFP4 blocks of its own order.
 */

import type { ExpertTensors, TensorData } from "../backend/backend.ts";
import { TENSOR_TYPES } from "../quant/types.ts";
import { mxfp4Parts, mxfp4Rows, transposed } from "./interleaved_experts.ts";
import { rowRange } from "./tensor_data.ts";
import type { StoredWeights, WeightSpec } from "./weights.ts";

/** How a file has the matrices of a layer's experts. */
export type ExpertLayout =
  /** `[experts, intermediate, hidden]` for each purpose */
  | "stacked"
  /** `[intermediate, hidden]` for each expert and purpose (a repacked GGUF file, or Hugging Face) */
  | "apart"
  /** `[experts, 2 * intermediate, hidden]`, the gate's rows first */
  | "joined"
  /** `[experts, hidden, 2 * intermediate]`, gate and up in turn */
  | "interleaved"
  /** `[experts, 2 * intermediate, hidden / 32, 16]` bytes, gate and up in turn, with scales */
  | "interleavedMxfp4";

export interface ExpertSizes {
  readonly layout: ExpertLayout;
  readonly experts: number;
  readonly expertSize: number;
  readonly expertBiases: boolean;
}

const BLOCK = TENSOR_TYPES.MXFP4.blockValues;

/** The tensors of a layer's experts. */
export function expertSpecs(
  { layout, experts, expertSize, expertBiases }: ExpertSizes,
  { layer, hiddenSize }: { layer: number; hiddenSize: number },
): WeightSpec[] {
  const inward = [expertSize, hiddenSize];
  const outward = [hiddenSize, expertSize];
  switch (layout) {
    case "stacked": {
      const specs: WeightSpec[] = [
        { role: "expertsGate", layer, shape: [experts, ...inward] },
        { role: "expertsUp", layer, shape: [experts, ...inward] },
        { role: "expertsDown", layer, shape: [experts, ...outward] },
      ];
      if (!expertBiases) return specs;
      return [
        ...specs,
        { role: "expertsGateBias", layer, shape: [experts, expertSize] },
        { role: "expertsUpBias", layer, shape: [experts, expertSize] },
        { role: "expertsDownBias", layer, shape: [experts, hiddenSize] },
      ];
    }
    case "apart":
      return Array.from({ length: experts }, (_, expert): WeightSpec[] => [
        { role: "expertsGate", layer, expert, shape: inward },
        { role: "expertsUp", layer, expert, shape: inward },
        { role: "expertsDown", layer, expert, shape: outward },
        ...(expertBiases ? apartBiases({ layer, expert, expertSize, hiddenSize }) : []),
      ]).flat();
    case "joined":
      return [
        { role: "expertsGateUp", layer, shape: [experts, 2 * expertSize, hiddenSize] },
        { role: "expertsDown", layer, shape: [experts, ...outward] },
      ];
    case "interleaved":
      return [
        { role: "expertsGateUp", layer, shape: [experts, hiddenSize, 2 * expertSize] },
        { role: "expertsDown", layer, shape: [experts, expertSize, hiddenSize] },
        ...interleavedBiases({ experts, expertSize, layer, hiddenSize }),
      ];
    case "interleavedMxfp4": {
      const packed = (role: "expertsGateUp" | "expertsDown", rows: number, cols: number) => ({
        role,
        layer,
        shape: [experts, rows, cols / BLOCK, BLOCK / 2],
        packed: true,
      });
      const scales = { layer, packed: true };
      return [
        packed("expertsGateUp", 2 * expertSize, hiddenSize),
        {
          role: "expertsGateUpScales",
          ...scales,
          shape: [experts, 2 * expertSize, hiddenSize / BLOCK],
        },
        packed("expertsDown", hiddenSize, expertSize),
        { role: "expertsDownScales", ...scales, shape: [experts, hiddenSize, expertSize / BLOCK] },
        ...interleavedBiases({ experts, expertSize, layer, hiddenSize }),
      ];
    }
  }
}

function apartBiases(
  sizes: { layer: number; expert: number; expertSize: number; hiddenSize: number },
): WeightSpec[] {
  const { layer, expert, expertSize, hiddenSize } = sizes;
  return [
    { role: "expertsGateBias", layer, expert, shape: [expertSize] },
    { role: "expertsUpBias", layer, expert, shape: [expertSize] },
    { role: "expertsDownBias", layer, expert, shape: [hiddenSize] },
  ];
}

function interleavedBiases(
  sizes: { experts: number; expertSize: number; layer: number; hiddenSize: number },
): WeightSpec[] {
  const { experts, expertSize, layer, hiddenSize } = sizes;
  return [
    { role: "expertsGateUpBias", layer, shape: [experts, 2 * expertSize] },
    { role: "expertsDownBias", layer, shape: [experts, hiddenSize] },
  ];
}

/** The experts of a layer, each matrix and bias by itself. */
export function expertTensors(
  sizes: ExpertSizes,
  { layer, hiddenSize, loader }: { layer: number; hiddenSize: number; loader: StoredWeights },
): ExpertTensors {
  const { layout, experts, expertSize, expertBiases } = sizes;
  const each = (make: (expert: number) => TensorData) =>
    Array.from({ length: experts }, (_, e) => make(e));
  /** Rows of a tensor in which experts follow one another, `count` of the `perExpert` each. */
  const rowsOf = (
    tensor: TensorData,
    { perExpert, start, count }: { perExpert: number; start: number; count: number },
  ) =>
    each((e) =>
      rowRange(tensor, { name: `${tensor.name}[${e}]`, start: e * perExpert + start, count })
    );
  const all = (tensor: TensorData) => {
    const count = tensor.rows / experts;
    return rowsOf(tensor, { perExpert: count, start: 0, count });
  };
  switch (layout) {
    case "stacked":
      return {
        layer,
        gate: all(loader.tensor("expertsGate", { layer })),
        up: all(loader.tensor("expertsUp", { layer })),
        down: all(loader.tensor("expertsDown", { layer })),
        ...(expertBiases && {
          biases: {
            gate: all(loader.tensor("expertsGateBias", { layer })),
            up: all(loader.tensor("expertsUpBias", { layer })),
            down: all(loader.tensor("expertsDownBias", { layer })),
          },
        }),
      };
    case "apart":
      return {
        layer,
        gate: each((expert) => loader.tensor("expertsGate", { layer, expert })),
        up: each((expert) => loader.tensor("expertsUp", { layer, expert })),
        down: each((expert) => loader.tensor("expertsDown", { layer, expert })),
        ...(expertBiases && {
          biases: {
            gate: each((expert) => loader.tensor("expertsGateBias", { layer, expert })),
            up: each((expert) => loader.tensor("expertsUpBias", { layer, expert })),
            down: each((expert) => loader.tensor("expertsDownBias", { layer, expert })),
          },
        }),
      };
    case "joined": {
      const both = loader.tensor("expertsGateUp", { layer });
      const half = { perExpert: 2 * expertSize, count: expertSize };
      return {
        layer,
        gate: rowsOf(both, { ...half, start: 0 }),
        up: rowsOf(both, { ...half, start: expertSize }),
        down: all(loader.tensor("expertsDown", { layer })),
      };
    }
    case "interleaved": {
      const both = all(loader.tensor("expertsGateUp", { layer }));
      const down = all(loader.tensor("expertsDown", { layer }));
      return {
        layer,
        gate: both.map((tensor) => transposed(tensor, { first: 0, step: 2 })),
        up: both.map((tensor) => transposed(tensor, { first: 1, step: 2 })),
        down: down.map((tensor) => transposed(tensor, { first: 0, step: 1 })),
        biases: splitBiases({ layer, loader, all }),
      };
    }
    case "interleavedMxfp4": {
      const both = mxfp4Parts("expertsGateUp", { layer, loader, rows: 2 * expertSize });
      const down = mxfp4Parts("expertsDown", { layer, loader, rows: hiddenSize });
      const inward = { rows: expertSize, cols: hiddenSize, step: 2 };
      const outward = { rows: hiddenSize, cols: expertSize, step: 1 };
      return {
        layer,
        gate: each((expert) => mxfp4Rows(both, { ...inward, expert, first: 0 })),
        up: each((expert) => mxfp4Rows(both, { ...inward, expert, first: 1 })),
        down: each((expert) => mxfp4Rows(down, { ...outward, expert, first: 0 })),
        biases: splitBiases({ layer, loader, all }),
      };
    }
  }
}

function splitBiases(
  options: { layer: number; loader: StoredWeights; all: (tensor: TensorData) => TensorData[] },
): NonNullable<ExpertTensors["biases"]> {
  const { layer, loader, all } = options;
  const both = all(loader.tensor("expertsGateUpBias", { layer }));
  // Every other column of one row, as so many rows of one value: the same bytes as one row of them.
  const half = (first: number) =>
    both.map((tensor) => {
      const column = transposed(tensor, { first, step: 2 });
      return { ...column, rows: 1, cols: column.rows };
    });
  return { gate: half(0), up: half(1), down: all(loader.tensor("expertsDownBias", { layer })) };
}
