/** The bar of `deno task train`: how far a phase is, and what its last step measured. */

import type { RunProgress } from "../training/run/job.ts";
import { type CommandIo, progressBar } from "./terminal.ts";

/** What a bar shows of a step's metrics, where it has them. */
const SHOWN = ["loss", "reward", "entropy", "kl", "clip_ratio/region_mean", "expert_load"];

export function stepBar(io: CommandIo) {
  let shown: RunProgress | null = null;
  const open = (label: string) =>
    progressBar(io.stderr, {
      label,
      amounts: () => shown === null ? "" : stepText(shown),
    });
  let bar = open("");
  return {
    onStep(progress: RunProgress) {
      if (progress.phase !== shown?.phase) bar = open(progress.phase);
      shown = progress;
      bar.onProgress({ loadedBytes: progress.step, totalBytes: progress.steps });
    },
    clear: () => bar.clear(),
  };
}

function stepText({ step, steps, metrics, tokensPerSecond, secondsLeft }: RunProgress): string {
  const names = [
    ...SHOWN,
    ...Object.keys(metrics).filter((name) => /^rewards\/.*\/mean$/.test(name)),
    "completions/mean_length",
  ];
  const figures = names.flatMap((name) =>
    metrics[name] === undefined
      ? []
      : `${name.replace(/^(?:rewards|completions)\/|\/(?:mean|region_mean)$/g, "")} ${
        metrics[name].toPrecision(3)
      }`
  );
  return [
    `${step}/${steps}`,
    ...figures,
    `${Math.round(tokensPerSecond)} tokens/s`,
    `${Math.round(secondsLeft)} s left`,
  ].join(", ");
}
