/** A compute thread: joins the shared memory and runs every plan until it is told to stop. */

import { instantiate, type SharedModule } from "./kernels.ts";

export interface ThreadStart {
  readonly shared: SharedModule;
  readonly context: number;
  readonly thread: number;
}

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ThreadStart>) => void) | null;
  postMessage(message: unknown): void;
  close(): void;
};

scope.onmessage = async ({ data }) => {
  const kernels = await instantiate(data.shared);
  scope.postMessage("ready");
  try {
    kernels.serve(data.context, data.thread, 0);
  } catch (error) {
    kernels.fail(data.context);
    throw error;
  }
  scope.close();
};
