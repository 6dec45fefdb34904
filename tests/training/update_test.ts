/** Optimiser steps and loss scaling on the reference backend, against PyTorch and timm. */

import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import { updateTests } from "./_update_conformance.ts";

updateTests({
  name: "reference",
  open: () => Promise.resolve(createReferenceTrainingBackend()),
});
