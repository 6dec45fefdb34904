/** The parts of `deno task bench --serving`, in their order. */

export const SERVING_PARTS = [
  "throughput",
  "prefix",
  "store",
  "writing",
  "connections",
  "memory",
  "speculation",
] as const;

export type ServingPart = typeof SERVING_PARTS[number];
