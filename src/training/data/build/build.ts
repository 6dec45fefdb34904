/**
 * Makes a corpus: rows of all sources through the filters, parted into training and held out, as JSONL.
 * Every decision follows from the recipe and the rows alone, so that a build that was stopped anywhere
 * and resumed gives the same bytes as one that was not.
 */

import { Contamination } from "../filters/contamination.ts";
import { type Judge, openFilters } from "../filters/mod.ts";
import { normalized } from "../filters/words.ts";
import { hashText, shareOf } from "../hash.ts";
import { type DataFiles, readFiles, START } from "../readers/files.ts";
import { linesOf } from "../readers/lines.ts";
import type { Recipe, Source } from "../recipe/recipe.ts";
import { type Draft, promptOf, type Row, rowLine, textOf } from "../rows.ts";
import { finishBuild, isFinished, removeWorkFiles } from "./finish.ts";
import { type OutputFolder, PARTIAL } from "./folder.ts";
import { DuplicateMemory } from "./memory.ts";
import { type BuildPosition, readPosition, type SourceState, writePosition } from "./position.ts";
import { NO_ROWS, shardName, shardNames, ShardWriter } from "./shards.ts";
import { openSource, Progress, type SourceRow, type SourceRows, taken } from "./sources.ts";

export interface BuildProgress {
  /** From 0 to 1, over all sources. */
  readonly share: number;
  readonly read: number;
  readonly train: number;
  readonly heldout: number;
}

export interface BuildOptions {
  readonly recipe: Recipe;
  /** Stands for the recipe and its input files; a position of another one is refused. */
  readonly fingerprint: string;
  readonly folder: OutputFolder;
  readonly files: DataFiles;
  readonly onProgress?: (progress: BuildProgress) => void;
  /** Stops the build behind the current row, to be resumed later. */
  readonly signal?: AbortSignal;
  /** Rows between two positions that are written down. Default 4096. */
  readonly rowsPerPosition?: number;
}

/** Makes the corpus, or what is missing of it; false where the signal stopped it before the end. */
export async function buildCorpus(options: BuildOptions): Promise<boolean> {
  if (isFinished(options.folder, options.fingerprint)) {
    removeWorkFiles(options.folder);
    return true;
  }
  const builder = await Builder.open(options);
  try {
    if (!await builder.run()) return false;
  } finally {
    builder.close();
  }
  const { recipe, fingerprint } = options;
  await finishBuild(options.folder, { recipe, fingerprint, sources: builder.states });
  return true;
}

interface OpenSource {
  readonly source: Source;
  readonly rows: SourceRows;
  readonly judge: Judge;
  readonly state: SourceState;
}

class Builder {
  readonly #options: BuildOptions;
  readonly #sources: readonly OpenSource[];
  readonly #progress: Progress;
  readonly #memory: DuplicateMemory | null;
  readonly #shards: { readonly train: ShardWriter; readonly heldout: ShardWriter };
  /** Hashes of the prompts that are held out: none comes twice. */
  readonly #heldout: Set<number>;
  readonly #encoder = new TextEncoder();

  private constructor(parts: {
    options: BuildOptions;
    sources: readonly OpenSource[];
    progress: Progress;
    memory: DuplicateMemory | null;
    shards: { train: ShardWriter; heldout: ShardWriter };
    heldout: Set<number>;
  }) {
    this.#options = parts.options;
    this.#sources = parts.sources;
    this.#progress = parts.progress;
    this.#memory = parts.memory;
    this.#shards = parts.shards;
    this.#heldout = parts.heldout;
  }

  static async open(options: BuildOptions): Promise<Builder> {
    const { recipe, folder, files } = options;
    const position = readPosition(folder, options.fingerprint);
    const progress = await Progress.of(recipe.sources, files);
    const contamination = await readEvaluations(recipe, files);
    const sources: OpenSource[] = [];
    for (const [i, source] of recipe.sources.entries()) {
      const state = position?.sources[i] ?? beginning();
      const rows = openSource(source, { seed: recipe.seed, files, from: state.position });
      const judge = await openFilters(source.filters, contamination);
      sources.push({ source, rows, judge, state });
    }
    const shards = openShards(options, position);
    const needsMemory = recipe.sources.some(({ filters }) => filters.duplicates);
    const memory = needsMemory
      ? await DuplicateMemory.open(folder, {
        duplicates: recipe.duplicates,
        count: position?.fingerprints ?? 0,
      })
      : null;
    const heldout = position === null
      ? new Set<number>()
      : await readHeldout(folder, position.shards.heldout);
    return new Builder({ options, sources, progress, memory, shards, heldout });
  }

  get states(): SourceState[] {
    return this.#sources.map(({ state }) => state);
  }

  async run(): Promise<boolean> {
    const { rowsPerPosition = 4096 } = this.#options;
    let unsaved = 0;
    for (let open = this.#nextSource(); open !== null; open = this.#nextSource()) {
      const { done, value } = await open.rows.next();
      if (done) open.state.ended = true;
      else this.#take(open, value);
      const isStopped = this.#options.signal?.aborted === true;
      if (++unsaved < rowsPerPosition && !isStopped) continue;
      unsaved = 0;
      this.#save();
      this.#report();
      if (isStopped) return false;
      // Lets signals and timers have their turn.
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    for (const writer of Object.values(this.#shards)) writer.finish();
    this.#report();
    return true;
  }

  /** The source that has come least far; the first of several. */
  #nextSource(): OpenSource | null {
    let next: OpenSource | null = null;
    let least = Infinity;
    for (const open of this.#sources) {
      const { source, state } = open;
      if (state.ended || hasEnough(source, state)) continue;
      const share = this.#progress.share(source, state);
      if (share < least) {
        least = share;
        next = open;
      }
    }
    return next;
  }

  #take({ source, judge, state }: OpenSource, row: SourceRow): void {
    state.read++;
    state.position = row.next;
    const outcome = this.#outcome({ source, judge, state }, row);
    if ("dropped" in outcome) {
      state.dropped[outcome.dropped] = (state.dropped[outcome.dropped] ?? 0) + 1;
      return;
    }
    const { draft, side } = outcome;
    const id = `${source.name}-${row.next.row - 1}`;
    const written: Row = { ...draft, id, source: source.name };
    this.#shards[side].write(this.#encoder.encode(rowLine(written)));
    state[side]++;
    // Only now, since on resuming the written rows are all there is to know it from.
    if (side === "heldout") this.#heldout.add(heldoutKey(draft));
    state.characters += textOf(draft).length;
  }

  /** What becomes of a row; duplicates are looked for last, since only rows that stay are remembered. */
  #outcome(
    { source, judge, state }: Omit<OpenSource, "rows">,
    row: SourceRow,
  ): { dropped: string } | { draft: Draft; side: "train" | "heldout" } {
    const { draft } = row;
    const refused = row.refused ?? (draft === null ? "no row" : judge(draft));
    if (refused !== null || draft === null) return { dropped: refused ?? "no row" };
    const side = this.#side(source, row.key);
    if (side === "heldout") {
      if (state.heldout >= this.#options.recipe.split.limit) return { dropped: "enough held out" };
      if (this.#heldout.has(heldoutKey(draft))) return { dropped: "held out already" };
    } else if (source.side === "heldout") return { dropped: "for training" };
    if (side === "heldout" && source.side === "train") return { dropped: "held out" };
    if (source.filters.duplicates && this.#memory !== null) {
      const print = this.#memory.fingerprint(textOf(draft));
      const found = this.#memory.find(print);
      if (found !== null) return { dropped: found };
      this.#memory.add(print);
    }
    return { draft, side };
  }

  #side(source: Source, key: string): "train" | "heldout" {
    if (source.side === "heldout") return "heldout";
    const { seed, split } = this.#options.recipe;
    return shareOf(key, seed) < split.heldout ? "heldout" : "train";
  }

  #save(): void {
    this.#memory?.sync();
    const position: BuildPosition = {
      sources: this.states,
      shards: { train: this.#shards.train.sync(), heldout: this.#shards.heldout.sync() },
      fingerprints: this.#memory?.count ?? 0,
    };
    writePosition(this.#options.folder, { recipe: this.#options.fingerprint, position });
  }

  #report(): void {
    const { onProgress } = this.#options;
    if (onProgress === undefined) return;
    const total = (key: "read" | "train" | "heldout") =>
      this.states.reduce((sum, state) => sum + state[key], 0);
    const shares = this.#sources.map(({ source, state }) =>
      state.ended ? 1 : this.#progress.share(source, state)
    );
    onProgress({
      share: shares.reduce((sum, share) => sum + Math.min(1, share), 0) / shares.length,
      read: total("read"),
      train: total("train"),
      heldout: total("heldout"),
    });
  }

  close(): void {
    this.#memory?.close();
    for (const writer of Object.values(this.#shards)) writer.close();
  }
}

/** Generated rows that are read for one that is wanted, before a source counts as used up. */
const READS_PER_ROW = 50;
const LEAST_READS = 10_000;

function hasEnough(source: Source, state: SourceState): boolean {
  if (source.count === null) return false;
  const isUsedUp = source.kind === "generated" &&
    state.read >= READS_PER_ROW * source.count + LEAST_READS;
  return isUsedUp || taken(source, state) >= source.count;
}

function beginning(): SourceState {
  return {
    position: START,
    read: 0,
    dropped: {},
    train: 0,
    heldout: 0,
    characters: 0,
    ended: false,
  };
}

function openShards({ recipe, folder }: BuildOptions, position: BuildPosition | null) {
  const open = (side: "train" | "heldout") =>
    new ShardWriter(folder, {
      side,
      rowsPerShard: recipe.shardRows,
      state: position?.shards[side] ?? NO_ROWS,
    });
  return { train: open("train"), heldout: open("heldout") };
}

async function readEvaluations(recipe: Recipe, files: DataFiles): Promise<Contamination | null> {
  if (recipe.evaluations.length === 0) return null;
  const contamination = new Contamination(recipe.contamination);
  for (const evaluation of recipe.evaluations) {
    const options = { ...evaluation, files, minReward: -Infinity, pieceCharacters: 2000 };
    for await (const { reading } of readFiles(options, START)) {
      if (!("refused" in reading)) contamination.add(reading);
    }
  }
  return contamination;
}

function heldoutKey(draft: Draft): number {
  return hashText(normalized(promptOf(draft) || textOf(draft)));
}

/** The prompts of what was held out before the position. */
async function readHeldout(
  folder: OutputFolder,
  state: { shard: number; rows: number },
): Promise<Set<number>> {
  const prompts = new Set<number>();
  const names = shardNames(folder.names(), "heldout");
  if (state.rows > 0) names.push(shardName("heldout", state.shard) + PARTIAL);
  for (const name of names) {
    let rows = name.endsWith(PARTIAL) ? state.rows : Infinity;
    for await (const { text } of linesOf(await folder.stream(name))) {
      if (rows-- <= 0) break;
      prompts.add(heldoutKey(JSON.parse(text!) as Draft));
    }
  }
  return prompts;
}
