/** Flags of `deno task start` for how it serves: keys, times, logs, metrics. */

import type { LogEntry, LogFormat } from "../server/log.ts";
import { logLine } from "../server/log.ts";
import {
  checkWeights,
  isPreset,
  PRESETS,
  REWARD_NAMES,
  type RewardWeights,
} from "../training/reward/mod.ts";
import { choiceFlag, type Flag, numberFlag, textFlag } from "./flags.ts";
import { errorLine, type Terminal, write } from "./terminal.ts";

/** A day, in seconds. */
const MAX_SECONDS = 86_400;

/** `article`, or `solution_accuracy:0.9,format:0.1`. */
const REWARD: Flag<RewardWeights> = Object.freeze({
  help: "what /get_reward weighs where a request names nothing: a preset, or weights of functions",
  placeholder: `${Object.keys(PRESETS).join("|")}|NAME:WEIGHT,...`,
  must: `one of ${Object.keys(PRESETS).join(", ")}, or weights such as ` +
    `solution_accuracy:0.9,format:0.1 of ${REWARD_NAMES.join(", ")}`,
  fallback: PRESETS.verifiable,
  shown: "verifiable",
  parse: (text: string) => {
    if (isPreset(text)) return PRESETS[text];
    const pairs = text.split(",").map((pair) =>
      /^(\w+):(\d{1,4}(?:\.\d{1,15})?)$/.exec(pair.trim())
    );
    const weights = Object.fromEntries(
      pairs.map((match) => [match?.[1] ?? "", Number(match?.[2])]),
    );
    try {
      checkWeights(weights);
      return weights;
    } catch {
      return undefined;
    }
  },
});

export const SERVING_FLAGS = {
  "api-keys-file": textFlag({
    help: "the API keys that may call, a line each; `deno task keys` makes them",
    placeholder: "PATH",
    must: "the path of a file",
  }),
  deadline: numberFlag({
    help: "seconds that a request may take which names no deadline; 0: as long as it takes",
    placeholder: "SECONDS",
    min: 0,
    max: MAX_SECONDS,
    fallback: 0,
  }),
  "keep-alive": numberFlag({
    help: "seconds of silence after which a waiting client is sent a sign of life; 0: never",
    placeholder: "SECONDS",
    min: 0,
    max: MAX_SECONDS,
    fallback: 10,
  }),
  drain: numberFlag({
    help: "seconds that running answers get after the signal to stop",
    placeholder: "SECONDS",
    min: 0,
    max: MAX_SECONDS,
    fallback: 10,
  }),
  log: choiceFlag({
    help: "a line for each request, on the error output",
    words: ["text", "json", "off"],
    fallback: "text",
  }),
  reward: REWARD,
  metrics: choiceFlag({
    help: "count for Prometheus, at /metrics",
    words: ["on", "off"],
    fallback: "on",
  }),
};

/** Seconds of a flag as milliseconds; `zero` is what 0 stands for. */
export function milliseconds<Zero>(seconds: number, zero: Zero): number | Zero {
  return seconds === 0 ? zero : Math.max(1, Math.round(seconds * 1_000));
}

export interface ServingLog {
  /** Undefined: requests are not logged. */
  readonly request: ((entry: LogEntry) => void) | undefined;
  /** One line per fault, without what anyone asked; logged even where requests are not. */
  readonly fault: (error: unknown) => void;
}

export function servingLog(
  kind: LogFormat | "off",
  terminal: Pick<Terminal, "writeSync">,
): ServingLog {
  const format = kind === "off" ? "text" : kind;
  const log = (entry: LogEntry) =>
    write(terminal, `${logLine(entry, { format, time: new Date() })}\n`);
  return {
    request: kind === "off" ? undefined : log,
    fault: (error) => log({ level: "error", event: "fault", error: errorLine(error) }),
  };
}
