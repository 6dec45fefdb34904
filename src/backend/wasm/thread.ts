/** A compute thread: joins the shared memory and runs every plan until it is told to stop. */

import { instantiate, type SharedModule } from "./kernels.ts";

export interface ThreadStart {
  readonly shared: SharedModule;
  readonly context: number;
}

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ThreadStart>) => void) | null;
  close(): void;
};

scope.onmessage = async ({ data }) => {
  const kernels = await instantiate(data.shared);
  try {
    kernels.serve(data.context);
  } catch (error) {
    kernels.fail(data.context);
    throw error;
  }
  scope.close();
};
