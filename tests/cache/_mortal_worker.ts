/** The store's worker, mortal. */

import "./_mortality.ts";
import "../../src/cache/worker.ts";
