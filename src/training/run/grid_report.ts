/** What members of a grid have spent their time on: shares for people, and a trace of the last steps. */

import { type Grid, gridText, placeOf, placeText } from "../parallel/grid.ts";
import { idealBubble } from "../parallel/pipeline.ts";
import { chromeTrace, type Shares, sharesOf, type TimelineEvent } from "../parallel/timeline.ts";

/** Steps of each phase that a trace shows: its last ones. */
const TRACED_STEPS = 8;

interface PhaseTimes {
  steps: number;
  shares: Shares;
  /** Of the schedules alone, were all passes equally long. */
  bubble: number;
  microBatches: number;
  readonly last: (readonly TimelineEvent[])[];
}

export class GridReport {
  readonly #grid: Grid;
  readonly #phases = new Map<string, PhaseTimes>();

  constructor(grid: Grid) {
    this.#grid = grid;
  }

  add(phase: string, events: readonly TimelineEvent[]): void {
    const times = this.#phases.get(phase) ?? {
      ...{ steps: 0, bubble: 0, microBatches: 0, last: [] },
      shares: { computing: 0, exchanging: 0, idle: 0 },
    };
    this.#phases.set(phase, times);
    const { computing, exchanging, idle } = sharesOf(events);
    const microBatches = microBatchesOf(events);
    times.steps++;
    times.microBatches += microBatches;
    times.bubble += idealBubble(this.#grid, microBatches);
    times.shares = {
      computing: times.shares.computing + computing,
      exchanging: times.shares.exchanging + exchanging,
      idle: times.shares.idle + idle,
    };
    times.last.push(events);
    if (times.last.length > TRACED_STEPS) times.last.shift();
  }

  /** A line for each phase; empty where there was no step. */
  text(): string {
    return [...this.#phases].map(([phase, { steps, shares, bubble, microBatches }]) => {
      const share = (sum: number) => `${(100 * sum / steps).toFixed(1)} %`;
      const { stages } = this.#grid;
      const schedule = stages === 1
        ? ""
        : `; the schedule of ${stages} stages and ${(microBatches / steps).toFixed(1)} ` +
          `micro-batches alone leaves ${share(bubble)} idle`;
      return `${phase}, ${gridText(this.#grid)}: computing ${share(shares.computing)}, ` +
        `exchanging ${share(shares.exchanging)}, idle ${share(shares.idle)}${schedule}\n`;
    }).join("");
  }

  /** The last steps of each phase, as chrome://tracing and Perfetto show them. */
  trace(): string {
    const events = [...this.#phases.values()].flatMap(({ last }) => last.flat());
    const nameOf = (rank: number) => `${rank}: ${placeText(this.#grid, placeOf(this.#grid, rank))}`;
    return chromeTrace(events, nameOf);
  }
}

/** Of one member. */
function microBatchesOf(events: readonly TimelineEvent[]): number {
  const names = events.filter(({ activity, name, rank }) =>
    rank === 0 && activity === "forward" && name.startsWith("micro-batch")
  );
  return new Set(names.map(({ name }) => name)).size;
}
