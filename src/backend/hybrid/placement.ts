/** Where a hybrid backend's routed experts lie: plain data, made by a planner and set by tests. */

/**
 * The routed experts that lie on the device, by layer. Slot i of a layer starts with `resident[i]`; how many
 * slots a layer has stays as it is for life, which experts lie in them may change. Layers that aren't named
 * have none on the device.
 */
export interface HybridPlacement {
  readonly layers: readonly HybridLayerPlacement[];
}

/** Routed experts of one layer that lie on the device. */
export interface HybridLayerPlacement {
  /** The layer's number in the model, dense layers counted. */
  readonly layer: number;
  /** Distinct ids, one a slot. */
  readonly resident: readonly number[];
}
