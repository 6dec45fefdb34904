/** The functions of @std/assert that the tests use, over node:assert/strict (see README). */
