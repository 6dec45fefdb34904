/** Routed experts that are trained. */

import type { Experts } from "../../backend.ts";
import { foreign } from "../../op_checks.ts";
import type { WasmExperts } from "../memory.ts";
import type { WasmParameter } from "./parameters.ts";

export type ExpertPart = "gate" | "up" | "down";

export interface WasmTrainedExperts extends WasmExperts {
  readonly parameters: Readonly<Record<ExpertPart, WasmParameter>>;
}

export function expertsOf(experts: Experts): WasmTrainedExperts {
  if ("parameters" in experts) return experts as WasmTrainedExperts;
  throw foreign("layer's experts");
}
