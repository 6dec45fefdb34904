import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { exactGoldenTests } from "./golden_suite.ts";

exactGoldenTests({
  name: "reference",
  open: () => Promise.resolve(createReferenceBackend()),
  // It computes row by row and slowly: one awkward size says what all would.
  chunks: [7],
});
