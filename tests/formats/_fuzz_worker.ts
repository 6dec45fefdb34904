/** Runs mutated headers in a thread of its own, so that several runs take no longer than one. */

import { fuzz, type FuzzOptions, type FuzzResult } from "../../src/cli/fuzz.ts";

/** What a run came to, and the most that the thread's memory grew by meanwhile, in bytes. */
export interface FuzzRun {
  readonly result: FuzzResult;
  readonly growth: number;
}

const scope = self as unknown as {
  onmessage: (event: MessageEvent<FuzzOptions>) => void;
  postMessage(run: FuzzRun): void;
};

/** The thread's own heap and buffers: other tests share the process. */
function held(): number {
  const { heapTotal, external } = Deno.memoryUsage();
  return heapTotal + external;
}

scope.onmessage = ({ data }) => {
  const before = held();
  let growth = 0;
  const onProgress = () => growth = Math.max(growth, held() - before);
  const result = fuzz({ ...data, onProgress });
  scope.postMessage({ result, growth });
};
