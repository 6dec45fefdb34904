import { UnsupportedOpError } from "../../../errors.ts";
import type { LatentAttentionParams, RotateAndCacheLatentParams } from "../../backend.ts";
import type { OpContext } from "./context.ts";

export function rotateAndCacheLatent(
  _context: OpContext,
  _params: RotateAndCacheLatentParams,
): void {
  throw new UnsupportedOpError(
    "cannot record rotateAndCacheLatent: the webgpu backend has no kernel for it",
  );
}

export function latentAttention(_context: OpContext, _params: LatentAttentionParams): void {
  throw new UnsupportedOpError(
    "cannot record latentAttention: the webgpu backend has no kernel for it",
  );
}
