/** A sample as the reward functions read it: its parts, steps and verdicts, each worked out once. */

import type { Rational } from "../data/checkers/rational.ts";
import { isRightAnswer, statedNumbers } from "./answer/judge.ts";
import { type CompletionParts, partsOf } from "./completion.ts";
import { Derivation } from "./derivation.ts";
import { familyChecker, linesOf, readSteps, type StepLine } from "./steps.ts";
import type { Sample } from "./types.ts";

/** Prompts are read from their end, where the question is. */
const MAX_PROMPT = 20_000;
/** Characters of an answer that is read. */
const MAX_ANSWER = 8000;

/** Reasoning with what its claims come to. */
export interface Working {
  readonly text: string;
  /** None where it is too long to be read. */
  readonly lines: readonly StepLine[];
  readonly derivation: Derivation;
}

export class Reading {
  readonly sample: Sample;
  readonly parts: CompletionParts;
  #working: Working | undefined;
  #solution: Working | null | undefined;
  #isRight: boolean | null | undefined;
  #stated: readonly Rational[] | undefined;

  constructor(sample: Sample) {
    this.sample = { ...sample, prompt: sample.prompt.slice(-MAX_PROMPT) };
    this.parts = partsOf(sample.completion, { opened: sample.opened ?? false });
  }

  get working(): Working {
    return this.#working ??= this.#workingOf(this.parts.reasoning);
  }

  /** Whether all of the completion is short enough to be read. */
  get isReadable(): boolean {
    const { reasoning, answer } = this.parts;
    return answer.length <= MAX_ANSWER && linesOf(reasoning) !== null;
  }

  /** The shortest solution that is known; null where there is none that can be read. */
  get solution(): Working | null {
    if (this.#solution === undefined) {
      const text = this.sample.reference.solution?.trim() ?? "";
      this.#solution = text === "" || linesOf(text) === null ? null : this.#workingOf(text);
    }
    return this.#solution;
  }

  /** Whether the answer is right; null where nothing says what would be. */
  get isRight(): boolean | null {
    if (this.#isRight === undefined) this.#isRight = this.#judge();
    return this.#isRight;
  }

  /** The numbers that the answer states. */
  get stated(): readonly Rational[] {
    return this.#stated ??= statedNumbers(this.parts.answer);
  }

  #workingOf(text: string): Working {
    const { prompt, reference: { family } } = this.sample;
    const lines = readSteps(linesOf(text) ?? [], { prompt, family });
    return { text, lines, derivation: new Derivation(lines, { prompt }) };
  }

  #judge(): boolean | null {
    const { prompt, reference: { family, answer, choices } } = this.sample;
    const checker = familyChecker({ prompt, family });
    if (checker !== undefined) return checker.isRight(prompt, this.parts.answer);
    return answer === undefined || answer.trim() === ""
      ? null
      : isRightAnswer(this.parts.answer, { answer, prompt, choices });
  }
}
