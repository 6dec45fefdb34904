/** The driver's side of the conversation, for drivers that run in Deno. */

import { linesOf } from "../../cli/lines.ts";
import { MARK, type Ready, type Request, type Timing } from "../wire.ts";

/** What a driver makes of its engine. */
export interface DrivenEngine {
  readonly version: string;
  run(request: Request): Promise<Timing>;
}

/** Opens the engine, says how long that took, and answers requests until the input ends. */
export async function serveDriver(open: () => Promise<DrivenEngine>): Promise<never> {
  const start = performance.now();
  const engine = await open();
  const ready: Ready = {
    loadSeconds: (performance.now() - start) / 1000,
    version: engine.version,
  };
  console.log(MARK + JSON.stringify({ ready }));
  for await (const line of linesOf(Deno.stdin.readable)) {
    console.log(MARK + JSON.stringify({ timing: await engine.run(JSON.parse(line)) }));
  }
  Deno.exit(0);
}
