/** What each rank did when: how much of a step was computing, how much talking and waiting. */

export type Activity = "forward" | "backward" | "update" | "exchange" | "wait";

export interface TimelineEvent {
  readonly rank: number;
  readonly activity: Activity;
  /** What exactly, for people: "micro-batch 3". */
  readonly name: string;
  /** Milliseconds since the epoch; fractions count. */
  readonly start: number;
  readonly end: number;
}

/** Notes what one rank does. */
export class Timeline {
  readonly #rank: number;
  #events: TimelineEvent[] = [];

  constructor(rank: number) {
    this.#rank = rank;
  }

  async measure<T>(activity: Activity, name: string, work: () => T | Promise<T>): Promise<T> {
    const start = now();
    try {
      return await work();
    } finally {
      this.#events.push({ rank: this.#rank, activity, name, start, end: now() });
    }
  }

  /** The events since the last call. */
  take(): TimelineEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

/** Comparable between threads, whose clocks begin at different times. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

/** Parts of the time from the first event to the last, over all ranks. */
export interface Shares {
  readonly computing: number;
  readonly exchanging: number;
  /** Waiting for others, and nothing at all: the bubble of a pipeline. */
  readonly idle: number;
}

export function sharesOf(events: readonly TimelineEvent[]): Shares {
  const ranks = new Set(events.map(({ rank }) => rank)).size;
  if (ranks === 0) return { computing: 0, exchanging: 0, idle: 0 };
  const start = events.reduce((least, event) => Math.min(least, event.start), Infinity);
  const end = events.reduce((most, event) => Math.max(most, event.end), -Infinity);
  const whole = ranks * (end - start) || 1;
  const spent = (...activities: Activity[]) =>
    events.filter(({ activity }) => activities.includes(activity))
      .reduce((sum, event) => sum + event.end - event.start, 0) / whole;
  const computing = spent("forward", "backward", "update");
  const exchanging = spent("exchange");
  return { computing, exchanging, idle: Math.max(0, 1 - computing - exchanging) };
}

/** A trace that chrome://tracing and Perfetto show: a line for each rank, times in microseconds. */
export function chromeTrace(
  events: readonly TimelineEvent[],
  nameOf: (rank: number) => string = (rank) => `rank ${rank}`,
): string {
  const first = events.reduce((least, { start }) => Math.min(least, start), Infinity);
  const traceEvents = events.map(({ rank, activity, name, start, end }) => ({
    ...{ name: `${activity} ${name}`.trim(), cat: activity, ph: "X", pid: 0, tid: rank },
    ...{ ts: (start - first) * 1000, dur: (end - start) * 1000 },
  }));
  const ranks = [...new Set(events.map(({ rank }) => rank))].sort((a, b) => a - b);
  const names = ranks.map((rank) => ({
    ...{ name: "thread_name", ph: "M", pid: 0, tid: rank, args: { name: nameOf(rank) } },
  }));
  return JSON.stringify({ traceEvents: [...names, ...traceEvents] });
}
