/**
 * What a step changes, as the tensors of a safetensors file: parameters, moments, the clock, and a
 * reference's weights. `restore` puts all of it back to the bit.
 */

import type { Parameter, Slot } from "../../backend/training.ts";
import { FormatError } from "../../errors.ts";
import { SafetensorsArrays } from "../../formats/safetensors/arrays.ts";
import { type TensorEntry, writeSafetensors } from "../../formats/safetensors/writer.ts";
import { correctionBiases } from "../model_parameters.ts";
import type { Workbench } from "./workbench.ts";

const CLOCK = "clock";
const referenceName = (index: number) => `reference/${index}`;
const slotName = (slot: Slot, parameter: Parameter) => `${slot}/${parameter.names[0]}`;

/** Tensors that are read at once. */
const READS = 32;

interface Kept {
  readonly parameter: Parameter;
  readonly slot: Slot;
}

/** Everything that a run's steps change; without `optimizer` the weights alone, as phases begin. */
export async function weightsFile(
  bench: Workbench,
  { optimizer }: { optimizer: boolean },
): Promise<Uint8Array<ArrayBuffer>> {
  const { backend, trainer, reference } = bench;
  const entries: TensorEntry[] = [];
  const add = (name: string, data: Float32Array) =>
    entries.push({ name, dtype: "F32", shape: [data.length], data });
  const kept = keptOf(bench, optimizer);
  // Some at a time: a GPU is waited for once for all of them, and each takes memory meanwhile.
  for (let first = 0; first < kept.length; first += READS) {
    const part = kept.slice(first, first + READS);
    const values = await Promise.all(
      part.map(({ parameter, slot }) => backend.readParameter(parameter, slot)),
    );
    part.forEach(({ parameter, slot }, i) => add(slotName(slot, parameter), values[i]));
  }
  if (optimizer) {
    add(CLOCK, await backend.read(trainer.buffers.clock));
    const copies = await reference?.weights.read() ?? [];
    copies.forEach((values, i) => add(referenceName(i), values));
  }
  return writeSafetensors(entries);
}

/** Puts a file's numbers back. Throws FormatError where it is of another model. */
export function restoreWeights(
  bench: Workbench,
  { bytes, name, optimizer }: { bytes: Uint8Array; name: string; optimizer: boolean },
): void {
  const { backend, trainer, reference } = bench;
  const arrays = new SafetensorsArrays(bytes, name);
  const read = (tensor: string, length?: number) => {
    const values = arrays.get(tensor, "F32");
    if (length === undefined || values.length === length) return values;
    throw FormatError.of(
      `go on from ${JSON.stringify(name)}`,
      `the length of "${tensor}"`,
      values.length,
      `${length}`,
    );
  };
  for (const { parameter, slot } of keptOf(bench, optimizer)) {
    const length = parameter.names.length * parameter.rows * parameter.cols;
    backend.writeParameter(parameter, slot, read(slotName(slot, parameter), length));
  }
  const values = keptOf(bench, false).map(({ parameter }) => read(slotName("value", parameter)));
  if (optimizer) {
    const { clock } = trainer.buffers;
    backend.write(clock, read(CLOCK, clock.rows));
    reference?.weights.write(values.map((_, i) => read(referenceName(i))));
  } else reference?.weights.write(values);
}

/** The first tensor with a number that is not finite: weights before gradients. */
export async function notFinite(
  { backend, trainer }: Workbench,
): Promise<{ tensor: string; slot: Slot; value: number } | null> {
  for (const slot of ["value", "gradient"] as const) {
    for (const parameter of trainer.parameters.trained) {
      const values = await backend.readParameter(parameter, slot);
      const at = values.findIndex((value) => !Number.isFinite(value));
      if (at < 0) continue;
      const part = Math.floor(at / (parameter.rows * parameter.cols));
      return { tensor: parameter.names[part], slot, value: values[at] };
    }
  }
  return null;
}

function keptOf({ backend, trainer }: Workbench, optimizer: boolean): Kept[] {
  const { trained } = trainer.parameters;
  const biases = correctionBiases(trainer.parameters).map(({ bias }) => backend.parameterOf(bias));
  const slots: readonly Slot[] = optimizer ? ["value", "first", "second"] : ["value"];
  return [
    ...trained.flatMap((parameter) => slots.map((slot) => ({ parameter, slot }))),
    ...biases.map((parameter) => ({ parameter, slot: "value" as const })),
  ];
}
