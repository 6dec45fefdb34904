/** What a crew's threads are told and answer: plain data, so that they might as well be elsewhere. */

import type { MetadataValue } from "../../formats/tensor_source.ts";
import type { Parameter, Slot } from "../../backend/training.ts";
import type { TrainingSequence } from "../batch.ts";
import type { TrainerOptions } from "../trainer.ts";
import type { Ports } from "./communicator.ts";
import type { Grid } from "./grid.ts";
import type { MemberSums } from "./member.ts";
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
  | {
    readonly kind: "write";
    readonly slot: Slot;
    /** In the order in which the member has named its parameters. */
    readonly values: readonly Float32Array[];
  }
  | { readonly kind: "clock"; readonly values: Float32Array }
  | { readonly kind: "timeline" };

export type Answer =
  | { readonly kind: "up" }
  /** The member's parameters, those that change without a gradient included, each by its own shape. */
  | { readonly kind: "started"; readonly parameters: readonly Parameter[] }
  | ({ readonly kind: "stepped" } & MemberSums)
  | { readonly kind: "read"; readonly values: readonly Float32Array[] }
  | { readonly kind: "written" }
  | { readonly kind: "timeline"; readonly events: readonly TimelineEvent[] }
  /** `refused`: it was asked for what cannot be, as an OptionError says. */
  | { readonly kind: "failed"; readonly message: string; readonly refused: boolean };
