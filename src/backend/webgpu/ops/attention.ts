import { UnsupportedOpError } from "../../../errors.ts";
import type { AttentionParams, RotateAndCacheParams } from "../../backend.ts";
import type { OpContext } from "./context.ts";

export function rotateAndCache(_context: OpContext, _params: RotateAndCacheParams): void {
  throw new UnsupportedOpError(
    "cannot record rotateAndCache: the webgpu backend has no kernel for it",
  );
}

export function attention(_context: OpContext, _params: AttentionParams): void {
  throw new UnsupportedOpError("cannot record attention: the webgpu backend has no kernel for it");
}
