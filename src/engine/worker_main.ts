/** The script of an engine's worker. */

import { openLocalEngine } from "./open_local_engine.ts";
import type { Command, MessageEndpoint, Report } from "./wire.ts";
import { serveEngine } from "./worker_host.ts";

serveEngine(globalThis as unknown as MessageEndpoint<Report, Command>, openLocalEngine);
