/** Checks times of day, durations and days of the week. */

import { plainAnswer, statedChoice } from "./answer_text.ts";
import type { LineVerdict } from "./claims.ts";
import type { Checker } from "./types.ts";

const WEEK = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAY_MINUTES = 24 * 60;
/** Seconds by the first letter of a unit's name. */
const SECONDS: Readonly<Record<string, number>> = { h: 3600, m: 60, s: 1 };

/** Times of day as minutes after midnight. */
function clocksIn(text: string): number[] {
  return [...text.matchAll(/\b([01]?\d|2[0-3]):([0-5]\d)\b/g)]
    .map((match) => Number(match[1]) * 60 + Number(match[2]));
}

/** The amounts of time in a text, in seconds. */
function durationsIn(text: string): number[] {
  return [...text.matchAll(/(?<![\d:.])(\d+) (hour|minute|second)s?\b/gi)]
    .map((match) => Number(match[1]) * SECONDS[match[2][0].toLowerCase()]);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** What is behind the last `is` or `are`: the rest repeats the question. */
function answerPart(text: string): string {
  return text.replace(/^.*\b(?:is|are|=) /i, "");
}

function weekdayIsRight(prompt: string, text: string): boolean {
  const today = WEEK.findIndex((day) => prompt.includes(day));
  const days = Number(/(\d+) days/.exec(prompt)?.[1]);
  const offset = /\bago\b/.test(prompt) ? -days : days;
  return statedChoice(text, WEEK) === WEEK[(((today + offset) % 7) + 7) % 7];
}

function clockIsRight(prompt: string, text: string): boolean {
  const [from] = clocksIn(prompt);
  const wanted = (from + sum(durationsIn(prompt)) / 60) % DAY_MINUTES;
  const stated = clocksIn(text);
  return stated.length <= 2 && stated.at(-1) === wanted &&
    stated.every((time) => time === wanted || time === from);
}

function lengthIsRight(prompt: string, text: string): boolean {
  const [from, to] = clocksIn(prompt);
  const stated = durationsIn(answerPart(text));
  if (!clocksIn(text).every((time) => time === from || time === to)) return false;
  return stated.length > 0 && stated.length <= 2 && sum(stated) === (to - from) * 60;
}

function conversionIsRight(prompt: string, text: string): boolean {
  const total = sum(durationsIn(prompt));
  const unit = /\b(?:how many|to|in) (minute|second)s\b/i.exec(prompt)?.[1];
  const stated = [...answerPart(text).matchAll(/(\d+)(?: (\w+))?/g)];
  if (unit === undefined || stated.length !== 1) return false;
  const [, count, word] = stated[0];
  return Number(count) * SECONDS[unit[0]] === total && (word ?? unit).startsWith(unit);
}

/** `Friday 0, Saturday 1, Sunday 2`: day by day from the prompt's one, in the direction it asks for. */
function checkWeekdays(prompt: string, line: string): LineVerdict | null {
  const days = line.split(", ").map((part) => /^([A-Z]\w+day) (\d{1,2})$/.exec(part));
  if (!days.every((day) => day !== null)) return null;
  const today = WEEK.findIndex((day) => prompt.includes(day));
  const step = /\bago\b/.test(prompt) ? -1 : 1;
  const isRight = days.every(([, name, count], i) =>
    Number(count) === i && name === WEEK[(today + step * i + 7 * i) % 7]
  );
  return isRight ? { right: 1, wrong: [] } : { right: 0, wrong: [line] };
}

export const time: Checker = {
  checkLine: checkWeekdays,

  isRight(prompt, text) {
    const plain = plainAnswer(text);
    if (plain === null) return false;
    if (/\bdays\b/.test(prompt)) return weekdayIsRight(prompt, plain);
    const clocks = clocksIn(prompt).length;
    if (clocks === 1) return clockIsRight(prompt, plain);
    return clocks === 2 ? lengthIsRight(prompt, plain) : conversionIsRight(prompt, plain);
  },
};
