/** Logical consistency: whether the steps hold, follow from the prompt, and lead to the answer. */

import type { Rational } from "../data/checkers/rational.ts";
import { readValue } from "./answer/value.ts";
import type { Derivation } from "./derivation.ts";
import type { Reading } from "./reading.ts";
import type { StepLine } from "./steps.ts";

/** Where no solution is known as many steps are needed as there are, within these bounds. */
const NEEDED = Object.freeze({ least: 2, most: 8 });
/** A step whose numbers come from nowhere is worth this share of a wrong one. */
const UNSUPPORTED_FAULT = 0.5;
/** What steps are worth that hold and lead to no right answer. */
const UNFINISHED = 0.5;

/**
 * `sound * (1/2 + 1/2 * covered)` where the steps lead to the right answer, `sound * 1/2 * progress` where
 * they don't. `sound` falls by two shares of the needed steps with each wrong one, `covered` is how many
 * of the prompt's numbers went into the answer, `progress` how many of the needed steps there are.
 * Null for prompts that there is nothing to work out for.
 */
export function consistencyReward(reading: Reading): number | null {
  if (!needsSteps(reading)) return null;
  const { derivation } = reading.working;
  const supported = derivation.supported.size;
  if (supported === 0 || reading.isRight === null) return 0;
  const known = reading.solution?.derivation.supported.size ?? 0;
  const needed = known > 0 ? known : Math.min(Math.max(supported, NEEDED.least), NEEDED.most);
  const faults = derivation.wrong + UNSUPPORTED_FAULT * derivation.unsupported.size;
  const sound = Math.max(0, 1 - 2 * faults / needed);
  const covered = reading.isRight ? coverage(reading) : undefined;
  if (covered === undefined) return sound * UNFINISHED * Math.min(1, supported / needed);
  return sound * (UNFINISHED + (1 - UNFINISHED) * covered);
}

/** Whether the prompt asks for steps that can be worked out; the completion has no say in it. */
function needsSteps({ sample, solution }: Reading): boolean {
  const { family, answer } = sample.reference;
  if (solution !== null) return solution.derivation.supported.size > 0;
  return family !== undefined ? family !== "outside" : readValue(answer ?? "") !== null;
}

/**
 * How many of the prompt's numbers that go into the known solution's answer went into this one; undefined
 * where the steps don't lead to it. Where no solution is known, one will do.
 */
function coverage(reading: Reading): number | undefined {
  const { stated, solution, working } = reading;
  const worked = lastOutcome(stated, working.derivation);
  if (worked === undefined && !endsWithAnswer(reading)) return undefined;
  const reached = worked ?? working.derivation.origins;
  if (solution !== null) {
    const { derivation } = solution;
    const wanted = lastOutcome(stated, derivation) ?? derivation.origins;
    return wanted === 0 ? 1 : bitsIn(reached & wanted) / bitsIn(wanted);
  }
  return worked === 0 && working.derivation.known.asked > 0 ? 0 : 1;
}

/**
 * The prompt's numbers that went into the last number of an answer which was worked out; undefined where
 * none was, or where one comes from nowhere.
 */
function lastOutcome(stated: readonly Rational[], derivation: Derivation): number | undefined {
  const isKnown = stated.every((value) => derivation.known.originsOf(value) !== undefined);
  const outcomes = stated.map((value) => derivation.outcome(value));
  return isKnown ? outcomes.findLast((origins) => origins !== undefined) : undefined;
}

/** Answers in words, and numbers that were counted, stand in the last line as they are given. */
function endsWithAnswer(reading: Reading): boolean {
  const last = reading.working.lines.at(-1)!;
  const isCalculation = last.claims.some(({ relation }) => relation !== undefined);
  return !isCalculation && mentionsAnswer(last, reading);
}

function mentionsAnswer({ text }: StepLine, { sample, parts }: Reading): boolean {
  const { reference: { answer }, prompt } = sample;
  const words = wordsIn(text);
  if (/\b(?:yes|no|unknown|can't be)\b/i.test(answer ?? parts.answer)) {
    const subjects = askedAbout(prompt);
    return subjects.length > 0 && subjects.every((subject) => words.has(subject));
  }
  if (answer !== undefined) return ` ${plain(text)} `.includes(` ${plain(answer)} `);
  return [...wordsIn(parts.answer)].some((word) =>
    words.has(word) && (word.length > 2 || /\d/.test(word))
  );
}

/** Without punctuation. */
function plain(text: string): string {
  return text.toLowerCase().replace(/[^\p{L}\p{N}.]+/gu, " ").replace(/\.$/, "").trim();
}

function wordsIn(text: string): Set<string> {
  return new Set(text.match(/[\p{L}\p{N}]+/gu));
}

const NO_SUBJECTS = new Set(["are", "is", "all", "no", "none", "than", "that", "it", "the", "or"]);

/** The words that a prompt's question shares with what it says before, but for those of comparison. */
function askedAbout(prompt: string): string[] {
  const sentences = prompt.trim().split(/(?<=[.?!:])\s+/);
  const question = wordsIn(sentences.at(-1)!.replace(/\w+ than\b/g, ""));
  const premises = wordsIn(sentences.slice(0, -1).join(" "));
  return [...question].filter((word) => premises.has(word) && !NO_SUBJECTS.has(word));
}

function bitsIn(origins: number): number {
  let count = 0;
  for (let rest = origins; rest !== 0; rest &= rest - 1) count++;
  return count;
}
