/** The driver's side of the conversation, for drivers that run in Deno. */

import { linesOf } from "../../cli/lines.ts";
import { MARK, type Ready, type Request, type Timing } from "../wire.ts";

/** What a driver makes of its engine. */
export interface DrivenEngine {
  readonly version: string;
  run(request: Request): Promise<Timing>;
}

/** Opens the engine, says how long that took, and answers requests until the input ends. */
export function serveDriver(open: () => Promise<DrivenEngine>): Promise<never> {
  return converse(open, async (engine, request: Request) => ({
    timing: await engine.run(request),
  }));
}

/** The same of any engine: `answer` makes of each request what is printed. */
export async function converse<E extends { readonly version: string }, R>(
  open: () => Promise<E>,
  answer: (engine: E, request: R) => Promise<Readonly<Record<string, unknown>>>,
): Promise<never> {
  const start = performance.now();
  const engine = await open();
  const ready: Ready = {
    loadSeconds: (performance.now() - start) / 1000,
    version: engine.version,
  };
  console.log(MARK + JSON.stringify({ ready }));
  for await (const line of linesOf(Deno.stdin.readable)) {
    console.log(MARK + JSON.stringify(await answer(engine, JSON.parse(line))));
  }
  Deno.exit(0);
}
