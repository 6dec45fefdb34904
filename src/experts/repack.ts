/**
 * Another order for a GGUF file's tensors, in which everything of one routed expert lies together, so
 * that one read gets it. A stacked tensor `[experts, rows, cols]` has all experts' matrices of one kind
 * in a row; the matrices of one expert are far apart in three of them. So the stacks are taken apart:
 *
 *   blk.N.ffn_gate_exps.weight [E, I, H]  ->  blk.N.ffn_gate.0.weight [I, H], blk.N.ffn_up.0.weight,
 *   blk.N.ffn_up_exps.weight   [E, I, H]      blk.N.ffn_down.0.weight [H, I], blk.N.ffn_gate.1.weight, ...
 *   blk.N.ffn_down_exps.weight [E, H, I]
 *
 * These are the names that llama.cpp's converter gave experts before it stacked them. The key
 * `sluice.experts_adjacent` says that the data follows this order: all other tensors first, as they were,
 * then layer by layer, expert by expert, gate, up and down, and biases after them.
 */

import { FormatError, OptionError } from "../errors.ts";
import { quoted } from "../formats/byte_source.ts";
import type { GgufTensor } from "../formats/gguf/header.ts";
import { EXPERTS_ADJACENT_KEY } from "../formats/gguf/keys.ts";
import type { TypedValue } from "../formats/gguf/metadata.ts";
import type { GgufDeclaration } from "../formats/gguf/writer.ts";

/** A tensor of the new file and the bytes of the old one that it takes. */
export interface RepackedTensor<Source> extends GgufDeclaration {
  readonly source: Source;
  /** Within the source's data. */
  readonly offset: number;
}

const STACK = /^blk\.(\d+)\.(ffn_[a-z_]+)_exps\.(weight|bias)$/;

/** The order of an expert's tensors; others come after these. */
const ORDER = ["ffn_gate", "ffn_up", "ffn_down"];

/**
 * The tensors of the new file, in order. Throws OptionError where there is nothing to take apart,
 * FormatError where a layer's stacks disagree about the number of experts.
 */
export function repackTensors<Source extends GgufTensor>(
  tensors: readonly Source[],
): RepackedTensor<Source>[] {
  const others: RepackedTensor<Source>[] = [];
  const stacks: { layer: number; rank: number; kind: string; suffix: string; source: Source }[] =
    [];
  for (const source of tensors) {
    const match = STACK.exec(source.name);
    if (match === null || source.shape.length < 2) {
      others.push({ ...declarationOf(source), source, offset: 0 });
      continue;
    }
    const [, layer, kind, suffix] = match;
    const known = ORDER.indexOf(kind);
    const rank = (known < 0 ? ORDER.length : known) + (suffix === "bias" ? ORDER.length + 1 : 0);
    stacks.push({ layer: Number(layer), rank, kind, suffix, source });
  }
  if (stacks.length === 0) {
    throw new OptionError(
      "cannot repack: the model has no stacked experts, must have tensors such as " +
        "blk.0.ffn_gate_exps.weight",
    );
  }
  const layers = [...Map.groupBy(stacks, ({ layer }) => layer)].sort(([a], [b]) => a - b);
  const experts = layers.flatMap(([layer, own]) => {
    own.sort((a, b) => a.rank - b.rank || (a.source.name < b.source.name ? -1 : 1));
    const count = own[0].source.shape[0];
    for (const { source } of own) {
      if (source.shape[0] === count) continue;
      throw FormatError.of(
        "repack",
        `the experts in ${quoted(source.name)}`,
        source.shape[0],
        `${count} as in ${quoted(own[0].source.name)}`,
      );
    }
    return Array.from(
      { length: count },
      (_, expert) =>
        own.map(({ kind, suffix, source }): RepackedTensor<Source> => {
          const byteLength = source.byteLength / count;
          return {
            name: `blk.${layer}.${kind}.${expert}.${suffix}`,
            typeId: source.typeId,
            shape: source.shape.slice(1),
            byteLength,
            source,
            offset: expert * byteLength,
          };
        }),
    ).flat();
  });
  return [...others, ...experts];
}

/**
 * The keys of the new file: one file whatever the old one was split into, its experts apart. Throws
 * OptionError where they are so already.
 */
export function repackMetadata(
  metadata: ReadonlyMap<string, TypedValue>,
): Map<string, TypedValue> {
  if (metadata.get(EXPERTS_ADJACENT_KEY)?.value === true) {
    throw new OptionError(
      `cannot repack: the model has "${EXPERTS_ADJACENT_KEY}", must be one not yet repacked`,
    );
  }
  const kept = [...metadata].filter(([key]) => !key.startsWith("split."));
  return new Map([...kept, [EXPERTS_ADJACENT_KEY, { type: "bool", value: true }]]);
}

function declarationOf({ name, typeId, shape, byteLength }: GgufTensor): GgufDeclaration {
  return { name, typeId, shape, byteLength };
}
