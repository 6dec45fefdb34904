/** `deno task bench --serving`: the parts, one after the other. */

import type { Skipped } from "../engines.ts";
import { type ConnectionsFigures, formatConnections, measureConnections } from "./connections.ts";
import { formatMemory, measureMemory, type MemoryFigures } from "./memory.ts";
import type { ServingOptions } from "./options.ts";
import type { ServingPart } from "./parts.ts";
import { formatPrefix, measurePrefix, type PrefixFigures } from "./prefix.ts";
import { formatSpeculation, measureSpeculation, type SpeculationRow } from "./speculation.ts";
import { formatStore, measureStore, type StoreFigures } from "./store.ts";
import { formatThroughput, measureThroughput, type ThroughputFigures } from "./throughput.ts";
import { formatWriting, measureWriting, type WritingFigures } from "./writing.ts";

/** Of the parts that were asked for and did not fail. */
interface PartFigures {
  readonly throughput?: ThroughputFigures;
  readonly prefix?: PrefixFigures;
  readonly store?: StoreFigures;
  readonly writing?: WritingFigures;
  readonly connections?: ConnectionsFigures;
  readonly memory?: MemoryFigures;
  readonly speculation?: readonly SpeculationRow[];
}

export interface ServingFigures extends PartFigures {
  readonly threads: number;
  readonly activations: string;
  readonly failed: readonly Skipped[];
}

const MEASURES = {
  throughput: (options: ServingOptions) => measureThroughput(options),
  prefix: measurePrefix,
  store: measureStore,
  writing: measureWriting,
  connections: measureConnections,
  memory: measureMemory,
  speculation: measureSpeculation,
} satisfies Record<ServingPart, (options: ServingOptions) => Promise<unknown>>;

/** Measures part by part; one that fails is named, and the others go on. */
export async function measureServing(
  parts: readonly ServingPart[],
  options: ServingOptions,
): Promise<ServingFigures> {
  const figures: Partial<Record<ServingPart, unknown>> = {};
  const failed: Skipped[] = [];
  for (const part of parts) {
    try {
      figures[part] = await MEASURES[part](options);
    } catch (error) {
      const reason = (error as Error).message;
      options.onProgress(`${part} failed: ${reason}`);
      failed.push({ name: part, reason });
    }
  }
  const { threads, activations } = options;
  return { threads, activations, ...figures as PartFigures, failed };
}

/** Everything for people, without the last line end. */
export function formatServing(figures: readonly ServingFigures[]): string {
  const blocks = figures.flatMap((figure) => {
    const { threads, activations, throughput, prefix, store, writing } = figure;
    const { connections, memory, speculation, failed } = figure;
    return [
      [`${threads} ${threads === 1 ? "thread" : "threads"}, ${activations} activations`],
      ...(throughput === undefined ? [] : [formatThroughput(throughput)]),
      ...(prefix === undefined ? [] : [formatPrefix(prefix)]),
      ...(store === undefined ? [] : [formatStore(store)]),
      ...(writing === undefined ? [] : [formatWriting(writing)]),
      ...(connections === undefined ? [] : [formatConnections(connections)]),
      ...(memory === undefined ? [] : [formatMemory(memory)]),
      ...(speculation === undefined ? [] : [formatSpeculation(speculation)]),
      ...failed.map(({ name, reason }) => [`${name} failed: ${reason}`]),
    ];
  });
  return blocks.map((lines) => lines.join("\n")).join("\n\n");
}
