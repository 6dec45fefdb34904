/**
 * The file that `deno task logits --out` writes: what each sequence gave, under the names of the golden
 * fixtures. Logits are written as they come; the rest, which is smaller, waits for its sequence's end.
 */

import { OptionError } from "../errors.ts";
import { SafetensorsWriter, type TensorDeclaration } from "../formats/safetensors/writer.ts";
import type { LayerRouting, StepObserver } from "../model/evaluate.ts";
import type { Model } from "../model/types.ts";

export interface LogitsFile {
  /** What a prefill must report; the sequences come in the order in which they were declared. */
  readonly observer: StepObserver;
  /** Writes what the sequence has besides logits. */
  endSequence(): void;
  /** Throws FormatError unless everything declared has been written. */
  finish(): void;
  close(): void;
}

/** Creates or replaces the file; throws OptionError where it cannot be. */
export function openLogitsFile(
  path: string,
  options: {
    sequences: readonly (readonly number[])[];
    model: Model;
    routing: boolean;
    hidden: boolean;
  },
): LogitsFile {
  const { sequences, model, routing, hidden } = options;
  const file = openForWriting(path);
  const watched = {
    routing: routing ? model.routedLayers : [],
    hidden: hidden ? model.hidden : [],
  };
  const writer = new SafetensorsWriter(
    sequences.flatMap(({ length }, i) => declarations(`seq${i}`, { length, model, watched })),
    {
      write(bytes) {
        for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      },
    },
  );
  /** By tensor, in the declared order, the pieces of each step. */
  let waiting: (Float32Array | Int32Array)[][] = [];
  const keep = (first: number, pieces: readonly (Float32Array | Int32Array)[]) => {
    for (const [i, piece] of pieces.entries()) (waiting[first + i] ??= []).push(piece);
  };
  const observer: StepObserver = {
    onLogits: (logits) => writer.write(logits),
    ...(routing && {
      onRouting: (layers: readonly LayerRouting[]) =>
        keep(0, layers.flatMap(({ experts, weights }) => [experts, weights])),
    }),
    ...(hidden && {
      onHidden: (states: readonly Float32Array[]) => keep(2 * watched.routing.length, states),
    }),
  };
  return {
    observer,
    endSequence() {
      for (const pieces of waiting) for (const piece of pieces) writer.write(piece);
      waiting = [];
    },
    finish: () => writer.finish(),
    close: () => file.close(),
  };
}

/** The tensors of one sequence, in the order in which they are written. */
function declarations(
  name: string,
  options: {
    length: number;
    model: Model;
    watched: { routing: Model["routedLayers"]; hidden: Model["hidden"] };
  },
): TensorDeclaration[] {
  const { length, model, watched } = options;
  const { vocabSize } = model.config;
  return [
    { name: `${name}.logits`, dtype: "F32", shape: [length, vocabSize] },
    ...watched.routing.flatMap(({ layer, topK }): TensorDeclaration[] => [
      { name: `${name}.router.${layer}.experts`, dtype: "I32", shape: [length, topK] },
      { name: `${name}.router.${layer}.weights`, dtype: "F32", shape: [length, topK] },
    ]),
    ...watched.hidden.map(({ width }, layer): TensorDeclaration => ({
      name: `${name}.hidden.${layer}`,
      dtype: "F32",
      shape: [length, width],
    })),
  ];
}

function openForWriting(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path, { write: true, create: true, truncate: true });
  } catch (error) {
    throw new OptionError(
      `cannot evaluate logits: --out cannot be written (${(error as Error).name}), ` +
        "must be the path of a file in a folder that is there",
    );
  }
}
