import { UnsupportedOpError } from "../../../errors.ts";
import type { GateParams } from "../../backend.ts";
import type { OpContext } from "./context.ts";

export function gate(_context: OpContext, _params: GateParams): void {
  throw new UnsupportedOpError("cannot record gate: the webgpu backend has no kernel for it");
}
