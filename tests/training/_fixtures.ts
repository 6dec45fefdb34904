/** Gradients and optimiser steps as PyTorch has them in float64; `index.json` states each formula. */

import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { ROOT } from "../support/fixtures.ts";

const FOLDER = new URL("tests/data/training/", ROOT);

export interface FixtureCase {
  readonly arrays: SafetensorsArrays;
  // deno-lint-ignore no-explicit-any -- each kind of case states other things
  readonly info: any;
}

/** The cases whose name begins with `prefix`. */
export function fixtureCases(prefix: string): Map<string, FixtureCase> {
  const { cases } = JSON.parse(Deno.readTextFileSync(new URL("index.json", FOLDER)));
  const names = Object.keys(cases).filter((name) => name.startsWith(prefix));
  return new Map(names.map((name) => {
    const info = cases[name];
    const arrays = new SafetensorsArrays(Deno.readFileSync(new URL(info.file, FOLDER)), name);
    return [name, { arrays, info }];
  }));
}

export function readJson(name: string) {
  return JSON.parse(Deno.readTextFileSync(new URL(name, FOLDER)));
}

/** What a float32 gradient may be off, as a part of its largest number. */
const FLOAT_TOLERANCE = 2e-5;

/** Throws where a gradient is further from the recorded one than the fixtures allow. */
export function assertGradient(
  actual: ArrayLike<number>,
  expected: Float64Array,
  what: string,
  relative = FLOAT_TOLERANCE,
): void {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const tolerance = relative * largest + 1e-7;
  if (actual.length !== expected.length) {
    throw new Error(`${what} has ${actual.length} values, must have ${expected.length}`);
  }
  expected.forEach((value, i) => {
    if (Math.abs(actual[i] - value) <= tolerance) return;
    throw new Error(`${what} at ${i} is ${actual[i]}, must be within ${tolerance} of ${value}`);
  });
}
