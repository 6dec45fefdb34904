/** What a generator makes, and how a family of problems is described. */

import type { Draws } from "./draws.ts";
import type { Notation } from "./working.ts";

/** A problem with its worked solution. */
export interface Problem {
  readonly family: string;
  /** 1 is the easiest. */
  readonly difficulty: number;
  /**
   * Names the problem whatever its phrasing: two prompts that ask for the same thing have one key, so
   * that the split by key never puts one phrasing into training and another into what is held out.
   */
  readonly key: string;
  readonly prompt: string;
  /** The lines between `<think>` and `</think>`, in the notation of docs/data.md. */
  readonly steps: readonly string[];
  /** The sentence behind `</think>`. */
  readonly reply: string;
  /** The bare answer. */
  readonly answer: string;
}

/** What `Family.make` decides; the rest of a problem follows. */
export type Made = Omit<Problem, "family" | "difficulty">;

export interface MakeOptions {
  readonly difficulty: number;
  readonly notation: Notation;
}

/** A kind of problem with its generator. */
export interface Family {
  readonly name: string;
  /** Difficulties go from 1 to this. */
  readonly levels: number;
  /** For people: what is asked. */
  readonly about: string;
  /** The answers say of what kind a reply is, and are none themselves. */
  readonly answersAreKinds?: boolean;
  readonly make: (draws: Draws, options: MakeOptions) => Made;
}
