import { assertThrows } from "@std/assert";
import { groupAdvantages } from "../../src/training/policy.ts";

Deno.test("advantages of groups that are not whole are refused", () => {
  assertThrows(
    () => groupAdvantages([1, 2, 3], { group: 2, scale: "none" }),
    RangeError,
    "cannot compute advantages: 3 rewards are given in groups of 2, must be whole groups",
  );
});
