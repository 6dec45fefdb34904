/** A compute thread: joins the shared memories and runs every plan until it is told to stop. */

import { instantiate, type Kernels, LEAVE, type SharedModule } from "./kernels.ts";

export interface ThreadStart {
  readonly shared: SharedModule;
  /** Address of what the threads share, in each bank. */
  readonly contexts: readonly number[];
}

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ThreadStart>) => void) | null;
  postMessage(message: "up"): void;
  close(): void;
};

scope.onmessage = async ({ data: { shared, contexts } }) => {
  const banks: Kernels[] = [];
  for (const bank of contexts.keys()) banks.push(await instantiate(shared, bank));
  const thread = banks[0].join(contexts[0]);
  let bank = 0;
  while (bank !== LEAVE) {
    try {
      // Unsigned, as the kernels mean it.
      bank = banks[bank].serve(contexts[bank], thread) >>> 0;
    } catch (error) {
      banks[bank].fail(contexts[bank]);
      throw error;
    }
  }
  scope.close();
};

scope.postMessage("up");
