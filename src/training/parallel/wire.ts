/** What a crew's threads are told and answer: plain data, so that they might as well be elsewhere. */

import type { MetadataValue } from "../../formats/tensor_source.ts";
import type { Slot } from "../../backend/training.ts";
import type { TrainingSequence } from "../batch.ts";
import type { TrainerOptions } from "../trainer.ts";
import type { Ports } from "./communicator.ts";
import type { Grid } from "./grid.ts";
import type { TimelineEvent } from "./timeline.ts";

/** Where each member finds the model. */
export type ModelOrigin =
  | { readonly kind: "checkpoint"; readonly path: string }
  | {
    readonly kind: "initial";
    readonly config: Readonly<Record<string, MetadataValue>>;
    readonly seed: number;
    readonly deviation?: number;
  };

export type MemberBackend =
  | { readonly kind: "reference" }
  /** Threads of each member. */
  | { readonly kind: "wasm"; readonly threads: number };

/** As for a trainer, without what is no data. */
export type MemberTrainer = Omit<TrainerOptions, "parameters"> & {
  readonly parameters: { readonly weightDecay: number };
};

export interface CrewOptions {
  readonly grid: Grid;
  readonly model: ModelOrigin;
  readonly backend: MemberBackend;
  readonly trainer: MemberTrainer;
  /** Of a step, for each replica. */
  readonly microBatches: number;
}

export type Order =
  | (CrewOptions & { readonly kind: "start"; readonly rank: number; readonly ports: Ports })
  | {
    readonly kind: "step";
    readonly microBatches: readonly (readonly TrainingSequence[])[];
    readonly whole: { readonly sequences: number; readonly tokens: number };
    readonly rate: number;
    readonly biasRate: number;
  }
  | { readonly kind: "read"; readonly slot: Slot }
  | { readonly kind: "timeline" };

/** A parameter's numbers, by the name of its first tensor. */
export interface ReadParameter {
  readonly name: string;
  readonly values: Float32Array;
}

export type Answer =
  | { readonly kind: "up" }
  | { readonly kind: "started" }
  /** `TOTALS` of the member's stage, of all replicas. */
  | { readonly kind: "stepped"; readonly totals: Float32Array }
  | { readonly kind: "read"; readonly parameters: readonly ReadParameter[] }
  | { readonly kind: "timeline"; readonly events: readonly TimelineEvent[] }
  | { readonly kind: "failed"; readonly message: string };
