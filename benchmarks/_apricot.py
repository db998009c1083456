"""Facility location by apricot-select, run by an interpreter that has it: similarities in a file,
what was chosen and processor seconds as JSON on the standard output."""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata

import numpy as np
from apricot import FacilityLocationSelection


def main() -> None:
    path, count, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    similarity = np.load(path).astype(np.float64)
    seconds = []
    for repeat in range(-1, repeats):  # the first compiles
        start = time.process_time()
        chooser = FacilityLocationSelection(count, metric="precomputed", optimizer="lazy", n_jobs=1)
        chooser.fit(similarity)
        if repeat >= 0:
            seconds.append(time.process_time() - start)
    chosen = [int(i) for i in chooser.ranking]
    version = metadata.version("apricot-select")
    print(json.dumps({"version": version, "seconds": seconds, "chosen": chosen}))


if __name__ == "__main__":
    main()
