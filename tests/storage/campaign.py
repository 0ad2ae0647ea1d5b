"""Runs points in parallel, keeps what came of each in a journal, and prints one table.

A campaign that was interrupted goes on where its journal ends.
"""

import json
import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor

MODULES = ["tests.storage.kills", "tests.storage.cuts"]
SHOWN = 5


class Campaign:
    """Results by method, in memory and in a journal if there is one."""

    def __init__(self, journal=None):
        self.rows = []
        self._journal = journal
        if journal is not None and journal.exists():
            # The last line may be half of one.
            lines = journal.read_text().splitlines(keepends=True)
            self.rows = [json.loads(line) for line in lines if line.endswith("\n")]
            journal.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def count(self, method):
        """Return how many points of a method are done."""
        return sum(row["method"] == method for row in self.rows)

    def drawn(self, method, *keys):
        """Return what was drawn for the points of a method that are done."""
        return [tuple(row[key] for key in keys) for row in self.rows if row["method"] == method]

    def run(self, function, arguments, workers=2):
        """Call `function` with each of the arguments, in processes of their own.

        They are forked from one that has imported everything, so that a start costs little. The
        function returns a row, or a list of them.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        with ProcessPoolExecutor(workers, context) as pool:
            futures = [pool.submit(function, *one) for one in arguments]
            try:
                for future in futures:
                    found = future.result()
                    for row in found if isinstance(found, list) else [found]:
                        self.add(row)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def add(self, row):
        """Keep a row."""
        self.rows.append(row)
        if self._journal is not None:
            with self._journal.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def bad(self):
        """Return the rows in which something was torn or lost."""
        return [row for row in self.rows if row["torn"] or row["lost"]]

    def table(self):
        """Return the table of all rows."""
        by_method = defaultdict(list)
        for row in self.rows:
            by_method[row["method"]].append(row)
        lines = [f"{'method':<8}{'points':>8}{'torn':>6}{'lost':>6}{'worst restore':>15}"]
        for method, rows in by_method.items():
            torn = sum(bool(row["torn"]) for row in rows)
            lost = sum(bool(row["lost"]) for row in rows)
            worst_ms = 1000 * max(row["restore_s"] for row in rows)
            lines.append(f"{method:<8}{len(rows):>8}{torn:>6}{lost:>6}{worst_ms:>12.0f} ms")
        return "\n".join(lines)

    def words(self):
        """Return the first bad rows, each with what draws it again."""
        return "\n".join(json.dumps(row, indent=1) for row in self.bad()[:SHOWN])
