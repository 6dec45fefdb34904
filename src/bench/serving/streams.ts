/**
 * What the moments at which tokens arrived say about several answers side by side. The same sums for a
 * server and for an engine without one: moments are all they need.
 */

import { FormatError } from "../../errors.ts";
import { percentile, summarize, type Summary } from "../statistics.ts";
import { MARK } from "../wire.ts";

/** One answer as it arrived. */
export interface Stream {
  /** Seconds since the run's first submission at which this one was submitted. */
  readonly submitted: number;
  /** Seconds since then at which pieces of the answer arrived, ascending; at least one. */
  readonly arrivals: readonly number[];
  /**
   * Tokens of the answer. Tokens that are no whole character come with a later one, so that pieces may
   * be fewer; a piece counts as `tokens / arrivals.length` then.
   */
  readonly tokens: number;
}

/** Figures of one run. */
export interface StreamFigures {
  /**
   * Tokens a second of all streams together while all of them decode: from the last stream's first
   * token to the first stream's last. Undefined where one had ended before another began.
   */
  readonly decode: number | undefined;
  /** All tokens of all answers by the seconds from the first submission to the last token. */
  readonly endToEnd: number;
  /** Seconds from submission to the first token: the median and the longest of the streams. */
  readonly firstToken: { readonly median: number; readonly max: number };
  /** Seconds between two tokens of a stream, while other streams' prompts are computed too. */
  readonly gaps: Gaps | undefined;
  /** The same within the time that `decode` counts. */
  readonly decodeGaps: Gaps | undefined;
}

export interface Gaps {
  readonly median: number;
  readonly p99: number;
  /** p99 by the median. */
  readonly spread: number;
}

/** The figures of streams that ran side by side; throws RangeError where there are none. */
export function figuresOf(streams: readonly Stream[]): StreamFigures {
  if (streams.length === 0 || streams.some(({ arrivals }) => arrivals.length === 0)) {
    throw new RangeError("cannot sum up streams: some are empty, must have one piece at least");
  }
  const start = Math.max(...streams.map(({ arrivals }) => arrivals[0]));
  const end = Math.min(...streams.map(({ arrivals }) => arrivals.at(-1)!));
  const within = streams.map(({ arrivals }) => arrivals.filter((at) => at >= start && at <= end));
  const decoded = streams.reduce((sum, { arrivals, tokens }) => {
    // What arrives at the very beginning was computed before.
    const pieces = arrivals.filter((at) => at > start && at <= end).length;
    return sum + pieces * tokens / arrivals.length;
  }, 0);
  const firsts = streams.map(({ submitted, arrivals }) => arrivals[0] - submitted);
  const submitted = Math.min(...streams.map(({ submitted }) => submitted));
  const last = Math.max(...streams.map(({ arrivals }) => arrivals.at(-1)!));
  const tokens = streams.reduce((sum, stream) => sum + stream.tokens, 0);
  return {
    decode: end > start ? decoded / (end - start) : undefined,
    endToEnd: tokens / (last - submitted),
    firstToken: { median: summarize(firsts)!.median, max: Math.max(...firsts) },
    gaps: gapsOf(streams.map(({ arrivals }) => arrivals)),
    decodeGaps: gapsOf(within),
  };
}

/** Undefined where no stream has two pieces. */
function gapsOf(streams: readonly (readonly number[])[]): Gaps | undefined {
  const gaps = streams.flatMap((arrivals) => arrivals.slice(1).map((at, i) => at - arrivals[i]));
  if (gaps.length === 0) return undefined;
  const median = summarize(gaps)!.median;
  const p99 = percentile(gaps, 0.99)!;
  return { median, p99, spread: p99 / median };
}

/** Figures of several runs. */
export interface StreamSummary {
  readonly decode: Summary | undefined;
  readonly endToEnd: Summary | undefined;
  readonly firstToken: Summary | undefined;
  readonly slowestFirstToken: Summary | undefined;
  readonly gap: Summary | undefined;
  readonly gapP99: Summary | undefined;
  readonly spread: Summary | undefined;
  readonly decodeGapP99: Summary | undefined;
  readonly decodeSpread: Summary | undefined;
}

export function summarizeStreams(runs: readonly StreamFigures[]): StreamSummary {
  const over = (value: (run: StreamFigures) => number | undefined) =>
    summarize(runs.map(value).filter((x) => x !== undefined));
  return {
    decode: over(({ decode }) => decode),
    endToEnd: over(({ endToEnd }) => endToEnd),
    firstToken: over(({ firstToken }) => firstToken.median),
    slowestFirstToken: over(({ firstToken }) => firstToken.max),
    gap: over(({ gaps }) => gaps?.median),
    gapP99: over(({ gaps }) => gaps?.p99),
    spread: over(({ gaps }) => gaps?.spread),
    decodeGapP99: over(({ decodeGaps }) => decodeGaps?.p99),
    decodeSpread: over(({ decodeGaps }) => decodeGaps?.spread),
  };
}

/** What a driver of several streams is asked for. */
export interface StreamsRequest {
  readonly prompts: readonly (readonly number[])[];
  /** Tokens of each answer, the first one included. */
  readonly generate: number;
  /** Choose each token greedily; false: given tokens are fed, and nothing is chosen. */
  readonly sample: boolean;
}

/**
 * Reads a driver's line `{"streams": [[seconds, ...], ...]}`: arrivals since the request, of each
 * prompt's answer. Throws FormatError where it is something else.
 */
export function parseStreams(line: string): Stream[] {
  const refuse = () =>
    FormatError.of(
      "read a driver's answer",
      "the line",
      JSON.stringify(line.slice(0, 200)),
      `${MARK}{"streams": [[seconds, ...], ...]}, ascending and not negative`,
    );
  if (!line.startsWith(MARK)) throw refuse();
  let lists: unknown;
  try {
    lists = JSON.parse(line.slice(MARK.length)).streams;
  } catch {
    throw refuse();
  }
  if (!Array.isArray(lists) || lists.length === 0) throw refuse();
  return lists.map((arrivals) => {
    if (!Array.isArray(arrivals) || arrivals.length === 0) throw refuse();
    const good = arrivals.every((at, i) =>
      Number.isFinite(at) && at >= (i === 0 ? 0 : arrivals[i - 1])
    );
    if (!good) throw refuse();
    return { submitted: 0, arrivals, tokens: arrivals.length };
  });
}
