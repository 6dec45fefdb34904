/** Times of day, durations and days of the week. */

import type { Draws } from "../draws.ts";
import type { Family, Made } from "../problem.ts";
import { type Notation, Working } from "../working.ts";

const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/** 845 -> "14:05". */
function clock(minutes: number): string {
  const two = (value: number) => String(value).padStart(2, "0");
  return `${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}

function duration(minutes: number): string {
  const [hours, rest] = [Math.floor(minutes / 60), minutes % 60];
  const part = (count: number, unit: string) =>
    count === 0 ? [] : [`${count} ${unit}${count === 1 ? "" : "s"}`];
  return [...part(hours, "hour"), ...part(rest, "minute")].join(" and ") || "0 minutes";
}

function toMinutes(draws: Draws, notation: Notation): Made {
  const [unit, small] = draws.pick([["hour", "minute"], ["minute", "second"]] as const);
  const count = draws.integer(1, 12);
  const rest = draws.integer(1, 59);
  const working = new Working(notation);
  working.line(`1 ${unit} = 60 ${small}s`);
  const result = working.add(working.multiply(count, 60), rest);
  const amount = `${count} ${unit}${count === 1 ? "" : "s"} and ${rest} ${small}${
    rest === 1 ? "" : "s"
  }`;
  return {
    key: `time ${unit} ${count} ${rest}`,
    prompt: draws.phrase([
      `How many ${small}s are ${amount}?`,
      `Convert ${amount} to ${small}s.`,
      `Write ${amount} in ${small}s.`,
    ]),
    steps: working.lines,
    reply: `${amount} are ${result} ${small}s.`,
    answer: `${result} ${small}s`,
  };
}

function later(draws: Draws, notation: Notation): Made {
  const start = draws.integer(0, 24 * 60 - 1);
  const length = draws.integer(5, draws.pick([59, 300, 600]));
  const working = new Working(notation);
  const end = addToClock(working, { start, length });
  const [from, takes] = [clock(start), duration(length)];
  const event = draws.pick(["train", "bus", "film", "lesson"]);
  const travels = event === "train" || event === "bus";
  return {
    key: `time ${start} + ${length}`,
    prompt: draws.phrase([
      `What time is it ${takes} after ${from}?`,
      `It is ${from}. What time will it be in ${takes}?`,
      travels
        ? `A ${event} leaves at ${from} and takes ${takes}. When does it arrive?`
        : `A ${event} begins at ${from} and lasts ${takes}. When does it end?`,
    ]),
    steps: working.lines,
    reply: `${takes} after ${from} it is ${end}.`,
    answer: end,
  };
}

/** Minutes first, then hours; the day ends at 24. */
function addToClock(working: Working, times: { start: number; length: number }): string {
  const { start, length } = times;
  let minutes = working.add(start % 60, length % 60);
  let hours = Math.floor(start / 60);
  if (length >= 60) hours = working.add(hours, Math.floor(length / 60));
  if (minutes >= 60) {
    minutes = working.subtract(minutes, 60);
    hours = working.add(hours, 1);
  }
  if (hours >= 24) hours = working.subtract(hours, 24);
  return clock(hours * 60 + minutes);
}

function between(draws: Draws, notation: Notation): Made {
  const start = draws.integer(0, 23 * 60);
  const end = draws.integer(start + 1, Math.min(24 * 60 - 1, start + 600));
  const working = new Working(notation);
  let hours = Math.floor(end / 60);
  let minutes = end % 60;
  if (minutes < start % 60) {
    hours = working.subtract(hours, 1);
    minutes = working.add(minutes, 60);
  }
  minutes = working.subtract(minutes, start % 60);
  hours = working.subtract(hours, Math.floor(start / 60));
  const length = duration(hours * 60 + minutes);
  const [from, to] = [clock(start), clock(end)];
  return {
    key: `time ${start} to ${end}`,
    prompt: draws.phrase([
      `How long is it from ${from} to ${to}?`,
      `A film begins at ${from} and ends at ${to}. How long is it?`,
      `A train leaves at ${from} and arrives at ${to} on the same day. How long does it take?`,
    ]),
    steps: working.lines,
    reply: `From ${from} to ${to} it is ${length}.`,
    answer: length,
  };
}

function weekday(draws: Draws, notation: Notation): Made {
  const today = draws.integer(0, 6);
  const days = draws.integer(2, 60);
  const isPast = draws.chance(0.3);
  const working = new Working(notation);
  working.line("1 week = 7 days");
  const { remainder } = working.divide(days, 7);
  const path = Array.from({ length: remainder + 1 }, (_, i) => {
    const offset = isPast ? -i : i;
    return `${DAYS[(today + offset + 7) % 7]} ${i}`;
  });
  working.line(path.join(", "));
  const day = DAYS[(today + (isPast ? -remainder : remainder) + 7) % 7];
  return {
    key: `time ${DAYS[today]} ${isPast ? "-" : "+"} ${days}`,
    prompt: isPast
      ? draws.pick([
        `Today is ${DAYS[today]}. What day was it ${days} days ago?`,
        `If today is ${DAYS[today]}, which day of the week was ${days} days ago?`,
      ])
      : draws.pick([
        `Today is ${DAYS[today]}. What day will it be in ${days} days?`,
        `If today is ${DAYS[today]}, which day of the week comes ${days} days later?`,
      ]),
    steps: working.lines,
    reply: `It ${isPast ? "was" : "will be"} ${day}.`,
    answer: day,
  };
}

const LEVELS = [toMinutes, later, between, weekday];

export const time: Family = {
  name: "time",
  levels: LEVELS.length,
  about: "times of day, durations and days of the week",
  make: (draws, { difficulty, notation }) => LEVELS[difficulty - 1](draws, notation),
};
