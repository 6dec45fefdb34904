/**
 * The live page of `deno task train --serve`. It has a thread of its own, which reads the metrics from the
 * disk: steps neither wait for it nor keep it waiting.
 */

import { OptionError } from "../errors.ts";
import type { RunProgress, RunResult } from "../training/run/job.ts";
import type { TrainRecipe } from "../training/run/recipe.ts";

/** A run ends whatever its page does. */
const LONGEST_END_MS = 10_000;

/** What the page shows of a phase beside its metrics. */
export type PagePhase = Pick<
  TrainRecipe["phases"][number],
  "name" | "kind" | "steps" | "gate" | "share"
>;

export type Outcome = RunResult["outcome"] | "failed";

/** To the page's thread. */
export type PageOrder =
  | {
    readonly type: "open";
    /** The run's folder. */
    readonly state: string;
    readonly name: string;
    readonly phases: readonly PagePhase[];
    /** 0 takes a free one. */
    readonly port: number;
  }
  | { readonly type: "progress"; readonly progress: RunProgress }
  | { readonly type: "event"; readonly line: string }
  | { readonly type: "end"; readonly outcome: Outcome };

/** From it. */
export type PageNews =
  | { readonly type: "listening"; readonly url: string }
  | { readonly type: "failed"; readonly message: string }
  | { readonly type: "closed" };

export interface RunPage {
  readonly url: string;
  onStep(progress: RunProgress): void;
  onEvent(line: string): void;
  /** Tells the end to those who look on, and closes. */
  close(outcome: Outcome): Promise<void>;
}

/** Opens the page on this machine's own address. Throws OptionError where the port cannot be had. */
export async function openRunPage(
  { recipe, state, port }: { recipe: TrainRecipe; state: string; port: number },
): Promise<RunPage> {
  const worker = new Worker(new URL("run_page_worker.ts", import.meta.url), { type: "module" });
  const tell = (order: PageOrder) => worker.postMessage(order);
  const opened = Promise.withResolvers<string>();
  const closed = Promise.withResolvers<void>();
  worker.addEventListener("message", ({ data }: MessageEvent<PageNews>) => {
    if (data.type === "listening") opened.resolve(data.url);
    else if (data.type === "failed") opened.reject(new OptionError(data.message));
    else closed.resolve();
  });
  worker.addEventListener("error", (event) => {
    // A page that breaks is no reason to lose a run.
    event.preventDefault();
    opened.reject(new OptionError(`cannot serve the run's page: ${event.message}`));
    closed.resolve();
  });
  const phases = recipe.phases.map(({ name, kind, steps, gate, share }) => ({
    ...{ name, kind, steps, gate, share },
  }));
  tell({ type: "open", state, name: recipe.name, phases, port });
  try {
    const url = await opened.promise;
    return {
      url,
      onStep: (progress) => tell({ type: "progress", progress }),
      onEvent: (line) => tell({ type: "event", line }),
      async close(outcome) {
        tell({ type: "end", outcome });
        const timer = setTimeout(closed.resolve, LONGEST_END_MS);
        await closed.promise;
        clearTimeout(timer);
        worker.terminate();
      },
    };
  } catch (error) {
    worker.terminate();
    throw error;
  }
}
