/** The script of an engine's worker. */

import { openLocalEngine } from "./open_local_engine.ts";
import type { Command, MessageEndpoint, Report } from "./wire.ts";
import { serveEngine } from "./worker_host.ts";

const endpoint = globalThis as unknown as MessageEndpoint<Report, Command>;
const abandon = serveEngine(endpoint, openLocalEngine);

// Compute threads that sleep don't end with the worker that started them.
globalThis.addEventListener("error", abandon);
globalThis.addEventListener("unhandledrejection", abandon);
