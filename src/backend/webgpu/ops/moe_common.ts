/** What the gate and the routed experts share. */

import { UnsupportedOpError } from "../../../errors.ts";

/** Experts for which arrays of workgroup memory are made; the largest published layer has 512. */
const MAX_EXPERTS = 1024;

export function checkExpertCount(op: string, count: number): void {
  if (count <= MAX_EXPERTS) return;
  throw new UnsupportedOpError(
    `cannot record ${op}: the layer has ${count} experts, must be at most ${MAX_EXPERTS}`,
  );
}

/** WGSL of the logistic function, without an exponential that overflows. */
export const SIGMOID = `
fn sigmoid(x: f32) -> f32 {
  let power = exp(-abs(x));
  return select(power, 1.0, x >= 0.0) / (1.0 + power);
}`;
