/** A server of rewards on a real socket. */

import { serve } from "../../src/server/serve.ts";
import { fixture, type FixtureOptions } from "./_support.ts";

/** `use` gets the address of `/get_reward`. */
export async function withRewardServer(
  use: (url: string) => Promise<void>,
  options: FixtureOptions["app"] = {},
): Promise<void> {
  const { app } = fixture({ app: options });
  const server = await serve({
    fetch: (request) => app.fetch(request),
    hostname: "127.0.0.1",
    port: 0,
  });
  try {
    await use(`${server.url}/get_reward`);
  } finally {
    await server.drain({ deadlineMs: 1000, graceMs: 500 });
  }
}
