/** A recipe's sources as rows one by one, from any position on. */

import { checkerOf, checkSolution } from "../checkers/mod.ts";
import { problemAt } from "../families/mod.ts";
import { normalized } from "../filters/words.ts";
import { hashText } from "../hash.ts";
import type { Problem } from "../problem.ts";
import { type DataFiles, type Position, readFiles } from "../readers/files.ts";
import type { FileSource, GeneratedSource, Source } from "../recipe/recipe.ts";
import { type Draft, problemDraft, promptOf, textOf } from "../rows.ts";

/** A row of a source, or why there is none. */
export interface SourceRow {
  readonly draft: Draft | null;
  readonly refused: string | null;
  /** Decides on which side of the split the row comes out. */
  readonly key: string;
  readonly next: Position;
}

export type SourceRows = AsyncIterator<SourceRow, undefined>;

export function openSource(
  source: Source,
  options: { seed: number; files: DataFiles; from: Position },
): SourceRows {
  return source.kind === "generated" ? generate(source, options) : read(source, options);
}

/** Streams of one recipe differ by the sources' names, even of one family. */
export function sourceSeed(source: Source, seed: number): number {
  return hashText(source.name, seed);
}

async function* generate(
  source: GeneratedSource,
  options: { seed: number; from: Position },
): AsyncGenerator<SourceRow, undefined> {
  const { family, levels, notation, wording } = source;
  const seed = sourceSeed(source, options.seed);
  for (let index = options.from.row;; index++) {
    const problem = problemAt(family, { seed, index, levels, notation, wording });
    const refused = isSound(problem) ? null : "refused by the checker";
    const next = { file: 0, offset: 0, row: index + 1 };
    yield { draft: problemDraft(problem), refused, key: problem.key, next };
  }
}

/** Whether the family's checker takes the reply, and every step holds. */
function isSound({ family, prompt, steps, reply }: Problem): boolean {
  return checkerOf(family)!.isRight(prompt, reply) &&
    checkSolution(family, { prompt, lines: steps }).wrong.length === 0;
}

async function* read(
  source: FileSource,
  options: { files: DataFiles; from: Position },
): AsyncGenerator<SourceRow, undefined> {
  for await (const { reading, next } of readFiles({ ...source, ...options }, options.from)) {
    if ("refused" in reading) {
      yield { draft: null, refused: reading.refused, key: "", next };
      continue;
    }
    const prompt = promptOf(reading);
    yield {
      draft: reading,
      refused: null,
      key: normalized(prompt === "" ? textOf(reading) : prompt),
      next,
    };
  }
}

/** The rows that count towards a source's `count`. */
export function taken(source: Source, state: { train: number; heldout: number }): number {
  return source.side === "heldout" ? state.heldout : state.train;
}

/** How far a source has come, from 0 to 1: sources are read so that they end together. */
export class Progress {
  readonly #sizes: ReadonlyMap<Source, readonly number[]>;

  private constructor(sizes: ReadonlyMap<Source, readonly number[]>) {
    this.#sizes = sizes;
  }

  static async of(sources: readonly Source[], files: DataFiles): Promise<Progress> {
    const sizes = new Map<Source, number[]>();
    for (const source of sources) {
      if (source.kind === "generated") continue;
      const own: number[] = [];
      for (const path of source.paths) own.push(await files.size(path) * growth(path));
      sizes.set(source, own);
    }
    return new Progress(sizes);
  }

  share(source: Source, state: { position: Position; train: number; heldout: number }): number {
    const byCount = source.count === null ? 0 : taken(source, state) / source.count;
    const sizes = this.#sizes.get(source);
    if (sizes === undefined) return byCount;
    const done = sizes.slice(0, state.position.file).reduce((sum, size) => sum + size, 0) +
      state.position.offset;
    const all = sizes.reduce((sum, size) => sum + size, 0);
    return Math.max(byCount, Math.min(0.999, done / Math.max(1, all)));
  }
}

/** What a file's size tells of the positions in it: packed text is some four times as long. */
function growth(path: string): number {
  if (/\.warc(?:\.gz)?$/.test(path)) return 1 / 20_000;
  return path.endsWith(".gz") ? 4 : 1;
}
