/** What a run is given, and what it tells. */

import type { MetadataValue, TensorSource } from "../../formats/tensor_source.ts";
import type { OutputFolder } from "../data/build/folder.ts";
import type { Grid } from "../parallel/grid.ts";
import type { TimelineEvent } from "../parallel/timeline.ts";
import type { Scorer } from "../phases/scorer.ts";
import type { CostLine } from "./costs.ts";
import type { RunData } from "./data.ts";
import type { TrainRecipe } from "./recipe.ts";

export interface RunProgress {
  readonly phase: string;
  readonly step: number;
  readonly steps: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly tokensPerSecond: number;
  readonly secondsLeft: number;
}

export interface RunJob {
  readonly recipe: TrainRecipe;
  readonly data: RunData;
  readonly scorer: Scorer;
  /** The weights to begin with, and their config.json. */
  readonly source: TensorSource;
  readonly config: Readonly<Record<string, MetadataValue>>;
  /** Stands for the recipe and the data. */
  readonly fingerprint: string;
  /** The run's own folder, and those below it. */
  readonly folder: OutputFolder;
  readonly subfolder: (name: string) => OutputFolder;
  readonly threads: number;
  /** Members that train together. What is learnt is the same but for rounding, and so is every file's form. */
  readonly grid?: Grid;
  /** Told after each of a grid's steps what its members have done. */
  readonly onTimeline?: (phase: string, events: readonly TimelineEvent[]) => void;
  /** The phase after which to stop; all of them by default. */
  readonly until?: string;
  readonly signal?: AbortSignal;
  readonly onStep?: (progress: RunProgress) => void;
  /** Told in a line what has happened. */
  readonly onEvent?: (line: string) => void;
}

export interface RunResult {
  readonly outcome: "done" | "stopped" | "below the gate";
  readonly hash: string;
  readonly costs: readonly CostLine[];
  /** Why it stopped, for people. */
  readonly message: string | null;
}
