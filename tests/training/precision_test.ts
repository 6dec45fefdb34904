import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import { precisionTests } from "./_precision_conformance.ts";

precisionTests({
  name: "reference",
  open: (storage) => Promise.resolve(createReferenceTrainingBackend({ storage })),
  storages: ["f16", "bf16"],
});
