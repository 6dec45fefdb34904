import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import { trainingConformance } from "./conformance.ts";

trainingConformance({
  name: "reference",
  open: () => Promise.resolve(createReferenceTrainingBackend()),
});
