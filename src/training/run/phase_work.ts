/** What each kind of phase needs, and does. */

import { linesOf } from "../data/readers/lines.ts";
import { type PackedSequence, Packer } from "../data/packing/packer.ts";
import { recordsOf } from "./accepted.ts";
import { GrpoWork } from "../phases/grpo.ts";
import { firstOf, PackedStream } from "../phases/packed_stream.ts";
import { type Prompt, shuffled } from "../phases/prompts.ts";
import { acceptedOf } from "../phases/rejection.ts";
import { SupervisedWork } from "../phases/supervised.ts";
import type { PhaseWork } from "../phases/work.ts";
import { TrainingError } from "../../errors.ts";
import type { GrpoPhase, PhaseRecipe, RejectionPhase, SupervisedPhase } from "./phase_recipe.ts";
import type { RunJob } from "./job.ts";
import type { Position } from "./state.ts";
import type { Workbench } from "./workbench.ts";

export interface SampleJob {
  readonly sampled: Position["sampled"];
  readonly signal?: AbortSignal;
  readonly onSampled: (
    sampled: Position["sampled"],
    tokens: { count: number; seconds: number },
  ) => void;
}

export interface PhaseParts {
  /** Problems that are answered besides the held-out ones. */
  readonly prompts: readonly Prompt[];
  /** What comes before the first step, in pieces that a resumed run does not do again. */
  sample?(bench: Workbench, job: SampleJob): Promise<"done" | "stopped">;
  work(bench: Workbench): Promise<PhaseWork>;
}

/** Training problems that prompts are taken from at most, so that a large corpus does not fill the memory. */
const PROMPT_LIMIT = 50_000;

export async function openPhase(phase: PhaseRecipe, job: RunJob): Promise<PhaseParts> {
  switch (phase.kind) {
    case "cold_start":
      return { prompts: [], work: (bench) => Promise.resolve(supervised(phase, { job, bench })) };
    case "grpo": {
      const prompts = await job.data.prompts("train", PROMPT_LIMIT);
      return { prompts, work: (bench) => Promise.resolve(grpo(phase, { job, bench, prompts })) };
    }
    case "rejection":
      return await rejection(phase, job);
  }
}

const seedOf = (job: RunJob, { name }: PhaseRecipe) => `${job.recipe.seed}/${name}`;

function supervised(
  phase: SupervisedPhase,
  { job, bench }: { job: RunJob; bench: Workbench },
): PhaseWork {
  const { steps: trainer } = bench;
  const { packed } = job.data;
  const files = phase.sequences === null ? packed : firstOf(packed, phase.sequences);
  const stream = new PackedStream(files, { seed: seedOf(job, phase) });
  const { metricsEvery } = job.recipe;
  return new SupervisedWork({ ...phase, metricsEvery, trainer, stream });
}

function grpo(
  phase: GrpoPhase,
  { job, bench, prompts }: { job: RunJob; bench: Workbench; prompts: readonly Prompt[] },
): PhaseWork {
  const { steps: trainer, engine, reference } = bench;
  const { endTokens, decode } = job.data;
  return new GrpoWork({
    ...{ phase, trainer, engine, reference, prompts, endTokens, decode },
    ...{ scorer: job.scorer, seed: seedOf(job, phase) },
  });
}

const ACCEPTED_FILE = "accepted.jsonl";

async function rejection(phase: RejectionPhase, job: RunJob): Promise<PhaseParts> {
  const { data, scorer } = job;
  const seed = seedOf(job, phase);
  const prompts = shuffled(await data.prompts("train", PROMPT_LIMIT), `${seed}/prompts`)
    .slice(0, phase.prompts);
  const folder = job.subfolder(`phases/${phase.name}`);
  // As many as are answered side by side, then their answers are put on the disk.
  const together = Math.max(1, Math.floor(job.recipe.evaluation.sequences / phase.samples));
  return {
    prompts,
    async sample(bench, { sampled, signal, onSampled }) {
      const { endTokens, decode } = data;
      const file = folder.append(ACCEPTED_FILE, sampled.bytes);
      let { prompts: from, bytes, kept } = sampled;
      try {
        while (from < prompts.length) {
          if (signal?.aborted) return "stopped";
          const started = performance.now();
          const piece = prompts.slice(from, from + together);
          const { engine } = bench;
          const { accepted, tokens } = await acceptedOf(piece, {
            ...{ phase, engine, scorer, endTokens, decode, seed, from },
          });
          const text = accepted.map((answer) => `${JSON.stringify(answer)}\n`).join("");
          const encoded = new TextEncoder().encode(text);
          file.write(encoded);
          file.sync();
          from += piece.length;
          bytes += encoded.length;
          kept += accepted.length;
          const seconds = (performance.now() - started) / 1000;
          onSampled({ prompts: from, bytes, kept }, { count: tokens, seconds });
        }
      } finally {
        file.close();
      }
      return "done";
    },
    async work(bench) {
      const records = await recordsOf(linesOf(await folder.stream(ACCEPTED_FILE)));
      if (records.length === 0) {
        throw new TrainingError(
          `cannot train ${phase.name}: of ${phase.samples} answers to each of ${prompts.length} ` +
            `prompts none has a reward of at least ${phase.minReward}, some must`,
        );
      }
      const original = await data.rows(Math.round(phase.original * records.length));
      const sequences: PackedSequence[] = [];
      const packer = new Packer({
        length: data.packedLength,
        padToken: data.tokenizer.padToken ?? data.endTokens[0] ?? 0,
        emit: (sequence) => sequences.push(sequence),
      });
      for (const draft of shuffled([...records, ...original], `${seed}/mix`)) {
        for (const sample of data.encoder.encode(draft)) packer.add(sample);
      }
      packer.finish();
      job.onEvent?.(
        `${phase.name}: ${records.length} accepted answers and ${original.length} original rows`,
      );
      const read = () => Promise.resolve(sequences);
      const stream = new PackedStream([{ name: "kept", count: sequences.length, read }], { seed });
      const { metricsEvery } = job.recipe;
      return new SupervisedWork({
        ...{ ...phase, pretrainSteps: 0, metricsEvery, trainer: bench.steps, stream },
      });
    },
  };
}
