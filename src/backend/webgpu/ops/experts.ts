import { UnsupportedOpError } from "../../../errors.ts";
import type { ExpertsParams } from "../../backend.ts";
import type { OpContext } from "./context.ts";

export function experts(_context: OpContext, _params: ExpertsParams): void {
  throw new UnsupportedOpError("cannot record experts: the webgpu backend has no kernel for it");
}
