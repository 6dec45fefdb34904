/** Runs mutated headers in a thread of its own, so that several runs take no longer than one. */

import { fuzz, type FuzzOptions, type FuzzResult } from "../../src/cli/fuzz.ts";

/** What a run came to, and the most memory the process held meanwhile, in bytes. */
export interface FuzzRun {
  readonly result: FuzzResult;
  readonly most: number;
}

const scope = self as unknown as {
  onmessage: (event: MessageEvent<FuzzOptions>) => void;
  postMessage(run: FuzzRun): void;
};

scope.onmessage = ({ data }) => {
  let most = 0;
  const onProgress = () => most = Math.max(most, Deno.memoryUsage().rss);
  const result = fuzz({ ...data, onProgress });
  scope.postMessage({ result, most });
};
